"""Tasks added to a merged model and taken out of it, as files on disk."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from deltakit.diff import write_add
from deltakit.engine import Limits, execute
from deltakit.engine.state import FOLDER, NOTE, State
from deltakit.errors import (
    AlreadyThere,
    BadFile,
    BadValue,
    InputChanged,
    NamesDiffer,
    NonFinite,
    NotFound,
    UnknownName,
    WrongBase,
)
from deltakit.importance import ImportanceMap
from deltakit.incremental import merge_onto, merge_without, plan_onto
from deltakit.merging import merge, plan_recipe
from deltakit.recipe import Recipe, Rule, Task
from deltakit.strategies import Streaming, get, names
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.digest import file_digest
from deltakit.tensors.source import MemoryTensors
from tests.engine.merging import tune
from tests.models import write_model

SETTINGS = {"sotu": {"p": 0.5}}
STREAMING = [name for name in names() if isinstance(get(name), Streaming)]
SHAPES = {"layers.0.q.weight": (24, 16), "layers.1.o.weight": (16, 16), "norm.weight": (16,)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and four fine-tunes of it with importance maps, and Gram matrices of the matrices."""
    folder = tmp_path_factory.mktemp("models")
    draw = torch.Generator().manual_seed(0)
    base = {n: torch.randn(s, generator=draw).bfloat16() for n, s in SHAPES.items()}
    base["ids"] = torch.arange(4)
    write_model(folder / "base", base)
    for seed, task in enumerate("abcd", 1):
        write_model(folder / task, tune(base, seed))
        scores = {n: torch.rand((), generator=draw) for n in SHAPES}
        ImportanceMap(scores, task=task).save(folder / f"{task}.scores.safetensors")
        inputs = {n: torch.randn(40, s[1], generator=draw) for n, s in SHAPES.items() if s[1:]}
        grams = {n: x.T @ x for n, x in inputs.items()}
        gram = ImportanceMap(grams, task=task, units="gram", score="gram")
        gram.save(folder / f"{task}.gram.safetensors")
    return folder


def options(models: Path, strategy: str, tasks: str, **more: object) -> dict[str, object]:
    made = get(strategy)
    kind = "gram" if made.statistic == "gram" else "scores"
    maps = [models / f"{task}.{kind}.safetensors" for task in tasks]
    weights = [{"a": 0.7, "b": 1.3, "c": 0.9, "d": 2.0}[task] for task in tasks]
    return {
        **({"importance": maps} if made.needs_importance else {}),
        **({"weights": weights} if made.weighted else {}),
        **more,
    }


def at_once(models: Path, strategy: str, tasks: str, out: Path, **more: object) -> Path:
    given = options(models, strategy, tasks, **more)
    given.setdefault("settings", SETTINGS.get(strategy))
    merge([str(models / t) for t in tasks], strategy, out, base=str(models / "base"), **given)
    return out


def onto(models: Path, strategy: str, merged: Path, tasks: str, out: Path, **more: object) -> Path:
    merge_onto(
        merged, [str(models / t) for t in tasks], out, **options(models, strategy, tasks, **more)
    )
    return out


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but the note, which tells when it was written."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != NOTE
    }


@pytest.mark.parametrize("strategy", STREAMING)
def test_tasks_added_one_by_one_give_the_files_of_all_at_once(
    models: Path, tmp_path: Path, strategy: str
) -> None:
    around = {"scale": 0.8, "lines": (0.3, 0.9)}
    whole = at_once(models, strategy, "abcd", tmp_path / "whole", keep_state=True, **around)
    plain = at_once(models, strategy, "abcd", tmp_path / "plain", **around)
    ab = at_once(models, strategy, "ab", tmp_path / "ab", keep_state=True, **around)
    abc = onto(models, strategy, ab, "c", tmp_path / "abc")
    abcd = onto(models, strategy, abc, "d", tmp_path / "abcd")
    assert contents(abcd) == contents(whole)
    kept = (plain / "model.safetensors").read_bytes()
    assert (abcd / "model.safetensors").read_bytes() == kept


@settings(max_examples=5, deadline=None)
@given(threads=st.integers(1, 3), block=st.integers(1, 300), shard=st.integers(100, 3000))
def test_no_limit_changes_a_byte_of_the_result_or_of_its_state(
    models: Path, tmp_path_factory: pytest.TempPathFactory, threads: int, block: int, shard: int
) -> None:
    here = tmp_path_factory.mktemp("limits")
    limits = Limits(threads, block)
    more = {"max_shard_size": shard, "mask": "magnitude:density=0.5", "lines": (0.5, 1.0)}
    whole = at_once(models, "ties", "abc", here / "w", keep_state=True, **more)
    ab = at_once(models, "ties", "ab", here / "ab", keep_state=True, limits=limits, **more)
    assert contents(onto(models, "ties", ab, "c", here / "abc", limits=limits)) == contents(whole)


def test_the_recipe_of_the_result_makes_the_same_bytes_again(models: Path, tmp_path: Path) -> None:
    ab = at_once(models, "ties", "ab", tmp_path / "ab", keep_state=True)
    abc = onto(models, "ties", ab, "c", tmp_path / "abc")
    recipe = Recipe.read(abc / "deltakit_recipe.json")
    assert [task.name for task in recipe.tasks] == ["a", "b", "c"]
    execute(plan_recipe(recipe), tmp_path / "again")
    first, again = contents(abc), contents(tmp_path / "again")
    assert {name: first[name] for name in again} == again


def test_the_earlier_tasks_files_may_be_gone(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "a", tmp_path / "gone")
    merge(
        [str(tmp_path / "gone")],
        "average",
        tmp_path / "m",
        base=str(models / "base"),
        keep_state=True,
    )
    shutil.rmtree(tmp_path / "gone")
    merge_onto(tmp_path / "m", [str(models / "b")], tmp_path / "m", overwrite=True)
    merge(
        [f"gone={models / 'a'}", str(models / "b")],
        "average",
        tmp_path / "n",
        base=str(models / "base"),
    )
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in "mn")
    assert all(torch.equal(one[name], other[name]) for name in one)


def sparse(models: Path, out: Path, task: str, *parameters: str) -> str:
    """A stored delta that changes some parameters only."""
    base = Checkpoint.open(models / "base")
    tuned = Checkpoint.open(models / task)
    some = MemoryTensors({n: (tuned if n in parameters else base)[n] for n in base})
    write_add(out / f"{task}.safetensors", base, some, task=task)
    return str(out / f"{task}.safetensors")


GROWING = [
    ("average", {}),
    ("ties", {"settings": {"density": 0.5}}),
    ("cabs", {}),
    ("opcm", {}),
    ("dare_ties", {"mask": "nm:n=1,m=2"}),
    ("average", {"mask": "dynamic:by=depth", "lines": (0.5, 1.0)}),
]


@pytest.mark.parametrize(("strategy", "more"), GROWING, ids=str)
def test_a_parameter_that_only_a_later_task_changes_was_zero_for_the_earlier(
    models: Path, tmp_path: Path, strategy: str, more: dict[str, object]
) -> None:
    first = sparse(models, tmp_path, "a", "norm.weight", "layers.1.o.weight")
    second = sparse(models, tmp_path, "b", "layers.0.q.weight", "layers.1.o.weight")
    given = {"base": str(models / "base"), "keep_state": True, **more}
    merge([first, second], strategy, tmp_path / "whole", **given)
    merge([first], strategy, tmp_path / "one", **given)
    merge_onto(tmp_path / "one", [second], tmp_path / "two")
    assert contents(tmp_path / "two") == contents(tmp_path / "whole")


def test_new_parameters_are_refused_where_they_alter_what_was_kept(
    models: Path, tmp_path: Path
) -> None:
    first = sparse(models, tmp_path, "a", "layers.0.q.weight")
    second = sparse(models, tmp_path, "b", "layers.1.o.weight")
    refused = {
        "ties": {"settings": {"scope": "global"}},
        "klf": {"importance": [models / "a.scores.safetensors"]},
        "average": {"mask": "dynamic:by=norm"},
    }
    for strategy, more in refused.items():
        merged = tmp_path / strategy
        merge([first], strategy, merged, base=str(models / "base"), keep_state=True, **more)
        maps = {"importance": [models / "b.scores.safetensors"]} if "importance" in more else {}
        with pytest.raises(BadValue, match="parameters that no earlier one does"):
            plan_onto(merged, [second], **maps)


def by_recipe(models: Path, tasks: str, out: Path, **more: object) -> Path:
    """Merge some tasks by rules: another strategy, numbers that run over depth, heads aside."""
    recipe = Recipe(
        base=str(models / "base"),
        tasks=[Task(task, str(models / task), weight=0.5) for task in tasks],
        strategy="ties",
        settings={"density": [0.3, 0.6]},
        rules=[
            Rule(match="layers.1.*", strategy="average", scale=0.5, weights={"a": [3.0, 1.0]}),
            Rule(match="ids", exclude=True),
        ],
        heads=["norm.*"],
    )
    execute(plan_recipe(recipe, **more), out)
    return out


def test_rules_and_heads_hold_for_the_tasks_that_are_added(models: Path, tmp_path: Path) -> None:
    whole = by_recipe(models, "abc", tmp_path / "whole", keep_state=True)
    ab = by_recipe(models, "ab", tmp_path / "ab", keep_state=True)
    merge_onto(ab, [str(models / "c")], tmp_path / "abc", weights=[0.5])
    assert contents(tmp_path / "abc") == contents(whole)
    assert len(list((tmp_path / "abc" / "heads").iterdir())) == 3
    merge_without(whole, ["c"], tmp_path / "without")
    assert contents(tmp_path / "without") == contents(ab)
    plain = merge_without(whole, ["a"], tmp_path / "no-a")  # whose weight a rule gives
    assert plain.heads.keys() == {"b", "c"}


def test_a_rule_that_needs_all_tasks_at_once_is_named(models: Path, tmp_path: Path) -> None:
    recipe = Recipe(
        base=str(models / "base"),
        tasks=[Task("a", str(models / "a")), Task("b", str(models / "b"))],
        strategy="ties",
        rules=[Rule(match="norm.*", strategy="consensus")],
    )
    with pytest.raises(BadValue, match="what consensus makes") as refusal:
        plan_recipe(recipe, keep_state=True)
    assert "rule 1" in str(refusal.value)


@pytest.fixture
def ab(models: Path, tmp_path: Path) -> Path:
    return at_once(models, "average", "ab", tmp_path / "ab", keep_state=True)


def test_a_merge_keeps_no_state_unless_asked(models: Path, tmp_path: Path) -> None:
    plain = at_once(models, "average", "ab", tmp_path / "plain")
    assert not (plain / FOLDER).exists()
    with pytest.raises(NotFound, match="keeps no running state") as refusal:
        onto(models, "average", plain, "c", tmp_path / "abc")
    assert "--keep-state" in str(refusal.value)
    with pytest.raises(NotFound, match="no merged model"):
        onto(models, "average", models / "base", "c", tmp_path / "abc")


@pytest.mark.parametrize(
    "file", ["model.safetensors", f"{FOLDER}/state.safetensors", "deltakit_recipe.json"]
)
def test_one_flipped_byte_in_the_merged_model_is_refused(
    models: Path, tmp_path: Path, ab: Path, file: str
) -> None:
    data = bytearray((ab / file).read_bytes())
    data[-3] ^= 1
    (ab / file).write_bytes(data)
    with pytest.raises(BadFile) as refusal:
        onto(models, "average", ab, "c", tmp_path / "abc")
    assert Path(file).name in str(refusal.value)
    assert not (tmp_path / "abc").exists()
    (ab / file).unlink()
    with pytest.raises((BadFile, NotFound)):
        onto(models, "average", ab, "c", tmp_path / "abc")


NOTES = [
    ("{", "not the note"),
    ('{"format": 2}', "newer deltakit"),
    ('{"since": 0, "digests": {}}', "names no recipe"),
    ('{"since": 0, "digests": {}, "more": 1}', "not the note"),
]


@pytest.mark.parametrize(("text", "words"), NOTES)
def test_a_note_that_is_none_is_refused(
    models: Path, tmp_path: Path, ab: Path, text: str, words: str
) -> None:
    (ab / FOLDER / NOTE).write_text(text)
    with pytest.raises(BadFile, match=words):
        onto(models, "average", ab, "c", tmp_path / "abc")


@pytest.mark.parametrize("name", ["../a/model.safetensors", "/etc/passwd", "missing"])
def test_a_note_that_names_a_file_elsewhere_is_refused(ab: Path, name: str) -> None:
    note = json.loads((ab / FOLDER / NOTE).read_text())
    note["digests"][name] = "0" * 64
    (ab / FOLDER / NOTE).write_text(json.dumps(note))
    with pytest.raises((BadFile, NotFound)):
        State.open(ab)


def vouched(folder: Path) -> None:
    """Make the note fit the files again, as a forger would."""
    note = json.loads((folder / FOLDER / NOTE).read_text())
    note["digests"] = {name: file_digest(folder / name)[1] for name in note["digests"]}
    (folder / FOLDER / NOTE).write_text(json.dumps(note))


def test_a_state_of_other_tensors_is_refused(models: Path, tmp_path: Path, ab: Path) -> None:
    path = ab / FOLDER / "state.safetensors"
    tensors = load_file(path)
    for wrong in (
        {**tensors, "more.sum": torch.zeros(2)},
        {name: tensor.double() for name, tensor in tensors.items()},
        {name.replace("norm", "form"): tensor for name, tensor in tensors.items()},
    ):
        save_file(wrong, path)
        vouched(ab)
        with pytest.raises(BadFile, match="not what average keeps"):
            onto(models, "average", ab, "c", tmp_path / "abc")


def test_a_strategy_that_needs_all_tasks_at_once_is_refused_with_those_that_do_not(
    models: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadValue, match="what consensus makes: it needs all tasks") as refusal:
        at_once(models, "consensus", "ab", tmp_path / "m", keep_state=True)
    assert "task_arithmetic, ties" in str(refusal.value)
    plain = at_once(models, "consensus", "ab", tmp_path / "plain")
    with pytest.raises(BadValue, match="what consensus makes"):
        onto(models, "consensus", plain, "c", tmp_path / "abc")
    for strategy, more, words in (
        ("sotu", {"settings": {}}, "p a number"),
        ("klf", {"settings": {"order": "joint"}}, "order=sequential"),
        ("average", {"mask": "random"}, "density a number"),
        ("average", {"mask": "disjoint"}, "--mask disjoint"),
        ("average", {"weights": "auto:metagpt"}, "found from all deltas"),
        ("average", {"tokenizer": "base"}, "matched by token"),
    ):
        with pytest.raises(BadValue) as refusal:
            at_once(models, strategy, "ab", tmp_path / "m", keep_state=True, **more)
        assert words in str(refusal.value)
    assert not (tmp_path / "m").exists()


def test_what_cannot_be_kept_exactly_is_refused(models: Path, tmp_path: Path) -> None:
    for more, words in (({"resume": True}, "not resumed"), ({"allow_nonfinite": True}, "no NaN")):
        with pytest.raises(BadValue, match=words):
            at_once(models, "average", "ab", tmp_path / "m", keep_state=True, **more)
    assert not (tmp_path / "m").exists()


def test_the_base_is_the_one_that_was_merged_onto(models: Path, tmp_path: Path, ab: Path) -> None:
    moved = shutil.copytree(models / "base", tmp_path / "moved")
    merge_onto(ab, [str(models / "c")], tmp_path / "abc", base=str(moved), weights=[0.9])
    here = onto(models, "average", ab, "c", tmp_path / "here")
    weights = "model.safetensors"
    assert (tmp_path / "abc" / weights).read_bytes() == (here / weights).read_bytes()
    tensors = load_file(moved / weights)
    tensors["norm.weight"][3] += 1
    save_file(tensors, moved / weights)
    with pytest.raises(WrongBase):
        merge_onto(ab, [str(models / "c")], tmp_path / "no", base=str(moved))


def test_a_task_is_added_once(models: Path, tmp_path: Path, ab: Path) -> None:
    with pytest.raises(BadValue, match="two tasks are called 'b'"):
        onto(models, "average", ab, "b", tmp_path / "abb")


def test_importance_maps_score_what_the_earlier_ones_did(models: Path, tmp_path: Path) -> None:
    merged = at_once(models, "fisher", "a", tmp_path / "m", keep_state=True)
    fewer = {"norm.weight": torch.ones(())}
    ImportanceMap(fewer, task="b").save(tmp_path / "b.safetensors")
    with pytest.raises(NamesDiffer, match="score other parameters"):
        merge_onto(
            merged, [str(models / "b")], tmp_path / "n", importance=[tmp_path / "b.safetensors"]
        )


def test_the_merged_model_itself_is_replaced_only_when_asked(
    models: Path, tmp_path: Path, ab: Path
) -> None:
    before = contents(ab)
    with pytest.raises(AlreadyThere):
        onto(models, "average", ab, "c", ab)
    assert contents(ab) == before
    abc = onto(models, "average", ab, "c", tmp_path / "abc")
    merge_onto(ab, [str(models / "c")], ab, overwrite=True, weights=[0.9])
    assert contents(ab) == contents(abc)


def test_a_failure_leaves_the_merged_model_as_it_was(
    models: Path, tmp_path: Path, ab: Path
) -> None:
    bad = load_file(models / "c" / "model.safetensors")
    bad["norm.weight"][5] = float("nan")
    write_model(tmp_path / "bad", bad)
    before = contents(ab)
    with pytest.raises(NonFinite, match="task 'bad'"):
        merge_onto(ab, [str(tmp_path / "bad")], ab, overwrite=True)
    assert contents(ab) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ab", "bad"]


@pytest.mark.parametrize("strategy", ["average", "ties", "consensus", "klf"])
def test_without_a_task_is_the_merge_of_the_others(
    models: Path, tmp_path: Path, strategy: str
) -> None:
    keeps = isinstance(get(strategy), Streaming)
    abc = at_once(models, strategy, "abc", tmp_path / "abc", keep_state=keeps)
    merge_without(abc, ["b"], tmp_path / "ac")
    ac = at_once(models, strategy, "ac", tmp_path / "whole", keep_state=keeps)
    assert contents(tmp_path / "ac") == contents(ac)


def test_without_is_refused_where_it_would_not_be_exact(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "a", tmp_path / "tuned")
    tasks = [str(tmp_path / "tuned"), str(models / "b")]
    merge(tasks, "average", tmp_path / "m", base=str(models / "base"), keep_state=True)
    merge_onto(tmp_path / "m", [str(models / "c")], tmp_path / "m", overwrite=True)
    weights = tmp_path / "tuned" / "model.safetensors"
    with pytest.raises(UnknownName, match="did you mean 'tuned'"):
        merge_without(tmp_path / "m", ["tuneb"], tmp_path / "n")
    with pytest.raises(BadValue, match="without tasks"):
        merge_without(tmp_path / "m", ["tuned", "b", "c"], tmp_path / "n")
    later = State.open(tmp_path / "m").note.since + 1
    os.utime(weights, ns=(later, later))  # after the first merge, before the second
    merge_without(tmp_path / "m", ["tuned"], tmp_path / "bc")
    with pytest.raises(InputChanged, match="after it was merged"):
        merge_without(tmp_path / "m", ["b"], tmp_path / "n")
    weights.unlink()
    with pytest.raises((NotFound, BadFile)):
        merge_without(tmp_path / "m", ["b"], tmp_path / "n")
    assert not (tmp_path / "n").exists()


def test_the_state_of_a_base_is_not_taken_for_that_of_the_result(
    models: Path, tmp_path: Path, ab: Path
) -> None:
    merge([str(models / "c")], "average", tmp_path / "plain", base=str(ab))
    assert not (tmp_path / "plain" / FOLDER).exists()
    merge([str(models / "c")], "average", tmp_path / "kept", base=str(ab), keep_state=True)
    assert [task.name for task in State.open(tmp_path / "kept").recipe.tasks] == ["c"]


def test_a_state_is_no_part_of_the_model(ab: Path) -> None:
    assert set(Checkpoint.open(ab)) == {*SHAPES, "ids"}
    assert {path.name for path in ab.glob("*.safetensors")} == {"model.safetensors"}
    kept = load_file(ab / FOLDER / "state.safetensors")
    assert set(kept) == {f"{name}.sum" for name in SHAPES}
    assert all(tensor.dtype == torch.float32 for tensor in kept.values())
