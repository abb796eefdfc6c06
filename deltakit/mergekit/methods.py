"""mergekit's methods and their parameters, each as the strategy that computes the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deltakit.errors import BadFile, nearest
from deltakit.recipe import Piece

_TIES_NOTE = (
    "an entry whose weighted deltas sum to exactly 0 is left as in the base, mergekit elects +;"
    " a trim keeps round(density n) entries, mergekit rounds down"
)
_MASKS_NOTE = "random masks are drawn by another generator: the same law, other entries"
_OUTLIERS_NOTE = "where a density keeps a fraction of an entry it is rounded, mergekit rounds down"
_DELLA_NOTE = (
    "della's rescale divides each entry by its probability, as the paper; mergekit restores the L1"
    " norm of the tensor"
)
_STOCK_NOTE = "where deltas point apart the ratio is 0, the base; mergekit's goes below it"


@dataclass(frozen=True)
class Method:
    """What mergekit's method takes, with its defaults; None for a parameter that must be given."""

    shared: Mapping[str, Any] = field(default_factory=dict)
    each: Mapping[str, Any] = field(default_factory=dict)  # of each model
    needs_base: bool = True
    notes: Sequence[str] = ()
    sums: bool = False  # so that a model of weight 0 has no part in it
    elects: bool = False  # so that a delta of zeros has no part in it


_DELTAS = {"normalize": False, "rescale": False, "lambda": 1.0, "int8_mask": False}
_EACH = {"weight": None, "density": 1.0}

METHODS: dict[str, Method] = {
    "linear": Method({"normalize": True}, {"weight": None}, needs_base=False, sums=True),
    "task_arithmetic": Method(_DELTAS, _EACH, sums=True),
    "ties": Method({**_DELTAS, "normalize": True}, _EACH, notes=[_TIES_NOTE], elects=True),
    "dare_linear": Method({**_DELTAS, "rescale": True}, _EACH, notes=[_MASKS_NOTE], sums=True),
    "dare_ties": Method(
        {**_DELTAS, "rescale": True}, _EACH, notes=[_MASKS_NOTE, _TIES_NOTE], elects=True
    ),
    "breadcrumbs": Method(_DELTAS, {**_EACH, "gamma": 0.01}, notes=[_OUTLIERS_NOTE], sums=True),
    "breadcrumbs_ties": Method(
        _DELTAS, {**_EACH, "gamma": 0.01}, notes=[_OUTLIERS_NOTE, _TIES_NOTE], elects=True
    ),
    "della": Method(
        {**_DELTAS, "normalize": True, "rescale": True},
        {**_EACH, "epsilon": 0.15},
        notes=[_MASKS_NOTE, _DELLA_NOTE, _TIES_NOTE],
        elects=True,
    ),
    "della_linear": Method(
        {**_DELTAS, "rescale": True},
        {**_EACH, "epsilon": 0.15},
        notes=[_MASKS_NOTE, _DELLA_NOTE],
        sums=True,
    ),
    "slerp": Method({"t": None}),
    "model_stock": Method({"filter_wise": False}, notes=[_STOCK_NOTE]),
    "sce": Method({"select_topk": 1.0, "int8_mask": False}),
    "passthrough": Method({}, {"scale": 1.0}, needs_base=False),
}


@dataclass(frozen=True)
class Made:
    """What a method with its values is here."""

    strategy: str
    settings: dict[str, Any] = field(default_factory=dict)
    mask: Piece | None = None
    scale: Any = 1.0


def method(name: str) -> Method:
    """Return a method by mergekit's name; BadFile for one that has no counterpart."""
    if name in METHODS:
        return METHODS[name]
    close = nearest(name, METHODS)
    raise BadFile(
        f"merge_method: {name!r} has no counterpart",
        expected=", ".join(METHODS),
        remedy=f"did you mean {close!r}?" if close else "see: deltakit strategies",
    )


def made(
    name: str,
    values: Mapping[str, Any],
    weights: Sequence[Any],
    by_task: Mapping[str, Mapping[str, Any]],
) -> Made:
    """Return the strategy and what is around it for a method with all its values.

    `values` holds the shared parameters, and the models' where all have the same; `by_task` what
    some of the models have in their place.
    """
    for key in ("normalize", "rescale"):
        if not isinstance(values.get(key, True), bool):
            raise BadFile(f"{key} is neither true nor false", got=f"{values[key]}"[:40])
    if name == "slerp":
        return Made("slerp", {"t": values["t"]})
    if name == "model_stock":
        _only(values, "filter_wise", False)
        return Made("model_stock")
    if name == "sce":
        return Made("sce", {"topk": values["select_topk"]})
    if name == "linear":
        return _linear(values, weights)
    return _of_deltas(name, values, by_task)


def _linear(values: Mapping[str, Any], weights: Sequence[Any]) -> Made:
    if values["normalize"]:
        return Made("average")
    if any(isinstance(weight, list) for weight in weights) or abs(sum(weights) - 1) > 1e-9:
        raise BadFile(
            "linear with normalize: false and weights that do not sum to 1 scales the model itself",
            remedy="let the weights sum to 1, or normalize",
        )
    return Made("task_arithmetic")


def _of_deltas(
    name: str, values: Mapping[str, Any], by_task: Mapping[str, Mapping[str, Any]]
) -> Made:
    kind = name.removesuffix("_ties").removesuffix("_linear")
    each = {task: {**values, **own} for task, own in by_task.items()}
    mask, density = _mask(kind, values, each), 1.0
    if kind == "ties" and not each:  # the trim that the strategy brings along, which is faster
        mask, density = None, values["density"]
    if METHODS[name].elects:
        settings = {"density": density, "combine": "mean" if values["normalize"] else "sum"}
        return Made("ties", settings, mask, values["lambda"])
    return Made("average" if values["normalize"] else "task_arithmetic", {}, mask, values["lambda"])


_MASKS = {"ties": "magnitude", "dare": "random", "breadcrumbs": "outliers", "della": "rank"}


def _mask(
    kind: str, values: Mapping[str, Any], each: Mapping[str, Mapping[str, Any]]
) -> Piece | None:
    """Return the mask by which a method thins the deltas, with the settings of single tasks."""
    if kind not in _MASKS or all(v["density"] == 1.0 for v in (values, *each.values())):
        return None
    own = {task: _thinned(kind, of_task) for task, of_task in each.items()}
    return Piece(_MASKS[kind], _thinned(kind, values), own)


def _thinned(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a method's mask; a density of 1 thins nothing, whatever is beside."""
    density, rescale = values["density"], values["rescale"]
    if kind in ("ties", "breadcrumbs") and density != 1.0:
        _only(values, "rescale", False)
    if kind == "ties":
        return {"density": density}
    if kind == "dare":
        return {"density": density, "rescale": "l1" if rescale else "none"}
    if kind == "breadcrumbs":
        return {"density": density, "gamma": values["gamma"] if density != 1.0 else 0.0}
    way = "inverse" if rescale else "none"
    eps = values["epsilon"] if density != 1.0 else 0.0
    return {"density": density, "eps": eps, "rescale": way}


def _only(values: Mapping[str, Any], key: str, wanted: Any) -> None:
    if values[key] != wanted:
        raise BadFile(
            f"{key}: {values[key]} has no counterpart with this method",
            expected=f"{key}: {wanted}",
            remedy="leave it out, or merge with mergekit",
        )
