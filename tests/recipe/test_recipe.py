"""A recipe round-trips, and refuses what it does not know."""

import msgspec
import pytest

from deltakit.errors import BadFile, BadValue, UnknownName
from deltakit.recipe import Piece, Recipe, Task

TASKS = [Task("a", "ft-a"), Task("b", "ft-b", weight=0.5)]


def test_a_recipe_round_trips_through_its_file(tmp_path):
    recipe = Recipe(base="base", tasks=TASKS, strategy="ties", seed=7).checked()
    (tmp_path / "r.json").write_bytes(recipe.encode())
    assert Recipe.read(tmp_path / "r.json") == recipe
    assert Recipe.read(tmp_path / "r.json").encode() == recipe.encode()


def test_a_checked_recipe_spells_out_defaults():
    recipe = Recipe(base="b", tasks=TASKS, strategy="dare").checked()
    assert recipe.settings == {"p": 0.9, "rescale": "inverse"}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"{", "not a recipe"),
        (b"[]", "not a recipe"),
        (b'{"base": "b", "tasks": [], "strategy": "ties", "sead": 1}', "sead"),
        (b'{"base": "b", "tasks": [{"path": "a"}], "strategy": "ties"}', "name"),
        (b'{"format": 99}', "newer deltakit"),
        (b'{"format": "x"}', "not a recipe"),
        (b"\xff", "not a recipe"),
        (b'{"base": "\xff"}', "not a recipe"),
        (b'{"settings": ' + b"[" * 100_000, "not a recipe"),
    ],
)
def test_what_is_no_recipe_is_refused_with_its_path(text, match, tmp_path):
    (tmp_path / "r.json").write_bytes(text)
    with pytest.raises(BadFile, match=match) as caught:
        Recipe.read(tmp_path / "r.json")
    assert "r.json" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"tasks": []}, "without tasks"),
        ({"seed": -1}, "seed"),
        ({"dtype": "bflaot16"}, "did you mean 'bfloat16'"),
        ({"accumulate": "fp16"}, "float32 or in float64"),
        ({"max_shard_size": 0}, "shard size"),
        ({"tasks": [Task("a", "x", weight=0.0)]}, "weight"),
        ({"tasks": [Task("a", "x", weight=float("nan"))]}, "not a finite number"),
        ({"scale": float("inf")}, "not a finite number"),
        ({"lines": (float("nan"), 1.0)}, "not a finite number"),
        ({"mask": Piece("ramdom")}, "did you mean 'random'"),
        ({"mask": Piece("random", {"density": 2})}, r"density is outside \(0, 1\]"),
        ({"weighting": Piece("metagpd")}, "did you mean 'metagpt'"),
        ({"weighting": Piece("metagpt")}, "weights are given and are to be found"),
        ({"weighting": Piece("doge"), "strategy": "klf"}, "takes no weights"),
        (
            {"mask": Piece("random"), "settings": {"scope": "global"}},
            "takes no mask beside",
        ),
        ({"strategy": "slerp", "tasks": [Task(n, n) for n in "abc"]}, "at most 2 tasks"),
        ({"strategy": "emr", "settings": {"task": "z"}}, "none of the tasks"),
        ({"strategy": "klf", "settings": {"tau": float("inf")}}, "tau is outside"),
        (
            {"strategy": "average", "tasks": [Task("a", "x", 0.3), Task("b", "x", -0.1 - 0.2)]},
            "sum",
        ),
        ({"strategy": "average", "tasks": [Task("a", "x", 1.0), Task("b", "x", -1.0)]}, "sum to 0"),
    ],
)
def test_a_recipe_that_means_nothing_is_refused(change, match):
    fields = {"base": "b", "tasks": TASKS, "strategy": "ties", **change}
    with pytest.raises((BadValue, UnknownName), match=match):
        Recipe(**fields).checked()


@pytest.mark.parametrize("dtype", ["BF16", "bfloat16", "bf16", "torch.bfloat16"])
def test_a_dtype_is_kept_as_safetensors_spells_it(dtype):
    made = Recipe(tasks=[Task("a", "a")], strategy="ties", dtype=dtype, accumulate="float64")
    assert (made.checked().dtype, made.checked().accumulate) == ("BF16", "F64")
    assert msgspec.structs.replace(made, accumulate="float32").checked().accumulate is None
