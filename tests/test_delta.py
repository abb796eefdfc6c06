"""A stored delta: what it says of itself, which base it fits, and what is refused when opened."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from deltakit.delta import Delta
from deltakit.delta_source import ModelDelta
from deltakit.diff import write_add, write_replace
from deltakit.errors import (
    BadFile,
    DeltakitError,
    NamesDiffer,
    NotFound,
    ShapeMismatch,
    UnknownName,
    WrongBase,
)
from deltakit.mask import RandomMask
from deltakit.tensors.reader import SafetensorsFile
from deltakit.tensors.source import MemoryTensors

Tensors = Mapping[str, torch.Tensor]
BASE = {"w": torch.zeros(20), "b": torch.zeros(2, 2), "ids": torch.arange(3)}
TUNED = {"w": torch.zeros(20), "b": torch.ones(2, 2), "ids": torch.arange(3) * 2}
TUNED["w"][[1, 7, 19]] = torch.tensor([1.0, -2.0, 3.0])


def write(path: Path, role: str, *, masked: bool = False) -> Path:
    base, tuned = MemoryTensors(BASE), MemoryTensors(TUNED)
    if role == "add":
        mask = RandomMask(0.9, 4, "trec") if masked else None
        write_add(path, base, tuned, task="trec", mask=mask)
    else:
        write_replace(path, base, tuned, task="trec")
    return path


@pytest.fixture(params=["add", "replace"])
def delta(request: pytest.FixtureRequest, tmp_path: Path) -> Delta:
    return Delta.open(write(tmp_path / "d.safetensors", request.param))


def test_a_delta_says_what_it_is(delta: Delta):
    assert (delta.task, delta.exact) == ("trec", True)
    assert delta.base.fingerprint == MemoryTensors(BASE).fingerprint()
    assert delta.density == 7 / 24
    assert list(delta) == (["b", "w"] if delta.role == "add" else ["b", "ids", "w"])
    assert len(delta) == len(list(delta))


def block(delta: Delta | ModelDelta, name: str, start: int, stop: int) -> list[float]:
    out = torch.full((stop - start,), 9.0)
    delta.block_into(out, name, start, BASE[name].reshape(-1)[start:stop])
    return out.tolist()


def test_blocks_of_a_delta_are_those_of_the_model_it_was_taken_from(delta: Delta):
    model = ModelDelta(MemoryTensors(TUNED))
    for name in ("w", "b"):
        for start in range(BASE[name].numel()):
            for stop in range(start, BASE[name].numel() + 1):
                assert block(delta, name, start, stop) == block(model, name, start, stop)


def test_the_values_of_an_add_delta_are_its_most_nonzero_entries(delta: Delta):
    most = {name: delta.most_values(name, BASE[name].numel()) for name in BASE}
    adds = delta.role == "add"
    assert most == ({"w": 3, "b": 4, "ids": 0} if adds else {"w": 20, "b": 4, "ids": 3})


def test_what_is_absent_is_unchanged(tmp_path: Path):
    tuned = {**BASE, "b": torch.ones(2, 2)}
    write_add(tmp_path / "d", MemoryTensors(BASE), MemoryTensors(tuned), task="t")
    delta = Delta.open(tmp_path / "d")
    assert not delta.changes("w")
    assert block(delta, "w", 3, 6) == [0, 0, 0]


def test_a_whole_parameter_is_given_dense_for_add_and_refused_for_replace(delta: Delta):
    if delta.role == "replace":
        with pytest.raises(DeltakitError, match="new values"):
            delta["w"]
    else:
        assert torch.equal(delta["w"], TUNED["w"])
        assert torch.equal(delta["b"], TUNED["b"])
    with pytest.raises(UnknownName, match="did you mean 'b'"):
        delta["bb"]


def test_the_base_it_was_made_against_fits(delta: Delta):
    notes = delta.check_base(MemoryTensors(BASE))
    assert [note.rpartition(": ")[2] for note in notes] == ["ids"]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({**BASE, "w": torch.zeros(21)}, ["'w'", "F32 [20]", "F32 [21]"]),
        ({**BASE, "w": torch.zeros(4, 5)}, ["'w'", "F32 [4, 5]"]),
        ({**BASE, "w": torch.zeros(20).bfloat16()}, ["'w'", "BF16 [20]"]),
        ({**BASE, "a": torch.zeros(1)}, ["'a'", "no such tensor"]),
        ({name: BASE[name] for name in ("w", "ids")}, ["'b'", "no such tensor"]),
    ],
)
def test_another_base_is_refused_by_name(delta: Delta, other: Tensors, words: list[str]):
    with pytest.raises(WrongBase) as caught:
        delta.check_base(MemoryTensors(other, label="./other"))
    for word in [*words, "./other", delta.label]:
        assert word in str(caught.value)


def test_a_replace_delta_of_another_vocabulary_is_not_merged(tmp_path: Path):
    for tuned, error in [
        ({**TUNED, "b": torch.ones(3, 2)}, ShapeMismatch),
        ({**TUNED, "new": torch.ones(3, 2)}, NamesDiffer),
    ]:
        (tmp_path / "d").unlink(missing_ok=True)
        write_replace(tmp_path / "d", MemoryTensors(BASE), MemoryTensors(tuned), task="t")
        with pytest.raises(error):
            Delta.open(tmp_path / "d").check_base(MemoryTensors(BASE))


def test_a_missing_delta_is_not_found(tmp_path: Path):
    with pytest.raises(NotFound):
        Delta.open(tmp_path / "none")


Parts = dict[str, np.ndarray]


def edited(path: Path, change: Callable[[Parts, dict[str, Any]], None]) -> Path:
    """Write the file anew with its tensors and its metadata (its JSON opened) changed."""
    file = SafetensorsFile(path)
    tensors = load_file(path)
    metadata: dict[str, Any] = {
        key: json.loads(text) if text[:1] == "{" else text
        for key, text in file.header.metadata.items()
    }
    change(tensors, metadata)
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    save_file(tensors, path, metadata=texts)
    return path


def test_editing_nothing_changes_nothing(tmp_path: Path):
    for role in ("add", "replace"):
        path = edited(write(tmp_path / role, role), lambda tensors, metadata: None)
        assert block(Delta.open(path), "w", 0, 20) == TUNED["w"].tolist()


def meta(**changes: Any) -> Callable[[Parts, dict[str, Any]], None]:
    return lambda tensors, metadata: metadata.update(changes)


def without(key: str) -> Callable[[Parts, dict[str, Any]], None]:
    return lambda tensors, metadata: metadata.pop(key)


def row(name: str, *values: Any) -> Callable[[Parts, dict[str, Any]], None]:
    def change(tensors: Parts, metadata: dict[str, Any]) -> None:
        for key in ("base_tensors", "new_tensors"):
            if key in metadata:
                metadata[key][name] = list(values)

    return change


def new_row(name: str, *values: Any) -> Callable[[Parts, dict[str, Any]], None]:
    return lambda tensors, metadata: metadata["new_tensors"].update({name: list(values)})


def lose(key: str, name: str) -> Callable[[Parts, dict[str, Any]], None]:
    return lambda tensors, metadata: metadata[key].pop(name)


def part(name: str, value: np.ndarray) -> Callable[[Parts, dict[str, Any]], None]:
    return lambda tensors, metadata: tensors.update({name: value})


def drop(name: str) -> Callable[[Parts, dict[str, Any]], None]:
    return lambda tensors, metadata: tensors.pop(name)


HOSTILE = {
    "no kind": ("add", without("kind")),
    "another kind": ("add", meta(kind="mask")),
    "a newer format": ("add", meta(deltakit="2")),
    "no role": ("add", without("role")),
    "unknown role": ("add", meta(role="multiply")),
    "no table": ("add", without("base_tensors")),
    "no table of the new model": ("replace", without("new_tensors")),
    "no recipe": ("add", without("recipe")),
    "a recipe of numbers": ("add", meta(recipe={"seed": 1})),
    "a table that is no JSON": ("add", meta(base_tensors="{")),
    "an unknown dtype": ("add", row("b", "F99", [2, 2], "")),
    "a negative shape": ("add", row("b", "F32", [-2, -2], "")),
    "a huge number": ("add", row("b", "F32", [1 << 62], "")),
    "an overflowing shape": ("add", row("b", "F32", [1 << 40, 1 << 40], "")),
    "a dense tensor of another shape": ("add", row("b", "F32", [4], "")),
    "a bitmask of another shape": ("add", row("w", "F32", [1 << 40], "")),
    "a tensor in no table": ("add", lose("base_tensors", "b")),
    "a tensor not in the new model": ("replace", lose("new_tensors", "b")),
    "an integer in an additive delta": ("add", row("b", "I32", [2, 2], "")),
    "integer values in an additive delta": ("add", part("b", np.ones((2, 2), dtype=np.int32))),
    "values of another dtype": ("replace", part("b", np.ones((2, 2), dtype=np.float16))),
    "a new dtype the values do not have": ("replace", new_row("b", "F16", [2, 2], "")),
    "sparse values for a reshaped tensor": ("replace", new_row("w", "F32", [4, 5], "")),
    "sparse values for a tensor the base lacks": ("replace", lose("base_tensors", "w")),
    "a new tensor without values": ("replace", new_row("none", "F32", [2], "")),
    "a reshaped tensor without values": ("replace", drop("b")),
    "a bitmask without values": ("add", drop("w.values")),
    "a seed that is none": ("seed", meta(recipe={"mask": "random", "seed": "x"})),
    "a density that is none": (
        "seed",
        meta(recipe={"mask": "random", "seed": "1", "density": "nan", "task": "t"}),
    ),
    "a seed without a task": (
        "seed",
        meta(recipe={"mask": "random", "seed": "1", "density": "0.5"}),
    ),
}


def written(path: Path, role: str) -> Path:
    if role != "seed":
        return write(path, role)
    tuned = {**BASE, "w": torch.ones(20)}
    mask = RandomMask(0.5, 4, "trec")
    write_add(path, MemoryTensors(BASE), MemoryTensors(tuned), task="trec", mask=mask)
    assert Delta.open(path).tensors["w"].codec == "seed"
    return path


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_when_it_is_opened(tmp_path: Path, case: str):
    role, change = HOSTILE[case]
    path = written(tmp_path / "d.safetensors", role)
    if case == "a reshaped tensor without values":
        edited(path, new_row("b", "F32", [4], ""))
    edited(path, change)
    with pytest.raises(BadFile) as caught:
        Delta.open(path)
    where = caught.value.where
    assert where is not None
    assert where.startswith(str(path))
    assert where.count(str(path)) == 1


def test_another_seed_is_refused_by_name_when_its_draws_are_counted(tmp_path: Path):
    path = written(tmp_path / "d", "seed")
    recipe = {"mask": "random", "seed": "5", "density": "0.1", "task": "trec"}
    delta = Delta.open(edited(path, meta(recipe=recipe)))
    with pytest.raises(BadFile, match="parameter 'w'"):
        block(delta, "w", 0, 20)


@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_is_read_or_refused_and_never_a_crash(tmp_path: Path, data: st.DataObject):
    role = data.draw(st.sampled_from(["add", "replace"]))
    path = tmp_path / role
    if not path.exists():
        write(path, role)
    raw = bytearray(path.read_bytes())
    length = int.from_bytes(raw[:8], "little")
    used = len(raw[8 : 8 + length].rstrip(b" ")) + 8
    places = [*range(used), *range(8 + length, len(raw))]
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.sampled_from(places))] = data.draw(st.integers(0, 255))
    (tmp_path / "changed").write_bytes(raw)
    try:
        delta = Delta.open(tmp_path / "changed")
        for name in delta:
            tensor = delta.tensors[name]
            if tensor.info.numel < 1000:
                tensor.kept(0, tensor.info.numel)
        delta.check_base(MemoryTensors(BASE))
    except DeltakitError:
        pass
