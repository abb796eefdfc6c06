"""Masks, weightings, depth and units on their way through the engine to the model folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deltakit import kernels, strategies
from deltakit.engine import Limits, Plan, execute, make_plan
from deltakit.errors import BadValue, NamesDiffer, ShapeMismatch
from deltakit.importance import ImportanceMap
from deltakit.lazy import LazyDeltas
from deltakit.recipe import Piece, Recipe
from deltakit.strategies import Method, Stack, depths
from tests.engine.merging import TASKS, merged, plan, weights, write_models
from tests.kernels import without_kernels
from tests.models import write_model

SHAPES = {
    "layers.0.attn.q_proj.weight": (24, 16),
    "layers.1.mlp.weight": (10, 30),
    "norm.weight": (16,),
}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A base and three fine-tunes of it that have something in common."""
    drawn = np.random.default_rng(0)

    def some() -> dict[str, np.ndarray]:
        return {name: drawn.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}

    base, common = some(), some()
    write_model(tmp_path / "base", {n: torch.from_numpy(v) for n, v in base.items()})
    for task in TASKS:
        own = some()
        tuned = {n: torch.from_numpy(base[n] + 0.1 * (common[n] + own[n])) for n in SHAPES}
        write_model(tmp_path / task, tuned)
    return tmp_path


def by_hand(folder: Path, made: Recipe, scores: Any = None) -> dict[str, torch.Tensor]:
    """The merged model from whole tensors in memory, without the engine."""
    made = made.checked()
    method: Method = made.methods()[0]
    names = [task.name for task in made.tasks]
    base, tuned = weights(folder / "base"), [weights(folder / name) for name in names]
    where = depths(base)
    shapes = {name: tuple(before.shape) for name, before in base.items()}
    facts = method.prepare([scores[name] for name in names], shapes) if scores else {}
    found = {}
    for name, before in base.items():
        stack = Stack(
            torch.stack([model[name] - before for model in tuned]),
            tuple(task.weight for task in made.tasks),
            tuple(names),
            name,
            before,
            seed=made.seed,
            depth=where[name],
            fact=facts.get(name),
            scores=tuple(scores[task][name] for task in names) if scores else (),
        )
        found[name] = before + method.merge(stack)
    return found


METHODS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in strategies.names() if not strategies.find(name).needs_importance),
    ("slerp", {"settings": {"on": "deltas", "t": 0.3}}),
    ("average", {"weighting": Piece("similarity", {"scope": "tensor"})}),
    ("ties", {"weighting": Piece("doge")}),
    ("task_arithmetic", {"mask": Piece("disjoint")}),
    ("task_arithmetic", {"mask": Piece("nm")}),
    ("task_arithmetic", {"mask": Piece("dynamic", {"density": 0.1, "last": 0.9})}),
    ("task_arithmetic", {"mask": Piece("group", {"by": "head", "heads": 4})}),
    ("task_arithmetic", {"mask": Piece("group", {"by": "column"})}),
    ("average", {"mask": Piece("outliers", {"density": 0.5, "gamma": 0.1})}),
    ("ties", {"mask": Piece("importance")}),
    ("sce", {"mask": Piece("magnitude")}),
    ("average", {"lines": (0.25, 0.75)}),
]


@pytest.mark.parametrize(
    ("name", "options"), METHODS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_the_engine_gives_what_the_formula_gives_on_whole_tensors(
    name: str, options: dict[str, Any], models: Path
) -> None:
    tasks = TASKS[: strategies.find(name).most]
    made = plan(models, name, tasks=tasks, **options)
    expected = by_hand(models, made.recipe)
    out = weights(merged(models, name, Limits(2, 40), tasks=tasks, **options))
    for tensor, values in expected.items():
        torch.testing.assert_close(out[tensor], values, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(kernels.compiled is None, reason="no kernels were built")
@pytest.mark.parametrize(
    ("name", "options"),
    [*METHODS, ("dare", {"settings": {"rescale": "l1"}})],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_just_where_the_kernels_do_all_no_delta_becomes_a_tensor(
    name: str, options: dict[str, Any], models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(models, name, tasks=TASKS[: strategies.find(name).most], **options)
    check_for_kernels(made, models, monkeypatch)


@pytest.mark.skipif(kernels.compiled is None, reason="no kernels were built")
@pytest.mark.parametrize("finer", ["", *SHAPES])
def test_klf_is_for_the_kernels_where_every_map_has_one_score_a_tensor(
    finer: str, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps(models, {name: shape if name == finer else () for name, shape in SHAPES.items()})
    made = with_maps(models, "klf")
    assert made.for_kernels == (not finer)
    check_for_kernels(made, models, monkeypatch)


def check_for_kernels(made: Plan, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    became = []

    def tensor(deltas: LazyDeltas) -> torch.Tensor:
        became.append(deltas)
        return torch.stack([delta.tensor for delta in deltas.each]).view(len(deltas), *deltas.shape)

    monkeypatch.setattr(LazyDeltas, "tensor", property(tensor))
    execute(made, models / "out")
    assert made.for_kernels == (not became)


@pytest.mark.parametrize("scope", ["metagpt", "similarity"])
def test_weights_of_the_whole_model_are_the_same_for_every_tensor(scope: str, models: Path) -> None:
    base = weights(models / "base")
    deltas = [
        torch.cat([(weights(models / t)[n] - base[n]).reshape(-1) for n in sorted(base)])
        for t in TASKS
    ]
    found = strategies.weights.get(scope).weights(Stack(torch.stack(deltas)))
    out = weights(merged(models, "task_arithmetic", weighting=Piece(scope)))
    for name in base:
        each = [weights(models / t)[name] - base[name] for t in TASKS]
        expected = base[name] + sum(w * d for w, d in zip(found, each, strict=True))
        torch.testing.assert_close(out[name], expected)


def test_lines_scale_by_depth(models: Path) -> None:
    out = weights(merged(models, "average", lines=(0.25, 0.75)))
    plain = weights(merged(models, "average"))
    base = weights(models / "base")
    for name, factor in zip(SHAPES, (0.25, 1.0, 1.0), strict=True):
        torch.testing.assert_close(out[name], base[name] + factor * (plain[name] - base[name]))


def maps(folder: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, dict[str, torch.Tensor]]:
    """Write one importance map a task and return their scores."""
    drawn = np.random.default_rng(1)
    scores = {
        t: {n: torch.from_numpy(drawn.random(s).astype(np.float32)) for n, s in shapes.items()}
        for t in TASKS
    }
    for task, found in scores.items():
        ImportanceMap(found, task=task, units="element").save(folder / f"{task}.imp", replace=True)
    return scores


def with_maps(folder: Path, strategy: str, limits: Limits | None = None, **options: Any) -> Any:
    """A plan whose experts have the maps written before."""
    made = plan(folder, "average")
    for expert in made.experts:
        object.__setattr__(expert, "importance", folder / f"{expert.name}.imp")
    recipe = Recipe(base=made.recipe.base, tasks=made.recipe.tasks, strategy=strategy, **options)
    return make_plan(recipe, made.base, made.experts, limits=limits or Limits(2, 40))


WITH_MAPS: list[tuple[str, dict[str, Any]]] = [
    ("fisher", {}),
    ("ewc", {}),
    ("importance_weighted", {}),
    ("average", {"mask": Piece("importance", {"by": "map"})}),
    ("klf", {}),
    ("klf", {"settings": {"order": "joint", "fusion": "adaptive"}}),
]


@pytest.mark.parametrize(("name", "options"), WITH_MAPS)
def test_importance_of_elements_reaches_every_block(
    name: str, options: dict[str, Any], models: Path, tmp_path: Path
) -> None:
    scores = maps(models, SHAPES)
    made = with_maps(models, name, **options)
    execute(made, tmp_path / "out")
    out = weights(tmp_path / "out")
    for tensor, values in by_hand(models, made.recipe, scores).items():
        torch.testing.assert_close(out[tensor], values)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(("name", "options"), WITH_MAPS)
def test_importance_gives_the_same_bytes_for_any_threads_blocks_and_without_kernels(
    name: str, options: dict[str, Any], shards: int, models: Path, tmp_path: Path
) -> None:
    maps(models, SHAPES)
    execute(with_maps(models, name, Limits(1), **options), tmp_path / "out")
    expected = (tmp_path / "out" / "model.safetensors").read_bytes()
    for task in ("base", *TASKS):
        write_model(tmp_path / "cut" / task, weights(models / task), shards=shards)
    maps(tmp_path / "cut", SHAPES)
    for limits in (Limits(1, 8), Limits(2, 100), Limits(4)):
        execute(
            with_maps(tmp_path / "cut", name, limits, **options), tmp_path / "out", overwrite=True
        )
        assert (tmp_path / "out" / "model.safetensors").read_bytes() == expected
    with without_kernels():
        execute(with_maps(models, name, Limits(2, 40), **options), tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == expected


def test_importance_that_does_not_fit_is_refused(models: Path) -> None:
    maps(models, {**SHAPES, "norm.weight": (15,)})
    with pytest.raises(ShapeMismatch, match="does not fit a parameter"):
        with_maps(models, "fisher")
    scores = maps(models, SHAPES)
    del scores["b"]["norm.weight"]
    ImportanceMap(scores["b"], task="b", units="element").save(models / "b.imp", replace=True)
    with pytest.raises(NamesDiffer, match="lacks parameters that another map has"):
        with_maps(models, "fisher")


def test_gram_matrices_reach_regmean_and_others_are_refused(models: Path, tmp_path: Path) -> None:
    drawn = np.random.default_rng(2)
    linear = {name: shape for name, shape in SHAPES.items() if len(shape) == 2}
    grams = {
        task: {
            name: torch.from_numpy(np.cov(drawn.normal(size=(shape[1], 99))).astype(np.float32))
            for name, shape in linear.items()
        }
        for task in TASKS
    }
    for task, found in grams.items():
        ImportanceMap(found, task=task, units="gram").save(models / f"{task}.imp")
    made = with_maps(models, "regmean")
    execute(made, tmp_path / "out")
    every = {task: {**found, "norm.weight": torch.ones(())} for task, found in grams.items()}
    out = weights(tmp_path / "out")
    for tensor, values in by_hand(models, made.recipe, every).items():
        torch.testing.assert_close(out[tensor], values)
    with pytest.raises(BadValue, match="holds other than scores"):
        with_maps(models, "fisher")
    maps(models, SHAPES)
    with pytest.raises(BadValue, match="holds other than Gram matrices") as refusal:
        with_maps(models, "regmean")
    assert "deltakit importance a --kind gram" in str(refusal.value)


def test_memory_too_small_for_a_whole_tensor_is_refused(tmp_path: Path) -> None:
    write_models(tmp_path, tensors={"w": torch.zeros(400, 500) + 0.5})
    with pytest.raises(BadValue, match="too few") as refusal:
        plan(tmp_path, "tsv", Limits(1, memory=1_000_000))
    needed = int(str(refusal.value).partition("at least ")[2].split()[0])
    assert plan(tmp_path, "tsv", Limits(1, memory=needed)).scratch.nbytes <= needed
    assert plan(tmp_path, "ties", Limits(1, memory=needed * 9 // 10)).scratch.block < 200_000
    assert plan(tmp_path, "della", Limits(1, 8)).step("w") == 500
