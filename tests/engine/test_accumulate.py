"""Deltas summed in float64 on request, and rounded once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltakit.engine import Limits, make_plan
from deltakit.engine.rounding import cast
from deltakit.errors import BadValue
from tests.engine.merging import merged, plan, weights, write_models
from tests.models import write_model

STEPS = {torch.bfloat16: 2.0**7, torch.float16: 2.0**10}  # numbers between 1 and 2


@pytest.mark.parametrize("dtype", STEPS, ids=str)
@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(-1, 1), st.integers(12, 52)), min_size=1))
@settings(max_examples=200)
def test_float64_is_rounded_to_half_precision_as_if_in_one_step(dtype, near):
    steps = STEPS[dtype]
    halves = [1 + (2 * n + 1) % (2 * steps) / (2 * steps) + f * 2.0**-e for n, f, e in near]
    exact = np.array(halves)
    exact = np.concatenate([exact, -exact])
    out = torch.empty(len(exact), dtype=dtype)
    cast(torch.from_numpy(exact), out)
    assert out.double().tolist() == (np.rint(exact * steps) / steps).tolist()


def test_a_number_just_above_the_middle_is_rounded_up_and_odd_values_stay():
    values = [1 + 2**-8 + 2**-40, 1 + 2**-8, 0.0, -0.0, torch.inf, 1e300, torch.nan]
    out = torch.empty(7, dtype=torch.bfloat16)
    cast(torch.tensor(values, dtype=torch.float64), out)
    assert out[:6].tolist() == [1.0078125, 1.0, 0.0, -0.0, torch.inf, torch.inf]
    assert bool(out[3].signbit())
    assert bool(out[6].isnan())


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Deltas of which float32 loses one: 2^25, 1 and -2^25."""
    write_model(tmp_path / "base", {"w": torch.zeros(9), "b": torch.zeros(1)})
    for task, value in zip("abc", (2.0**25, 1.0, -(2.0**25)), strict=True):
        write_model(tmp_path / task, {"w": torch.full((9,), value), "b": torch.ones(1)})
    return tmp_path


def test_float64_keeps_what_float32_cancels(models: Path):
    assert weights(merged(models, "task_arithmetic"))["w"].tolist() == [0.0] * 9
    wide = merged(models, "task_arithmetic", accumulate="F64")
    assert weights(wide)["w"].dtype == torch.float32
    assert weights(wide)["w"].tolist() == [1.0] * 9


@pytest.mark.parametrize("strategy", ["average", "ties", "sotu", "dare_ties", "slerp", "tsv"])
def test_both_agree_to_float32_and_no_limit_changes_the_wide_ones_bytes(tmp_path, strategy: str):
    write_models(tmp_path)
    tasks = ("a", "b") if strategy == "slerp" else ("a", "b", "c")
    narrow = weights(merged(tmp_path, strategy, tasks=tasks, dtype="F32"))
    wide = weights(merged(tmp_path, strategy, tasks=tasks, dtype="F32", accumulate="F64"))
    again = merged(tmp_path, strategy, Limits(1, 64), tasks=tasks, dtype="F32", accumulate="F64")
    for name, tensor in weights(again).items():
        assert torch.equal(tensor, wide[name])
        if tensor.is_floating_point():
            assert torch.allclose(tensor, narrow[name], rtol=1e-4, atol=1e-5)


def test_another_dtype_and_a_running_state_are_refused(models: Path):
    with pytest.raises(BadValue, match="float32 or in float64"):
        plan(models, "average", accumulate="BF16")
    made = plan(models, "average", accumulate="F64")
    with pytest.raises(BadValue, match="running state"):
        make_plan(made.recipe, made.base, made.experts, keep_state=True)
