"""Laws of the comparison as a whole: order, blocks, threads, parts and the whole."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltakit.delta import Delta
from deltakit.delta_source import ModelDelta
from deltakit.diff import write_add, write_replace
from deltakit.errors import BadValue, NonFinite, ShapeMismatch, WrongBase
from deltakit.inspect import Report, bytes_to_read, compare
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.source import MemoryTensors
from tests.inspect import naive
from tests.inspect.sources import Given, random_tasks, zeros
from tests.models import write_model

SHAPES = {
    "embed.weight": (50, 8),
    "layers.0.attn.q_proj.weight": (8, 8),
    "layers.0.mlp.up.weight": (24, 8),
    "layers.10.mlp.up.weight": (24, 8),
    "layers.10.norm.weight": (8,),
    "layers.2.scale": (),
}


def base_of(shapes: dict[str, Any]) -> MemoryTensors:
    generator = torch.Generator().manual_seed(99)
    return MemoryTensors({n: torch.randn(s, generator=generator) for n, s in shapes.items()})


BASE = base_of(SHAPES)
TASKS = dict(zip("abc", random_tasks(3, SHAPES), strict=True))


def alike(one: Any, other: Any) -> None:
    """Check that two reports hold the same figures, but for the last bits of a sum."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            alike(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            alike(a, b)
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-9, abs=1e-12)
    else:
        assert one == other


@settings(max_examples=15)
@given(block=st.integers(1, 500), count=st.integers(1, 4), seed=st.integers(0, 100))
def test_figures_do_not_depend_on_the_block_size(block: int, count: int, seed: int):
    tasks = {f"t{i}": t for i, t in enumerate(random_tasks(count, SHAPES, seed))}
    one, other = compare(BASE, tasks), compare(BASE, tasks, block=block)
    alike(msgspec.to_builtins(one), msgspec.to_builtins(other))


def test_figures_have_the_same_bits_for_any_number_of_threads():
    reports = [compare(BASE, TASKS, threads=threads) for threads in (1, 2, 5)]
    assert reports[0] == reports[1] == reports[2]


def test_torch_keeps_its_number_of_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        compare(BASE, TASKS)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@settings(max_examples=10)
@given(order=st.permutations("abc"))
def test_tasks_in_another_order_give_the_same_tables_in_that_order(order: list[str]):
    straight, turned = compare(BASE, TASKS), compare(BASE, {t: TASKS[t] for t in order})
    by_task = {t.task: t for t in straight.model.tasks}
    assert [t.task for t in turned.model.tasks] == order
    by_pair = {frozenset((p.a, p.b)): p for p in straight.model.pairs}
    for task in turned.model.tasks:
        alike(msgspec.to_builtins(task), msgspec.to_builtins(by_task[task.task]))
    for pair in turned.model.pairs:
        same = msgspec.structs.replace(by_pair[frozenset((pair.a, pair.b))], a=pair.a, b=pair.b)
        alike(msgspec.to_builtins(pair), msgspec.to_builtins(same))
    alike(msgspec.to_builtins(turned.model.together), msgspec.to_builtins(straight.model.together))


def test_parts_add_up_to_the_whole():
    report = compare(BASE, TASKS)
    for groups in (report.layers, report.kinds, report.parameters):
        assert sum(g.parameters for g in groups) == report.model.parameters
        assert sum(g.entries for g in groups) == report.model.entries
        for i, task in enumerate(report.model.tasks):
            assert sum(g.tasks[i].changed for g in groups) == task.changed
            assert sum(g.tasks[i].norm ** 2 for g in groups) == pytest.approx(task.norm**2)
            assert max(g.tasks[i].max for g in groups) == task.max
        sums = np.sum([g.together.collisions for g in groups], axis=0)
        assert sums.tolist() == report.model.together.collisions


def test_a_ratio_of_the_whole_is_not_the_mean_of_the_parts():
    base = zeros(small=1, large=999)
    report = compare(base, {"a": Given({"small": torch.ones(1)})})
    assert report.model.tasks[0].density == 0.001
    assert [g.tasks[0].density for g in report.parameters] == [0.0, 1.0]


def test_layers_stand_in_the_order_of_their_numbers_and_the_rest_last():
    report = compare(BASE, TASKS)
    assert [g.name for g in report.layers] == ["0", "2", "10", "-"]
    assert [g.name for g in report.kinds] == ["embedding", "attention q", "mlp", "norm", "other"]


def test_layers_of_two_stacks_bear_the_names_of_their_stacks():
    base = zeros(**{"encoder.block.0.w": 2, "decoder.block.0.w": 2})
    report = compare(base, {"a": Given({})})
    assert [g.name for g in report.layers] == ["decoder 0", "encoder 0"]


def check_against_definitions(report: Report, deltas: list[dict[str, Any]], base: Any) -> None:
    names = sorted(deltas[0])
    groups = [(report.model, names)]
    groups += [(g, [g.name]) for g in report.parameters]
    for group, members in groups:
        flat = [np.concatenate([d[n].reshape(-1) for n in members]) for d in deltas]
        expected = naive.figures(flat, np.concatenate([base[n].reshape(-1) for n in members]))
        assert [t.density for t in group.tasks] == expected["density"]
        for key, field in (("norm", "norm"), ("relative", "relative_norm"), ("rms", "rms")):
            assert [getattr(t, field) for t in group.tasks] == pytest.approx(expected[key])
        assert [t.max for t in group.tasks] == pytest.approx(expected["max"])
        assert [t.mean for t in group.tasks] == pytest.approx(expected["mean"], abs=1e-12)
        assert group.together.owned == pytest.approx(expected["owned"])
        for key in ("sign_conflict", "weighted_conflict", "interference"):
            assert getattr(group.together, key) == pytest.approx(expected[key], abs=1e-9)
        for found in group.pairs:
            first, second = report.tasks.index(found.a), report.tasks.index(found.b)
            for key, value in naive.pair(flat[first], flat[second]).items():
                assert getattr(found, key) == pytest.approx(value, abs=1e-9), key


def test_model_folders_give_the_figures_of_the_definitions(tmp_path: Path):
    generator = torch.Generator().manual_seed(3)
    shapes = {"embed.weight": (40, 8), "layers.0.mlp.weight": (30, 8), "layers.1.norm": (64,)}
    base = {n: torch.randn(s, generator=generator).bfloat16() for n, s in shapes.items()}
    write_model(tmp_path / "base", base | {"position_ids": torch.arange(4)}, shards=2)
    sources, deltas = {}, []
    for task in ("a", "b", "c"):
        tuned = {
            n: t + (0.1 * torch.randn(t.shape, generator=generator)).bfloat16()
            for n, t in base.items()
        }
        write_model(tmp_path / task, tuned | {"position_ids": torch.arange(4)})
        sources[task] = ModelDelta(Checkpoint.open(tmp_path / task))
        deltas.append({n: (tuned[n].float() - base[n].float()).numpy() for n in base})
    report = compare(Checkpoint.open(tmp_path / "base"), sources, block=100)
    check_against_definitions(report, deltas, {n: t.float().numpy() for n, t in base.items()})


def test_float64_parameters_are_compared_in_float64():
    base = MemoryTensors({"w": torch.ones(3, dtype=torch.float64)})
    tuned = torch.tensor([1.0, 1.0 + 1e-12, 1.0], dtype=torch.float64)
    task = compare(base, {"a": ModelDelta(MemoryTensors({"w": tuned}))}).model.tasks[0]
    assert task.changed == 1
    assert task.norm == pytest.approx(1e-12, rel=1e-3)


@pytest.mark.parametrize("write", [write_add, write_replace])
def test_a_stored_delta_gives_the_figures_of_its_model(tmp_path: Path, write: Any):
    base = MemoryTensors({"layers.0.w": torch.arange(100.0), "layers.1.w": torch.ones(7)})
    tuned = torch.arange(100.0)
    tuned[::9] += 0.5
    model = MemoryTensors({"layers.0.w": tuned, "layers.1.w": torch.ones(7)})
    write(tmp_path / "d.safetensors", base, model, task="a")
    stored = compare(base, {"a": Delta.open(tmp_path / "d.safetensors")})
    assert stored == compare(base, {"a": ModelDelta(model)})


def test_a_parameter_that_a_task_leaves_alone_is_not_asked_of_it():
    """`Given` fails when it is asked for a parameter that it does not name."""
    report = compare(BASE, {"a": TASKS["a"], "b": Given({})})
    assert report.model.tasks[1].changed == 0


def test_progress_ends_at_the_bytes_announced():
    seen: list[tuple[str, int]] = []
    tasks = {"a": TASKS["a"], "b": Given({"layers.2.scale": torch.tensor(1.0)})}
    compare(BASE, tasks, progress=lambda name, n: seen.append((name, n)), threads=1, block=64)
    entries = sum(info.numel for info in BASE.infos.values())
    assert sum(n for _, n in seen) == bytes_to_read(BASE, list(tasks.values())) == 8 * entries + 4
    assert {name for name, _ in seen} == set(SHAPES)


def test_no_more_than_a_block_is_read_at_a_time():
    asked: list[int] = []

    class Watched(Given):
        def block_into(self, out: Any, name: str, start: int, base: Any) -> None:
            asked.append(len(out))
            super().block_into(out, name, start, base)

    class WatchedBase(MemoryTensors):
        def read(self, name: str, start: int, buffer: memoryview) -> None:
            asked.append(len(buffer) // 4)
            super().read(name, start, buffer)

    base = WatchedBase({"w": torch.zeros(10_000)})
    report = compare(base, {"a": Watched({"w": torch.ones(10_000)})}, block=999)
    assert report.model.tasks[0].changed == 10_000
    assert max(asked) == 999
    assert sum(asked) == 2 * 10_000  # and nothing is read twice


def test_nan_is_refused_with_its_tensor_and_task():
    values = torch.zeros(9)
    values[4] = float("nan")
    with pytest.raises(NonFinite, match=r"NaN or infinity in the delta of 'w'\n.*broken"):
        compare(zeros(w=9), {"a": Given({"w": torch.ones(9)}), "b": Given({"w": values}, "broken")})


def test_a_model_of_another_shape_is_refused_with_its_task():
    other = ModelDelta(MemoryTensors({"w": torch.ones(3)}))
    with pytest.raises(ShapeMismatch, match="task 'b'"):
        compare(zeros(w=2), {"b": other})


def test_a_stored_delta_of_another_base_is_refused(tmp_path: Path):
    base = MemoryTensors({"w": torch.arange(4.0)})
    write_add(tmp_path / "d", base, MemoryTensors({"w": torch.ones(4)}), task="a")
    with pytest.raises(WrongBase, match="the delta of task 'a' was made against another base"):
        compare(zeros(w=4), {"a": Delta.open(tmp_path / "d")})


def test_no_task_is_an_error():
    with pytest.raises(BadValue, match="no task"):
        compare(BASE, {})


def test_a_model_without_parameters_to_merge_has_empty_figures():
    report = compare(MemoryTensors({"ids": torch.arange(3)}), {"a": Given({})})
    assert (report.model.entries, report.model.tasks[0].density) == (0, 0.0)
