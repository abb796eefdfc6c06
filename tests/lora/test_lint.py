"""What other programs will not take of an adapter."""

import pytest
import torch

from deltakit.errors import UnknownName
from deltakit.lora import open_adapter
from deltakit.lora.cut import Size
from deltakit.lora.lint import lint
from deltakit.lora.merge import merge_adapters
from deltakit.lora.union import Member
from tests.lora.folders import factors, write_folder

PAIR = factors("q", 1)
TOLD = {"lora_alpha": 2, "target_modules": ["q"]}


def found(tmp_path, program, tensors=PAIR, **config):
    given = {"r": 2, **TOLD, **config}
    adapter = open_adapter(write_folder(tmp_path / "a", tensors, **given))
    return {finding.fact: finding.level for finding in lint(adapter, program)}


def test_a_plain_adapter_suits_all(tmp_path):
    for program in ("peft", "vllm", "kohya"):
        assert found(tmp_path / program, program) == {}


EMBEDDING = {
    "embed_tokens.lora_embedding_A": torch.ones(2, 7),
    "embed_tokens.lora_embedding_B": torch.ones(3, 2),
}
ROWS = {"e.token_adapter.trainable_tokens_delta": torch.ones(1, 3)}
CASES = [
    ("vllm", factors("q", 1, rank=17), {"r": 17}, "rank 17", "error"),
    ("vllm", PAIR, {"use_rslora": True}, "use_rslora", "warning"),
    ("vllm", PAIR, {"target_modules": "all-linear"}, "no list", "warning"),
    ("vllm", {**PAIR, "q.lora_B.bias": torch.ones(6)}, {"lora_bias": True}, "lora_bias", "error"),
    (
        "vllm",
        {**PAIR, "q.lora_magnitude_vector": torch.ones(6)},
        {"use_dora": True},
        "DoRA",
        "error",
    ),
    ("vllm", {**PAIR, "head.weight": torch.ones(2, 2)}, {}, "kept whole", "error"),
    (
        "vllm",
        PAIR | factors("k", 2, rank=3),
        {"rank_pattern": {"k": 3}},
        "only its newest versions",
        "error",
    ),
    (
        "vllm",
        PAIR | factors("k", 2, rank=3),
        {"rank_pattern": {"k": 3}, "lora_alpha": 2, "alpha_pattern": {"k": 3}},
        "only its newest versions",
        "warning",
    ),
    ("vllm", PAIR, {"modules_to_save": ["lm_head"]}, "kept whole: lm_head", "error"),
    ("vllm", PAIR, {"r": 32, "rank_pattern": {"q": 2}}, "rank 32", "error"),
    ("vllm", PAIR, {"rank_pattern": {"nowhere": 24}}, "rank 24", "error"),
    (
        "vllm",
        {"c.lora_A.weight": torch.ones(2, 3, 3, 3), "c.lora_B.weight": torch.ones(4, 2, 1, 1)},
        {},
        "convolutions",
        "error",
    ),
    ("vllm", EMBEDDING, {}, "adapters of embeddings", "warning"),
    (
        "vllm",
        {**EMBEDDING, "embed_tokens.base_layer.weight": torch.ones(7, 3)},
        {},
        "passes over",
        "warning",
    ),
    ("vllm", {**PAIR, **ROWS}, {"trainable_token_indices": [1]}, "trained rows", "error"),
    ("vllm", {**PAIR, "q.base_layer.bias": torch.ones(6)}, {"bias": "all"}, "bias 'all'", "error"),
    ("kohya", EMBEDDING, {}, "embeddings", "error"),
    ("kohya", {**PAIR, "head.weight": torch.ones(2, 2)}, {}, "kept whole", "error"),
    ("kohya", factors("a.b", 1) | factors("a_b", 2), {}, "one name", "error"),
    ("peft", PAIR | factors("k", 2, dtype=torch.bfloat16), {}, "several dtypes", "warning"),
]


@pytest.mark.parametrize(("program", "tensors", "config", "words", "level"), CASES)
def test_what_a_program_will_not_take_is_told(tmp_path, program, tensors, config, words, level):
    facts = found(tmp_path, program, tensors, **config)
    assert [told for fact, told in facts.items() if words in fact] == [level], facts


@pytest.mark.parametrize(("rank", "told"), [(17, "--max-lora-rank 32"), (260, "320"), (513, None)])
def test_the_rank_to_start_a_server_with_is_one_that_it_takes(tmp_path, rank, told):
    folder = write_folder(tmp_path / "a", factors("q", 1, rank), r=rank, **TOLD)
    (finding,) = lint(open_adapter(folder), "vllm")
    assert "deltakit lora resize" in finding.remedy
    assert told in finding.remedy if told else "--max-lora-rank" not in finding.remedy


def test_a_config_that_a_server_cannot_read_is_told(tmp_path):
    folder = write_folder(tmp_path / "a", factors("q", 1, 8))
    facts = [finding.fact for finding in lint(open_adapter(folder), "vllm")]
    assert "its config lacks lora_alpha, r, target_modules" in facts


def test_a_classifier_kept_whole_is_taken_by_new_versions_of_vllm(tmp_path):
    told = found(tmp_path, "vllm", {**PAIR, "score.weight": torch.ones(2, 2)})
    assert list(told.values()) == ["warning"]
    assert "only its newest versions read" in next(iter(told))


@pytest.mark.parametrize("size", [Size(rank=3), Size(energy=0.9, uniform=True)])
def test_a_uniform_merge_passes_for_vllm(tmp_path, size):
    first = factors("q", 1) | factors("k", 2, rank=3)
    write_folder(tmp_path / "a", first, r=2, rank_pattern={"k": 3}, use_rslora=True)
    write_folder(tmp_path / "b", factors("q", 3, dtype=torch.bfloat16), r=2)
    both = [Member(name, open_adapter(tmp_path / name)) for name in "ab"]
    report = merge_adapters(both, "svd", tmp_path / "m", size=size)
    assert len(report.ranks) == 1
    assert lint(open_adapter(tmp_path / "m"), "vllm") == []


def test_an_unknown_program_is_refused(tmp_path):
    with pytest.raises(UnknownName, match="peft, vllm, kohya"):
        found(tmp_path, "emacs")
