"""Importance maps: scores per parameter, non-negative and finite, as a file anyone can read."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from deltakit.errors import AlreadyThere, BadFile, BadValue, DeltakitError, NonFinite, NotFound
from deltakit.importance import ImportanceMap

SCORES = {"b": torch.tensor(0.5), "a": torch.tensor(0.0), "c": torch.tensor(2.0)}


def example(**changes: object) -> ImportanceMap:
    return ImportanceMap(SCORES, **{"task": "trec", **changes})  # type: ignore[arg-type]


def test_a_map_is_read_back_as_it_was(tmp_path: Path):
    path = tmp_path / "i.safetensors"
    example(score="mixed", base="f" * 64, provenance={"a1": "0.85", "é": "\n"}).save(path)
    found = ImportanceMap.open(path)
    assert list(found) == ["a", "b", "c"]
    assert {name: float(score) for name, score in found.items()} == {"a": 0.0, "b": 0.5, "c": 2.0}
    assert all(score.shape == () for score in found.values())
    assert (found.task, found.units, found.score) == ("trec", "tensor", "mixed")
    assert found.base == "f" * 64
    assert found.provenance == {"a1": "0.85", "é": "\n"}
    with safe_open(path, "pt") as file:
        assert file.get_tensor("b") == 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_units_of_rows_and_elements_keep_shape_and_dtype(tmp_path: Path, dtype: torch.dtype):
    scores = {"w": torch.rand(3, 4, dtype=dtype)}
    ImportanceMap(scores, task="t", units="element").save(tmp_path / "i.safetensors")
    found = ImportanceMap.open(tmp_path / "i.safetensors")
    assert found["w"].dtype == dtype
    assert torch.equal(found["w"], scores["w"])
    assert found.base is None


def test_equal_maps_give_equal_bytes(tmp_path: Path):
    example().save(tmp_path / "1")
    ImportanceMap(dict(reversed(SCORES.items())), task="trec").save(tmp_path / "2")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_no_number_is_refused_by_name(tmp_path: Path, bad: float):
    with pytest.raises(NonFinite, match="wrong"):
        ImportanceMap({**SCORES, "wrong": torch.tensor(bad)}, task="t")


def test_a_negative_score_is_refused_by_name():
    with pytest.raises(BadValue, match="wrong"):
        ImportanceMap({**SCORES, "wrong": torch.tensor(-0.1)}, task="t")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_a_score_of_a_dtype_that_could_not_be_read_back_is_refused_by_name(dtype: torch.dtype):
    with pytest.raises(BadValue, match="wrong"):
        ImportanceMap({"wrong": torch.tensor(1, dtype=dtype)}, task="t")


def test_units_are_known_and_fit():
    with pytest.raises(BadValue, match="rows"):
        example(units="rows")
    with pytest.raises(BadValue, match="one score a parameter"):
        ImportanceMap({"w": torch.ones(2)}, task="t")


GOOD = {"deltakit": "1", "kind": "importance", "units": "tensor", "recipe": "{}"}


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"w": torch.tensor(float("nan"))}, GOOD),
        ({"w": torch.tensor(-1.0)}, GOOD),
        ({"w": torch.tensor(1.0).half()}, GOOD),
        ({"w": torch.tensor(1)}, GOOD),
        ({"w": torch.ones(2)}, GOOD),
        ({"w": torch.tensor(1.0)}, {**GOOD, "kind": "delta"}),
        ({"w": torch.tensor(1.0)}, {**GOOD, "units": "cell"}),
        ({"w": torch.tensor(1.0)}, {**GOOD, "recipe": "[]"}),
        ({"w": torch.tensor(1.0)}, {**GOOD, "recipe": '{"a":1}'}),
        ({"w": torch.tensor(1.0)}, {**GOOD, "deltakit": "2"}),
        ({"w": torch.tensor(1.0)}, {"format": "pt"}),
    ],
)
def test_a_malformed_map_is_refused_with_its_path(
    tmp_path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]
):
    path = tmp_path / "i.safetensors"
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(DeltakitError) as caught:
        ImportanceMap.open(path)
    assert str(path) in str(caught.value)


def test_a_missing_map_is_not_found(tmp_path: Path):
    with pytest.raises(NotFound):
        ImportanceMap.open(tmp_path / "none.safetensors")
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(BadFile, match="pickles"):
        ImportanceMap.open(tmp_path / "x.bin")


def test_an_existing_file_is_refused_or_replaced(tmp_path: Path):
    example().save(tmp_path / "i")
    with pytest.raises(AlreadyThere):
        example().save(tmp_path / "i")
    example(task="other").save(tmp_path / "i", replace=True)
    assert ImportanceMap.open(tmp_path / "i").task == "other"


def test_the_constant_control_makes_every_unit_equal():
    found = example(base="b", score="mixed", provenance={"a1": "0.85"}).constant()
    assert {float(score) for score in found.values()} == {1.0}
    assert (found.base, found.score) == ("b", "mixed")
    assert found.provenance == {"a1": "0.85", "control": "constant"}


def many() -> ImportanceMap:
    scores = {f"layer.{i}": torch.tensor(float(i)) for i in range(50)}
    return ImportanceMap(scores, task="trec")


def test_the_shuffled_control_is_a_permutation_that_the_seed_decides():
    original, found = many(), many().shuffled(0)
    values = [float(score) for score in found.values()]
    assert values != [float(score) for score in original.values()]
    assert sorted(values) == sorted(float(score) for score in original.values())
    assert values == [float(score) for score in many().shuffled(0).values()]
    assert values != [float(score) for score in many().shuffled(1).values()]
    assert list(found) == list(original)
    assert found.provenance["control"] == "shuffled, seed 0"


def test_the_shuffle_never_changes():
    scores = {name: torch.tensor(float(i)) for i, name in enumerate("abcdef")}
    found = ImportanceMap(scores, task="trec").shuffled(7)
    assert [int(score) for score in found.values()] == [4, 3, 1, 5, 2, 0]


def test_only_tensor_units_are_shuffled():
    with pytest.raises(BadValue, match="tensor units"):
        ImportanceMap({"w": torch.ones(2)}, task="t", units="row").shuffled(0)
