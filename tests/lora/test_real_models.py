"""The identities on adapters trained on real small models, for every row and every mode."""

import dataclasses
from pathlib import Path

import pytest

from deltakit.errors import BadValue
from deltakit.lora import open_adapter
from deltakit.lora.cut import Size
from deltakit.lora.lint import lint
from deltakit.lora.merge import merge_adapters
from deltakit.members import open_members
from deltakit.merging import merge
from tests.lora.real_models import (
    CASES,
    MODELS,
    baked,
    base_of,
    folded,
    loaded,
    run,
    train,
)
from tests.lora.test_identity import MODES, rank_map

pytestmark = pytest.mark.slow

FOR_VLLM = ("plain", "bfloat16", "rslora", "rank_pattern", "alpha_pattern", "both_patterns")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder with adapters a and b of a kind, trained when they are first asked for."""
    root = tmp_path_factory.mktemp("trained")

    def make(name: str, kind: str) -> Path:
        folder = root / name / kind
        if not folder.exists():
            for seed, adapter in enumerate("ab"):
                train(name, kind, folder / adapter, seed)
        return folder

    return make


def members(folder, *weights):
    return open_members([str(folder / name) for name in "ab"], weights)


def tolerance(wanted):
    return 1e-5 * max(1.0, float(wanted.abs().max()))


def assert_same(found, wanted, what=""):
    assert float((found - wanted).abs().max()) <= tolerance(wanted), what


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_weights_one_and_zero_give_the_first_adapter_in_every_mode(made, name, kind, tmp_path):
    folder = made(name, kind)
    wanted = run(loaded(name, folder / "a"))
    assert float((wanted - run(loaded(name))).abs().max()) > 30 * tolerance(wanted)
    for mode, settings in MODES.items():
        both, out = members(folder, 1.0, 0.0), tmp_path / mode
        if mode == "klf":
            both = [dataclasses.replace(m, importance=rank_map(m, tmp_path)) for m in both]
        if kind == "dora" and mode not in ("cat", "svd"):
            with pytest.raises(BadValue, match="not a low-rank delta"):
                merge_adapters(both, mode, out, settings=settings)
            continue
        uniform = kind in FOR_VLLM  # as servers want it, and no less exact
        options = {"size": Size(uniform=uniform), "dtype": "float32"}
        merge_adapters(both, mode, out, settings=settings, **options)
        assert_same(run(loaded(name, out)), wanted, mode)
        if uniform:
            assert not lint(open_adapter(out), "vllm"), mode


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_baked_model_does_what_base_and_adapter_do(made, name, kind, tmp_path):
    folder, base = made(name, kind), str(base_of(name))
    through = folded if kind == "embedding" else loaded  # a tied head follows its embeddings
    merge([f"{folder}/a"], "task_arithmetic", tmp_path / "a", base=base)
    assert_same(run(baked(name, tmp_path / "a")), run(through(name, folder / "a")))
    if kind == "dora":  # its merge is refused
        return
    merge_adapters(members(folder, 0.75, 0.25), "cat", tmp_path / "both", dtype="float32")
    both = [f"{folder}/a", f"{folder}/b"]
    merge(both, "task_arithmetic", tmp_path / "m", base=base, weights=[0.75, 0.25])
    wanted = run(baked(name, tmp_path / "m"))
    assert_same(run(through(name, tmp_path / "both")), wanted)


# Modes that make the weighted sum, or what `merge` makes of the deltas, given all ranks.
SUMS = {
    "cat": {},
    "svd": {},
    "core_space": {"strategy": "task_arithmetic"},
    "knots": {"strategy": "task_arithmetic"},
}
STRATEGIES = {"ties": {"density": 0.5}, "dare": {"p": 0.5}, "sotu": {}, "della": {}}
MIXED = {"bfloat16": 0.25, "rslora": 0.5, "both_patterns": 0.25}


@pytest.mark.parametrize("name", [name for name in MODELS if name != "SmolLM2"])
def test_ranks_scalings_and_dtypes_mix_in_every_mode_in_any_order(made, name, tmp_path):
    paths = [f"{kind}={made(name, kind) / 'ab'[n % 2]}" for n, kind in enumerate(MIXED)]
    weights, base = list(MIXED.values()), str(base_of(name))

    def in_the_base(strategy, settings):
        out = tmp_path / f"baked-{strategy}"
        merge(paths, strategy, out, base=base, weights=weights, settings=settings)
        return run(baked(name, out))

    exact = in_the_base("task_arithmetic", {})
    for mode, settings in (SUMS | STRATEGIES).items():
        wanted = exact if mode in SUMS else in_the_base(mode, settings)
        size = Size(rank=24) if mode in SUMS else Size(rank=1000)
        out = tmp_path / mode
        options = {"settings": settings, "size": size, "dtype": "float32", "overwrite": True}
        merge_adapters(open_members(paths, weights), mode, out, **options)
        assert_same(run(loaded(name, out)), wanted, mode)
        if mode in SUMS:
            before = open_adapter(out).source.digests()
            merge_adapters(open_members(paths, weights)[::-1], mode, out, **options)
            assert open_adapter(out).source.digests() == before, mode
