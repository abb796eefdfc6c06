"""The identities that a merge of adapters must keep, judged by PEFT-loaded and baked models."""

import dataclasses
import functools
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deltakit.errors import BadValue
from deltakit.importance import ImportanceMap
from deltakit.lora import open_adapter
from deltakit.lora.merge import merge_adapters
from deltakit.lora.union import Member
from deltakit.merging import merge
from deltakit.tensors.checkpoint import Checkpoint
from tests.lora.adapters import DORA, KINDS, output, write_adapter, write_base

CLOSE = {"rtol": 0.0, "atol": 1e-5}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Base and adapters a, b of a kind, made when they are first asked for."""
    root = tmp_path_factory.mktemp("kinds")

    def make(kind: str) -> Path:
        folder = root / kind
        if not folder.exists():
            model, config = KINDS[kind]
            base = write_base(folder / "base", model)
            for seed, name in enumerate("ab", 1):
                write_adapter(folder / name, base, seed, **config)
        return folder

    return make


def members(folder, *weights):
    pairs = zip("ab", weights, strict=False)
    return [Member(name, open_adapter(folder / name), weight) for name, weight in pairs]


@pytest.mark.parametrize("kind", KINDS)
def test_a_baked_model_does_what_base_and_adapter_do(made, kind, tmp_path):
    folder = made(kind)
    merge([f"{folder}/a"], "task_arithmetic", tmp_path / "baked", base=str(folder / "base"))
    wanted = output(folder / "base", folder / "a")
    assert (output(folder / "base") - wanted).abs().max() > 1e-3
    torch.testing.assert_close(output(tmp_path / "baked"), wanted, **CLOSE)


# Every mode, and what makes it the identity on a lone adapter where it thins by default.
MODES = {
    "cat": {},
    "svd": {},
    "linear": {},
    "ties": {"density": 1.0},
    "dare": {"p": 0.0},
    "sotu": {},
    "della": {"density": 1.0, "eps": 0.0},
    "core_space": {"density": 1.0},
    "knots": {"density": 1.0},
    "klf": {},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_weights_one_and_zero_give_the_first_adapter(made, kind, mode, tmp_path):
    folder = made(kind)
    both = members(folder, 1.0, 0.0)
    if kind in DORA and mode not in ("cat", "svd"):
        with pytest.raises(BadValue, match="not a low-rank delta"):
            merge_adapters(both, mode, tmp_path / "merged", settings=MODES[mode])
        return
    if mode == "klf":
        both = [dataclasses.replace(m, importance=rank_map(m, tmp_path)) for m in both]
    merge_adapters(both, mode, tmp_path / "merged", settings=MODES[mode])
    torch.testing.assert_close(output(folder / "base", tmp_path / "merged"), first(folder), **CLOSE)


@functools.cache
def first(folder):
    """What the base does with adapter a."""
    return output(folder / "base", folder / "a")


def rank_map(member, folder):
    """Write scores of the adapter's ranks, all alike."""
    parts = member.adapter.parts.items()
    scores = {module: torch.ones(part.rank) for module, part in parts}
    path = folder / f"{member.name}.safetensors"
    ImportanceMap(scores, task=member.name, units="rank").save(path)
    return path


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in DORA])
def test_one_merged_adapter_does_what_both_baked_at_once_do(made, kind, tmp_path):
    folder = made(kind)
    merge_adapters(members(folder, 0.75, 0.25), "cat", tmp_path / "merged")
    both = [f"{folder}/a", f"{folder}/b"]
    base = str(folder / "base")
    merge(both, "task_arithmetic", tmp_path / "both", base=base, weights=[0.75, 0.25])
    wanted = output(tmp_path / "both")
    torch.testing.assert_close(output(folder / "base", tmp_path / "merged"), wanted, **CLOSE)
    merge([str(tmp_path / "merged")], "task_arithmetic", tmp_path / "baked", base=base)
    torch.testing.assert_close(output(tmp_path / "baked"), wanted, **CLOSE)


@pytest.mark.parametrize("kind", ["patterns", "head", "rows_of_two", "lora_bias"])
def test_the_order_of_adapters_changes_no_byte(made, kind, tmp_path):
    folder = made(kind)
    both = members(folder, 0.75, 0.25)
    found = []
    for number, order in enumerate((both, both[::-1])):
        merge_adapters(order, "svd", tmp_path / f"{number}")
        adapter = open_adapter(tmp_path / f"{number}")
        found.append(adapter.source.digests())
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", DORA)
def test_dora_is_refused_where_it_cannot_be_exact(made, kind, tmp_path):
    with pytest.raises(BadValue, match="not a low-rank delta"):
        merge_adapters(members(made(kind), 0.5, 0.5), "cat", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_tied_embeddings_stay_one_tensor(made, tmp_path):
    folder = made("tied")
    base = str(folder / "base")
    write_adapter(tmp_path / "e", folder / "base", 3, r=2, target_modules=["embed_tokens"])
    report = merge([f"{tmp_path}/e"], "task_arithmetic", tmp_path / "baked", base=base)
    assert any("head is tied" in note for note in report.notes)
    names = Checkpoint.open(tmp_path / "baked").infos
    assert "lm_head.weight" not in names


def test_a_whole_embedding_that_the_head_is_tied_to_is_told_of(made, tmp_path):
    base = made("tied") / "base"
    write_adapter(
        tmp_path / "e", base, 3, target_modules=["q_proj"], modules_to_save=["embed_tokens"]
    )
    report = merge([f"{tmp_path}/e"], "task_arithmetic", tmp_path / "baked", base=str(base))
    assert any("head is tied to model.embed_tokens.weight" in note for note in report.notes)


def test_a_head_adapted_otherwise_than_its_embedding_is_refused_on_a_tied_base(made, tmp_path):
    folder = made("tied_embedding")
    shutil.copytree(folder / "a", tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.lm_head.lora_B.weight"] *= 1.1
    save_file(tensors, file)
    with pytest.raises(BadValue, match="ties to its embeddings"):
        merge([f"{tmp_path}/a"], "task_arithmetic", tmp_path / "m", base=str(folder / "base"))


def test_a_head_of_its_own_is_refused_on_a_tied_base(made, tmp_path):
    folder = made("tied")
    write_adapter(tmp_path / "h", folder / "base", 3, r=2, target_modules=["q_proj", "lm_head"])
    with pytest.raises(BadValue, match="ties to its embeddings"):
        merge([f"{tmp_path}/h"], "task_arithmetic", tmp_path / "m", base=str(folder / "base"))


def test_three_adapters_baked_at_once_are_rounded_once(made, tmp_path):
    folder = made("plain")
    base = write_base(tmp_path / "bf16", lambda: KINDS["plain"][0]().to(torch.bfloat16))
    third = write_adapter(tmp_path / "c", folder / "base", 3, **KINDS["plain"][1])
    paths = [folder / "a", folder / "b", third]
    weights = [0.5, 0.3, 0.2]
    merge(
        [str(p) for p in paths], "task_arithmetic", tmp_path / "m", base=str(base), weights=weights
    )
    before, after = Checkpoint.open(base), Checkpoint.open(tmp_path / "m")
    for module in open_adapter(third).parts:
        name = f"{module}.weight"
        exact = before[name].double()
        for path, weight in zip(paths, weights, strict=True):
            a, b = open_adapter(path).factors(module)
            exact += weight * (b.double() @ a.double())
        half = 2.0 ** (torch.frexp(exact).exponent - 9)  # of a unit
        assert bool(((after[name].double() - exact).abs() <= half + 1e-6).all())
