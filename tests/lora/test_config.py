"""adapter_config.json: what it means, what is refused, and the bytes PEFT writes."""

import json

import pytest
from peft import LoraConfig

from deltakit.errors import BadFile
from deltakit.lora.config import AdapterConfig, config_bytes
from deltakit.lora.known_fields import DEFAULTS


def config(**fields):
    return AdapterConfig.of({"peft_type": "LORA", **fields})


def test_scaling_is_alpha_over_r_and_over_its_root_with_rslora():
    assert config(r=4, lora_alpha=6).scaling("x") == 1.5
    assert config(r=4, lora_alpha=6, use_rslora=True).scaling("x") == 3.0


def test_the_first_pattern_that_matches_counts_and_scaling_uses_both():
    found = config(
        r=8,
        lora_alpha=8,
        rank_pattern={"layers.0.q": 2, "q": 4},
        alpha_pattern={r"layers\.\d+\.q": 6},
    )
    assert [found.rank(m) for m in ("m.layers.0.q", "m.layers.1.q", "m.xq", "k")] == [2, 4, 8, 8]
    assert found.scaling("m.layers.0.q") == 3.0
    assert found.scaling("q") == 2.0


def test_a_pattern_matches_whole_parts_of_a_name_only():
    assert config(r=8, rank_pattern={"layers.1.q": 2}).rank("layers.11.q") == 8


REFUSED = {
    "alora_invocation_tokens": [1, 2],
    "arrow_config": {"top_k": 3},
    "layer_replication": [[0, 4]],
    "loftq_config": {"loftq_bits": 4},
    "megatron_config": {"x": 1},
    "target_parameters": ["experts.gate"],
    "use_bdlora": {"nblocks": 2},
    "use_qalora": True,
    "velora_config": {"scale": 1.0},
    "field_of_next_year": 3,
}


@pytest.mark.parametrize(("name", "value"), REFUSED.items())
def test_what_is_not_supported_is_refused_by_name(name, value):
    with pytest.raises(BadFile, match=name):
        config(**{name: value})


@pytest.mark.parametrize("value", [None, False, {}, []])
def test_an_unknown_field_that_says_nothing_is_let_through(value):
    config(field_of_next_year=value)


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga"])
def test_an_init_that_changed_the_base_is_refused(init):
    with pytest.raises(BadFile, match="changed the base model"):
        config(init_lora_weights=init)


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal", "mica"])
def test_an_init_that_left_the_base_is_taken(init):
    config(init_lora_weights=init)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"peft_type": "LOHA"}, "not a LoRA"),
        ({"r": 0}, "not above 0"),
        ({"r": "four"}, "impossible value"),
        ({"rank_pattern": {"(": 2}}, "no regular expression"),
        ({"bias": "some"}, "unknown bias"),
        ({"lora_alpha": float("inf")}, "not a finite number"),
    ],
)
def test_impossible_fields_are_refused(fields, words):
    with pytest.raises(BadFile, match=words):
        config(**fields)


def test_the_config_is_written_as_peft_writes_it(tmp_path):
    LoraConfig(r=4, lora_alpha=4, target_modules=["q"], inference_mode=True).save_pretrained(
        tmp_path
    )
    theirs = (tmp_path / "adapter_config.json").read_bytes()
    version = json.loads(theirs)["peft_version"]
    fields = {"r": 4, "lora_alpha": 4, "target_modules": ["q"], "peft_version": version}
    assert config_bytes(fields) == theirs
    assert set(json.loads(theirs)) - {"peft_version"} == set(DEFAULTS)
