"""A layer of the output is the layer of the model that its slice names, and nothing else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deltakit.errors import BadValue, NamesDiffer, ShapeMismatch, UnknownName
from deltakit.recipe import ModelLayers, Slice, Task
from deltakit.recipe.slice import check_slices
from deltakit.stacking import stack
from deltakit.tensors.source import MemoryTensors


def model(number, layers=4, width=2, **more):
    """A model whose tensors say of which model and layer they are."""
    found = {"embed.weight": torch.full((3, width), 10.0 * number)}
    for layer in range(layers):
        found[f"h.{layer}.w"] = torch.full((width, width), 10.0 * number + layer)
    return MemoryTensors({**found, "norm.weight": torch.full((width,), 10.0 * number), **more})


A, B, C = (model(number) for number in (1, 2, 3))


def values(source):
    return {name: source[name].flatten()[0].item() for name in source}


def test_slices_follow_one_another_and_layers_are_numbered_anew():
    slices = [Slice(layers="0-1", take="base"), Slice(layers=[1, 3], take="b")]
    found = stack(slices, A, {"b": B})
    assert values(found.base) == {
        "embed.weight": 10.0, "h.0.w": 10.0, "h.1.w": 11.0,
        "h.2.w": 21.0, "h.3.w": 22.0, "h.4.w": 23.0, "norm.weight": 20.0,
    }  # fmt: skip
    assert found.taken == set(found.base)
    assert found.ranges() == [(0, 1), (2, 4)]
    assert found.outer == ["b"]
    assert not values(found.tasks["b"])


def test_a_merged_slice_has_layers_of_the_base_and_of_each_task():
    slices = [Slice(layers=0, take="c"), Slice(layers="1-2", task_layers={"c": "2-3"})]
    found = stack(slices, A, {"b": B, "c": C})
    assert values(found.base) == {
        "embed.weight": 30.0, "h.0.w": 30.0, "h.1.w": 11.0, "h.2.w": 12.0, "norm.weight": 10.0
    }  # fmt: skip
    assert values(found.tasks["b"]) == {"h.1.w": 21.0, "h.2.w": 22.0, "norm.weight": 20.0}
    assert values(found.tasks["c"]) == {"h.1.w": 32.0, "h.2.w": 33.0, "norm.weight": 30.0}
    assert found.taken == {"embed.weight", "h.0.w"}


def test_a_slice_may_have_another_base_and_another_model_in_a_tasks_place():
    slices = [
        Slice(layers="0-1", task_layers={"b": ModelLayers("c", "2-3")}),
        Slice(layers=[2, 2], base="c"),
        Slice(layers=0, take="c"),
        Slice(layers=3, base="b", task_layers={"b": ModelLayers("base", 1)}),
    ]
    found = stack(slices, A, {"b": B}, {"c": C})
    assert values(found.base) == {
        "embed.weight": 10.0, "h.0.w": 10.0, "h.1.w": 11.0,
        "h.2.w": 32.0, "h.3.w": 30.0, "h.4.w": 23.0, "norm.weight": 20.0,
    }  # fmt: skip
    assert values(found.tasks["b"]) == {
        "embed.weight": 30.0, "h.0.w": 32.0, "h.1.w": 33.0,
        "h.2.w": 22.0, "h.4.w": 11.0, "norm.weight": 10.0,
    }  # fmt: skip
    assert found.taken == {"h.3.w"}
    assert found.outer == ["b", "c"]
    assert [level.model for level in found.levels] == ["base", "base", "c", "c", "b"]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from(["base", "b"]))))
def test_every_layer_is_where_counting_puts_it(parts):
    ranges = [(min(a, b), max(a, b), take) for a, b, take in parts] or [(0, 3, "base")]
    found = stack([Slice(layers=[a, b], take=t) for a, b, t in ranges], A, {"b": B})
    wanted = [(t == "b") * 10 + 10 + n for a, b, t in ranges for n in range(a, b + 1)]
    assert [found.base[f"h.{n}.w"][0, 0].item() for n in range(len(wanted))] == wanted
    assert len(found.base) == len(wanted) + 2


@pytest.mark.parametrize(
    ("slices", "error", "match"),
    [
        ([Slice(layers="2-4", take="b")], BadValue, "not in the model"),
        ([Slice(layers="0-1", task_layers={"b": "0-2"})], BadValue, "of another number"),
        ([Slice(layers=0, take="wide")], ShapeMismatch, "another shape"),
        (
            [Slice(layers=0, take="base"), Slice(layers=0, take="odd")],
            NamesDiffer,
            "base's tensors",
        ),
    ],
)
def test_layers_that_do_not_fit_are_refused_and_the_slice_named(slices, error, match):
    odd = MemoryTensors({"embed.weight": A["embed.weight"], "h.0.other": A["h.0.w"]})
    every = {"b": B, "wide": model(5, width=3), "odd": odd}
    named = {name for part in slices for name in (part.take, *part.task_layers)}
    with pytest.raises(error, match=match) as caught:
        stack(slices, A, {name: every[name] for name in every if name in named})
    assert "slice " in str(caught.value)


def test_a_stack_that_no_machine_could_hold_is_refused_at_once():
    with pytest.raises(BadValue, match="too many layers"):
        stack([Slice(layers="0-3", take="base")] * 1_000_000, A, {})


@pytest.mark.parametrize(
    "names",
    [["w"], ["a.0.w", "b.0.w"], ["h.0.w", "h.2.w"], ["h.1.w"]],
    ids=["none", "two lists", "a hole", "not from 0"],
)
def test_a_model_without_one_list_of_layers_cannot_be_stacked(names):
    odd = MemoryTensors({name: torch.ones(1) for name in names})
    with pytest.raises(BadValue, match="one list of layers"):
        stack([Slice(layers=0)], odd, {})


@pytest.mark.parametrize(
    ("slices", "tasks", "error", "match"),
    [
        ([Slice(layers=0, take="bsae")], ["a"], UnknownName, "did you mean 'base'"),
        ([Slice(layers=0, task_layers={"x": 0})], ["a"], UnknownName, "none of the models"),
        ([Slice(layers=0, take="a", task_layers={"a": 0})], ["a"], BadValue, "one model"),
        ([Slice(layers=0, take="base")], ["a"], BadValue, "no slice has a layer of the task 'a'"),
        ([Slice(layers=0, take="base")], ["base"], BadValue, "a task is called base too"),
    ],
)
def test_a_slice_of_models_that_are_not_there_is_refused(slices, tasks, error, match):
    with pytest.raises(error, match=match):
        check_slices(slices, [Task(name, f"./{name}") for name in tasks], "./m")
