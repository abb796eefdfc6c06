"""A merge's numbers, and that nothing but the recipe and the inputs decides them."""

import json
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from deltakit import strategies
from deltakit.diff import write_add
from deltakit.engine import Limits, execute, make_plan
from deltakit.errors import BadValue, InputChanged, NonFinite
from deltakit.experts import reopen
from deltakit.recipe import Recipe, Task
from deltakit.rng import Draws
from deltakit.tensors.checkpoint import Checkpoint
from tests.engine.merging import TASKS, merged, plan, tune, weights, write_models
from tests.kernels import without_kernels
from tests.models import some_tensors, write_model

DATA_FREE = [name for name in strategies.names() if not strategies.find(name).needs_importance]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    return folder


def floats(tensors):
    return {n: t.float().numpy() for n, t in tensors.items() if t.is_floating_point()}


def deltas(folder, name):
    base = floats(weights(folder / "base"))[name]
    return np.stack([floats(weights(folder / task))[name] - base for task in TASKS])


def rounded(folder, name, merged_delta):
    base = weights(folder / "base")[name]
    total = base.float() + torch.from_numpy(np.asarray(merged_delta, dtype=np.float32))
    return total.to(base.dtype)


def naive_ties(d, density):
    flat = d.reshape(len(d), -1)
    keep = max(1, round(density * flat.shape[1]))
    trimmed = np.zeros_like(flat)
    for row, out in zip(flat, trimmed, strict=True):
        kept = np.argsort(-np.abs(row), kind="stable")[:keep]
        out[kept] = row[kept]
    elected = np.sign(trimmed[0] + trimmed[1] + trimmed[2])
    agrees = (np.sign(trimmed) == elected) & (trimmed != 0)
    chosen = np.where(agrees, trimmed, np.float32(0))
    count = agrees.sum(0)
    total = chosen[0] + chosen[1] + chosen[2]
    return (total / np.where(count, count, 1).astype(np.float32)).reshape(d.shape[1:])


def test_ties_equals_a_naive_whole_tensor_implementation(models):
    out = weights(merged(models, "ties", settings={"density": 0.4}))
    for name in floats(out):
        if out[name].numel():
            expected = rounded(models, name, naive_ties(deltas(models, name), 0.4))
            assert torch.equal(out[name], expected), name


def test_dare_equals_a_naive_whole_tensor_implementation(models):
    out = weights(merged(models, "dare", settings={"p": 0.5}, seed=3))
    for name in floats(out):
        d = deltas(models, name)
        kept = np.stack([Draws(3, t, name).keep(0, d[0].size, 0.5) for t in TASKS]).reshape(d.shape)
        scaled = d * kept * np.float32(2.0)
        expected = rounded(models, name, scaled[0] + scaled[1] + scaled[2])
        assert torch.equal(out[name], expected), name


def test_the_scale_multiplies_the_merged_delta_once(models):
    out = weights(merged(models, "task_arithmetic", scale=0.5))
    for name in floats(out):
        d = deltas(models, name)
        expected = rounded(models, name, (d[0] + d[1] + d[2]) * np.float32(0.5))
        assert torch.equal(out[name], expected), name


@pytest.mark.parametrize("strategy", DATA_FREE)
def test_the_same_bytes_for_any_threads_block_size_and_shards_and_without_kernels(
    strategy, models, tmp_path
):
    most = strategies.find(strategy).most
    big = {"w": torch.randn(700, 500, generator=torch.Generator().manual_seed(5)), **some_tensors()}
    write_models(tmp_path / "one", tensors=big)
    write_models(tmp_path / "many", tensors=big, shards=3)
    outputs = {
        (
            merged(folder, strategy, Limits(threads, block), tasks=TASKS[:most])
            / "model.safetensors"
        ).read_bytes()
        for folder, threads, block in [
            (tmp_path / "one", 1, None),
            (tmp_path / "one", 4, 4096),
            (tmp_path / "many", 2, 100_000),
        ]
    }
    with without_kernels():
        out = merged(tmp_path / "many", strategy, Limits(2, 50_000), tasks=TASKS[:most])
    outputs.add((out / "model.safetensors").read_bytes())
    assert len(outputs) == 1


def test_the_same_bytes_for_a_global_trim_whatever_the_blocks(models):
    options = {"settings": {"scope": "global"}}
    outputs = {
        (merged(models, "ties", limits, **options) / "model.safetensors").read_bytes()
        for limits in (Limits(1), Limits(3, 8))
    }
    assert len(outputs) == 1


@settings(max_examples=15)
@given(threads=st.integers(1, 3), block=st.integers(1, 40))
def test_no_block_size_changes_a_bit(models, threads, block):
    whole = merged(models, "dare_ties", Limits(1), settings={"rescale": "l1"})
    cut = merged(models, "dare_ties", Limits(threads, block), settings={"rescale": "l1"})
    assert (whole / "model.safetensors").read_bytes() == (cut / "model.safetensors").read_bytes()


def test_output_shards_hold_the_same_tensors_as_one_file(models):
    one = weights(merged(models, "average"))
    out = merged(models, "average", max_shard_size=100)
    assert len(list(out.glob("model-*.safetensors"))) > 1
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(one)
    assert all(torch.equal(tensor, one[name]) for name, tensor in weights(out).items())


def test_integer_and_bool_tensors_are_the_bases(models):
    base, out = weights(models / "base"), weights(merged(models, "average"))
    for name in ("position_ids", "mask"):
        assert torch.equal(out[name], base[name])


@pytest.mark.parametrize("strategy", DATA_FREE)
def test_where_deltas_are_zero_the_bases_bits_stay(strategy, tmp_path):
    bits = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    base = {"w": bits[bits.isfinite()], "v": torch.ones(4)}
    write_model(tmp_path / "base", base)
    for task in TASKS:
        write_model(tmp_path / task, {**base, "v": torch.tensor([1.0, 2.0, 1.0, 1.0])})
    tasks = TASKS[: strategies.find(strategy).most]
    chosen = {"p": 0.0} if "p" in _fields(strategy) else {}
    out = weights(merged(tmp_path, strategy, tasks=tasks, settings=chosen))
    assert torch.equal(out["w"].view(torch.int16), base["w"].view(torch.int16))


def _fields(strategy):
    return strategies.find(strategy).__dataclass_fields__


def test_another_output_dtype_is_one_rounding_of_the_same_sum(models):
    out = merged(models, "task_arithmetic", dtype="BF16")
    for name in floats(weights(out)):
        d = deltas(models, name)
        base = torch.from_numpy(floats(weights(models / "base"))[name])
        expected = (base + torch.from_numpy(np.asarray(d[0] + d[1] + d[2]))).to(torch.bfloat16)
        assert torch.equal(weights(out)[name], expected), name


def test_float64_models_are_merged_in_float64(tmp_path):
    base = {"w": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    write_model(tmp_path / "base", base)
    write_model(tmp_path / "a", {"w": base["w"] + 1e-12})
    out = weights(merged(tmp_path, "task_arithmetic", tasks=["a"]))
    assert torch.allclose(out["w"] - base["w"], torch.full((2,), 1e-12).double(), rtol=1e-3)


def test_fp8_models_are_merged(tmp_path):
    base = {"w": torch.tensor([1.0, 2.0, -3.0]).to(torch.float8_e4m3fn)}
    write_model(tmp_path / "base", base)
    write_model(tmp_path / "a", {"w": torch.tensor([2.0, 2.0, -1.0]).to(torch.float8_e4m3fn)})
    write_model(tmp_path / "b", {"w": torch.tensor([1.0, 4.0, -3.0]).to(torch.float8_e4m3fn)})
    out = weights(merged(tmp_path, "task_arithmetic", tasks=["a", "b"]))
    assert out["w"].float().tolist() == [2.0, 4.0, -1.0]


def test_nan_in_a_task_is_refused_by_tensor_and_task_and_nothing_is_left(models, tmp_path):
    write_models(tmp_path)
    bad = weights(tmp_path / "b")
    bad["layer.0.weight"][1, 2] = float("nan")
    write_model(tmp_path / "bad", bad)
    with pytest.raises(NonFinite, match=r"task 'bad' holds NaN[\s\S]*layer.0.weight.*index 6"):
        execute(plan(tmp_path, "average", tasks=["a", "bad"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))
    execute(plan(tmp_path, "average", tasks=["a", "bad"]), tmp_path / "out", allow_nonfinite=True)
    assert weights(tmp_path / "out")["layer.0.weight"][1, 2].isnan()


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("strategy", ["magmax", "emr", "consensus", "della", "della_ties"])
def test_nan_that_a_strategy_would_hide_is_refused_all_the_same(strategy, value, models, tmp_path):
    bad = weights(models / "b")
    bad["layer.0.weight"][1, 2] = float(value)
    write_model(tmp_path / "base", weights(models / "base"))
    write_model(tmp_path / "a", weights(models / "a"))
    write_model(tmp_path / "bad", bad)
    with pytest.raises(NonFinite, match=r"task 'bad' holds NaN[\s\S]*layer.0.weight.*index 6"):
        execute(plan(tmp_path, strategy, tasks=["a", "bad"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_values_wider_than_the_base_are_cut_as_they_are_merged(scope, tmp_path):
    write_model(tmp_path / "base", {"a": torch.zeros(1000), "b": torch.zeros(1000)})
    tuned = {"a": 9.0 + torch.rand(1000), "b": torch.ones(1000)}
    write_model(tmp_path / "tuned", tuned)
    path = tmp_path / "delta.safetensors"
    base, model = Checkpoint.open(tmp_path / "base"), Checkpoint.open(tmp_path / "tuned")
    write_add(path, base, model, task="tuned")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    held = load_file(path)
    # Float32 cannot tell these apart: there they tie.
    held["b"] = held["b"].double() + torch.arange(1000, dtype=torch.float64) * 2**-40
    save_file(held, path, metadata)
    recipe = Recipe(
        base=str(tmp_path / "base"),
        tasks=[Task("t", str(path))],
        strategy="ties",
        settings={"density": 0.2, "scope": scope},
    )
    found = reopen(recipe)
    execute(make_plan(recipe, found.base, found.experts), tmp_path / "out")
    out = weights(tmp_path / "out")
    kept = {name: int(out[name].count_nonzero()) for name in out}
    assert kept == ({"a": 400, "b": 0} if scope == "global" else {"a": 200, "b": 200})


def test_squares_that_overflow_are_no_infinity(tmp_path):
    write_model(tmp_path / "base", {"w": torch.zeros(4)})
    write_model(tmp_path / "a", {"w": torch.full((4,), 1e38)})
    found = weights(merged(tmp_path, "average", tasks=["a"]))["w"]
    assert torch.equal(found, torch.full((4,), 1e38))


def test_an_overflow_of_the_output_dtype_is_refused(tmp_path):
    write_model(tmp_path / "base", {"w": torch.tensor([60000.0])})
    write_model(tmp_path / "a", {"w": torch.tensor([70000.0])})
    with pytest.raises(NonFinite, match=r"overflows torch.float16[\s\S]*wider --dtype"):
        merged(tmp_path, "average", tasks=["a"], dtype="F16")


def test_an_overflow_of_a_dtype_without_infinity_is_refused_too(tmp_path):
    write_model(tmp_path / "base", {"w": torch.tensor([400.0]).to(torch.float8_e4m3fn)})
    for task in ("a", "b"):
        write_model(tmp_path / task, {"w": torch.tensor([448.0]).to(torch.float8_e4m3fn)})
    with pytest.raises(NonFinite, match=r"overflows torch.float8_e4m3fn"):
        merged(tmp_path, "task_arithmetic", tasks=["a", "b"])


def test_an_fp8_value_that_rounds_down_to_the_largest_is_no_overflow(tmp_path):
    write_model(tmp_path / "base", {"w": torch.tensor([440.0])})
    write_model(tmp_path / "a", {"w": torch.tensor([450.0])})
    out = weights(merged(tmp_path, "average", tasks=["a"], dtype="F8_E4M3"))
    assert out["w"].float().tolist() == [448.0]


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (464.0, 448.0),  # half-way to where it would overflow, and 448 is even
        (464.0 - 2**-30, 448.0),
        (1.0625 + 2**-40, 1.125),  # in float32 they would be half-way between two
        (1.1875 - 2**-40, 1.125),
        (-1.0625 - 2**-40, -1.125),
    ],
)
def test_float64_is_rounded_to_fp8_once(value, rounded, tmp_path):
    write_model(tmp_path / "base", {"w": torch.zeros(2, dtype=torch.float64)})
    write_model(tmp_path / "a", {"w": torch.full((2,), value, dtype=torch.float64)})
    out = weights(merged(tmp_path, "average", tasks=["a"], dtype="F8_E4M3"))
    assert out["w"].float().tolist() == [rounded] * 2


def test_a_change_that_rounding_swallows_is_nothing_applied(tmp_path):
    write_model(tmp_path / "base", {"w": torch.ones(4).bfloat16()})
    write_model(tmp_path / "a", {"w": torch.full((4,), 1.5).bfloat16()})
    with pytest.raises(BadValue, match=r"nothing was applied[\s\S]*rounding"):
        merged(tmp_path, "average", tasks=["a"], scale=1e-4)


def test_a_model_of_nothing_but_empty_tensors_is_nothing_to_merge(tmp_path):
    for name in ("base", "a"):
        write_model(tmp_path / name, {"none": torch.zeros(0, 3)})
    with pytest.raises(BadValue, match="nothing was applied"):
        merged(tmp_path, "average", tasks=["a"])


def test_tasks_that_change_nothing_are_an_error(tmp_path):
    write_model(tmp_path / "base", some_tensors())
    write_model(tmp_path / "a", some_tensors())
    with pytest.raises(BadValue, match="nothing was applied"):
        merged(tmp_path, "average", tasks=["a"])
    assert not list(tmp_path.glob("*out*"))


def test_a_task_that_changes_nothing_beside_one_that_does_is_told(tmp_path):
    write_models(tmp_path)
    write_model(tmp_path / "same", some_tensors())
    report = execute(plan(tmp_path, "average", tasks=["a", "same"]), tmp_path / "out")
    assert report.notes == ["same: equals the base, adds nothing"]


def test_an_input_written_to_during_the_merge_fails_it(tmp_path):
    write_models(tmp_path)
    made = plan(tmp_path, "average")

    def touch(name, nbytes):
        os.utime(tmp_path / "b" / "model.safetensors", ns=(1, 1))

    with pytest.raises(InputChanged, match=r"b/model\.safetensors"):
        execute(made, tmp_path / "out", progress=touch)
    assert not (tmp_path / "out").exists()


def test_the_report_tells_norms_and_counts(models, tmp_path):
    report = execute(plan(models, "task_arithmetic"), tmp_path / "out")
    names = floats(weights(models / "base"))
    squares = sum((deltas(models, name).sum(0) ** 2).sum() for name in names)
    assert report.merged_norm == pytest.approx(float(squares) ** 0.5, rel=1e-5)
    assert report.changed == 4
    assert report.copied == 3


def test_progress_adds_up_to_the_bytes_written(models, tmp_path):
    seen = []
    report = execute(plan(models, "ties"), tmp_path / "out", progress=lambda n, b: seen.append(b))
    assert sum(seen) == report.bytes_out


def test_inputs_of_other_float_dtypes_are_compared_in_float32(tmp_path):
    base = {"w": torch.tensor([1.0, 2.0]).to(torch.bfloat16)}
    write_model(tmp_path / "base", base)
    write_model(tmp_path / "a", {"w": torch.tensor([1.5, 2.0])})
    made = plan(tmp_path, "average", tasks=["a"])
    assert any("compared in float32" in note for note in made.notes)
    assert weights(merged(tmp_path, "average", tasks=["a"]))["w"].tolist() == [1.5, 2.0]


def test_tuned_values_are_the_models(tmp_path):
    # what `tune` does is what the other tests rest on: floats move, the rest stays
    tuned = tune(some_tensors(), 1)
    assert not torch.equal(tuned["layer.0.weight"], some_tensors()["layer.0.weight"])
    assert torch.equal(tuned["position_ids"], some_tensors()["position_ids"])
