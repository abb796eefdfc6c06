"""The models and slices that a mergekit configuration names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deltakit.errors import BadFile
from deltakit.mergekit.config import Config, Slice


def slices_of(config: Config) -> list[Slice]:
    """Return the slices of a configuration: one of all layers where it names models."""
    if config.models is not None:
        if any(source.layer_range is not None for source in config.models):
            raise BadFile("layer_range belongs to slices, not to models")
        slices = [Slice(config.models)]
    else:
        slices = config.slices or []
    if not slices or not all(part.sources for part in slices):
        raise BadFile("no model is named")
    for part in slices:
        if any(s.layer_range is None for s in part.sources) and (config.slices is not None):
            raise BadFile("slices: a source without its layer_range")
    return slices


def path_of(model: Any, key: str) -> str:
    """Return the folder that a model is named by; adapters and names on a hub are refused."""
    if isinstance(model, Mapping):
        found = model.get("model")
        inner = found.get("path") if isinstance(found, Mapping) else found
        if set(model) - {"model"} or not isinstance(inner, str):
            raise BadFile(f"{key}: more than a path", got=f"{sorted(model)}", remedy="give a path")
        model = inner
    if not isinstance(model, str) or not model:
        raise BadFile(f"{key} is no path", got=f"{model}"[:80])
    if Path(model).exists():
        return str(Path(model))
    if "+" in model:
        raise BadFile(
            f"{key}: a model with an adapter on it",
            got=model,
            remedy="bake it first: deltakit lora bake ADAPTER --base MODEL --out DIR",
        )
    raise BadFile(
        f"{key}: no such folder",
        got=model,
        remedy="download the model, and name its folder: nothing is fetched from a hub here",
    )


def names_of(paths: Sequence[str]) -> list[str]:
    """Return a name for each model: its folder's, numbered where that is not enough."""
    short = [Path(path).resolve().name for path in paths]
    return [
        name if short.count(name) == 1 else f"{name}-{number}"
        for number, name in enumerate(short, 1)
    ]
