"""A trimmed parameter merged in one pass is what it is merged block by block, or left to that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from deltakit import kernels
from deltakit.apart import Apart
from deltakit.engine import Limits, execute
from deltakit.engine.at_once import AtOnce
from deltakit.engine.limits import MOST_AT_ONCE
from deltakit.errors import NonFinite
from deltakit.kernels import Found
from tests.engine.merging import TASKS, merged, plan, write_models
from tests.kernels import without_kernels, without_loops_by_hand
from tests.models import write_model

pytestmark = pytest.mark.skipif(kernels.compiled is None, reason="no kernels were built")

COUNT = 300_001  # no whole number of runs
BY_BLOCKS = Limits(2, 1 << 16)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each parameter that was to be merged at once was."""
    found: list[bool] = []
    original = AtOnce.add_and_round

    def watched(*args: Any) -> Found | None:
        result = original(*args)
        found.append(result is not None)
        return result

    monkeypatch.setattr(AtOnce, "add_and_round", watched)
    return found


def random(seed: int = 0, count: int = COUNT) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def write(folder: Path, base: torch.Tensor, *tuned: torch.Tensor) -> None:
    """Write a model of one parameter, and a fine-tune of it for each of the tasks."""
    write_model(folder / "base", {"w": base})
    for task, tensor in zip(TASKS, tuned, strict=True):
        write_model(folder / task, {"w": tensor})


def tuned(base: torch.Tensor, dtype: torch.dtype | None = None) -> list[torch.Tensor]:
    """Return three fine-tunes that differ from the base in half of the entries."""
    moved = [0.05 * random(seed) * (random(seed + 9) > 0) for seed in (1, 2, 3)]
    return [(base.float() + each.reshape(base.shape)).to(dtype or base.dtype) for each in moved]


def the_bytes(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


SETTINGS: list[dict[str, Any]] = [
    {},
    {"settings": {"density": 0.01}},
    {"settings": {"elect": "count"}, "scale": 0.3},
    {"settings": {"divide": "count"}, "weights": [0.5, 1.0, 2.0]},
    {"settings": {"combine": "sum"}, "weights": [0.5, 1.0, 2.0], "dtype": "F32"},
]


@pytest.mark.parametrize("recipe", SETTINGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_bytes_are_those_of_blocks(dtype, recipe, tmp_path, done):
    base = (0.02 * random()).to(dtype)
    write(tmp_path, base, *tuned(base))
    expected = the_bytes(merged(tmp_path, "ties", BY_BLOCKS, **recipe))
    assert not done
    assert the_bytes(merged(tmp_path, "ties", Limits(2), **recipe)) == expected
    with without_loops_by_hand():
        assert the_bytes(merged(tmp_path, "ties", Limits(1), **recipe)) == expected
    assert done == [True, True]
    with without_kernels():
        assert the_bytes(merged(tmp_path, "ties", Limits(1), **recipe)) == expected


def test_experts_of_another_dtype_than_the_base_give_the_bytes_of_blocks(tmp_path, done):
    base = (0.02 * random()).to(torch.bfloat16)
    first, second, third = tuned(base, torch.float32)
    write(tmp_path, base, first, second.half(), third.bfloat16())
    expected = the_bytes(merged(tmp_path, "ties", BY_BLOCKS))
    assert the_bytes(merged(tmp_path, "ties")) == expected
    assert done == [True]


def test_among_many_equals_at_the_cut_the_first_stay_as_they_do_by_blocks(tmp_path, done):
    base, step = torch.zeros(COUNT), 2.0**-5
    write(tmp_path, base, *((random(seed) / step).round() * step for seed in (1, 2, 3)))
    expected = the_bytes(merged(tmp_path, "ties", BY_BLOCKS))
    assert the_bytes(merged(tmp_path, "ties")) == expected
    assert done == [True]


def few_values(base: torch.Tensor) -> list[torch.Tensor]:
    return [base + random(seed).round() for seed in (1, 2, 3)]


def hardly_changed(base: torch.Tensor) -> list[torch.Tensor]:
    return [base + random(seed) * (random(seed + 9) > 2) for seed in (1, 2, 3)]


def sampled() -> torch.Tensor:
    """Return which entries the sample is taken of."""
    found, length = torch.zeros(COUNT, dtype=torch.bool), int(8 * COUNT ** (2 / 3)) // 32
    for place in range(32):
        start = place * COUNT // 32
        found[start : start + length] = True
    return found


def smaller_where_the_sample_looks(base: torch.Tensor) -> list[torch.Tensor]:
    return [base + random(seed).where(~sampled(), 1e-3 * random(seed)) for seed in (1, 2, 3)]


def larger_where_the_sample_looks(base: torch.Tensor) -> list[torch.Tensor]:
    return [base + random(seed).where(~sampled(), 1e3 * random(seed)) for seed in (1, 2, 3)]


def level_where_the_sample_does_not_look(base: torch.Tensor) -> list[torch.Tensor]:
    at_the_cut = torch.full((COUNT,), 1.2816)  # a fifth of normal numbers is larger
    return [base + random(seed).where(sampled(), at_the_cut) for seed in (1, 2, 3)]


MISLED = [
    smaller_where_the_sample_looks,
    larger_where_the_sample_looks,
    level_where_the_sample_does_not_look,
]


@pytest.mark.parametrize("tune", MISLED)
def test_where_the_sample_misled_it_is_merged_by_blocks(tune, tmp_path, done):
    base = torch.zeros(COUNT)
    write(tmp_path, base, *tune(base))
    expected = the_bytes(merged(tmp_path, "ties", BY_BLOCKS))
    assert the_bytes(merged(tmp_path, "ties")) == expected
    assert done == [False]


@pytest.mark.parametrize(
    ("tune", "density"), [(few_values, 0.2), (hardly_changed, 0.2), (tuned, 1e-4)]
)
def test_what_a_sample_cannot_tell_is_merged_by_blocks_and_not_read_for_nothing(
    tune, density, tmp_path, done, monkeypatch
):
    base, settings = torch.zeros(COUNT), {"density": density}
    write(tmp_path, base, *tune(base))
    expected = the_bytes(merged(tmp_path, "ties", BY_BLOCKS, settings=settings))
    made = plan(tmp_path, "ties", settings=settings)
    monkeypatch.delattr(Apart, "given")
    execute(made, tmp_path / "out")
    assert the_bytes(tmp_path / "out") == expected
    assert done == [False]


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_as_it_is_by_blocks(odd, tmp_path, done):
    base = 0.02 * random()
    models = tuned(base)
    models[1][234_567] = odd
    write(tmp_path, base, *models)
    for limits in (BY_BLOCKS, Limits(2)):
        with pytest.raises(NonFinite, match=r"task 'b' holds NaN or infinity[\s\S]*234567"):
            merged(tmp_path, "ties", limits)
    assert done == [False]
    made = plan(tmp_path, "ties"), plan(tmp_path, "ties", BY_BLOCKS)
    for number, each in enumerate(made):
        execute(each, tmp_path / f"odd-{number}", allow_nonfinite=True)
    assert the_bytes(tmp_path / "odd-0") == the_bytes(tmp_path / "odd-1")


def test_the_report_is_that_of_blocks(tmp_path, done):
    base = (0.02 * random()).to(torch.bfloat16)
    write(tmp_path, base, *tuned(base))
    by_blocks = execute(plan(tmp_path, "ties", BY_BLOCKS), tmp_path / "by blocks")
    at_once = execute(plan(tmp_path, "ties"), tmp_path / "at once")
    assert done == [True]
    assert at_once.task_norms == pytest.approx(by_blocks.task_norms, rel=1e-6)
    assert at_once.merged_norm == pytest.approx(by_blocks.merged_norm, rel=1e-6)
    assert (at_once.changed, at_once.copied) == (by_blocks.changed, by_blocks.copied) == (1, 0)


@pytest.mark.parametrize(
    ("strategy", "recipe"),
    [
        ("average", {}),
        ("ties", {"settings": {"density": 1.0}}),
        ("ties", {"settings": {"scope": "global"}}),
        ("ties", {"accumulate": "F64"}),
    ],
)
def test_only_what_is_trimmed_tensor_by_tensor_is_merged_at_once(strategy, recipe, tmp_path, done):
    base = 0.02 * random()
    write(tmp_path, base, *tuned(base))
    made = plan(tmp_path, strategy, **recipe)
    assert made.scratch.at_once == 0
    execute(made, tmp_path / "out")
    assert not done


def test_what_is_merged_at_once_fits_the_memory_and_grows_with_it(tmp_path):
    base = {name: (0.02 * random(0, n)).half() for name, n in (("u", 1 << 18), ("w", 3 << 18))}
    write_models(tmp_path, tensors=base)
    assert plan(tmp_path, "ties", Limits(2)).scratch.whole <= MOST_AT_ONCE
    both = plan(tmp_path, "ties", Limits(2)).scratch
    assert both.at_once == 3 << 18
    one = plan(tmp_path, "ties", Limits(2, memory=both.nbytes - 1)).scratch
    assert one.at_once == 1 << 18
    assert one.nbytes < both.nbytes
    by_blocks = replace(one, at_once=0, whole=0).nbytes
    assert plan(tmp_path, "ties", Limits(2, memory=by_blocks)).scratch.at_once == 0
