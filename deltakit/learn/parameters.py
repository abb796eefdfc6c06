"""Which parameters of a live model are tracked, under the names their checkpoint gives them."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from deltakit.errors import BadValue, DeltakitError, nearest

WRAPPERS = ("module", "_orig_mod")


def checkpoint_name(name: str, adapters: Iterable[str] = ()) -> str:
    """Return the name a parameter has in its saved checkpoint.

    >>> checkpoint_name("module._orig_mod.encoder.weight")
    'encoder.weight'
    >>> checkpoint_name("base_model.model.q.lora_A.default.weight", ["default"])
    'base_model.model.q.lora_A.weight'

    DistributedDataParallel puts `module.` in front and torch.compile `_orig_mod.` in front or
    in the middle; PEFT leaves its adapter's name out of the file.
    """
    parts = name.split(".")
    while parts[0] in WRAPPERS and len(parts) > 1:
        parts = parts[1:]
    parts = [part for part in parts if part != "_orig_mod"]
    if any(part.startswith("lora_") for part in parts):
        parts = [part for part in parts if part not in adapters]
    return ".".join(parts)


def tracked(
    model: torch.nn.Module, names: Iterable[str] | None = None
) -> dict[str, torch.nn.Parameter]:
    """Return the trainable float parameters of `model` by checkpoint name, tied ones once.

    `names` keeps only those. Raises `BadValue` for a name the model does not have or a model
    with nothing to train, `DeltakitError` for a sharded parameter.
    """
    adapters = tuple(getattr(model, "peft_config", {}))
    found: dict[str, torch.nn.Parameter] = {}
    for raw, parameter in model.named_parameters():
        if not parameter.requires_grad or not parameter.numel():
            continue
        if hasattr(parameter, "device_mesh") or "_flat_param" in raw:
            raise DeltakitError(
                "a parameter is sharded over devices",
                where=raw,
                expected="whole parameters on each rank (one device, or DistributedDataParallel)",
                got=type(parameter).__name__,
                remedy="train without FSDP, or measure importance afterwards on labelled data",
            )
        name = checkpoint_name(raw, adapters)
        if name in found:
            raise DeltakitError(
                "two parameters have the same checkpoint name",
                where=raw,
                got=name,
                remedy="attach to one adapter's model at a time",
            )
        found[name] = parameter
    if not found:
        raise BadValue("the model has no trainable parameter", got=type(model).__name__)
    return found if names is None else _chosen(found, names)


def _chosen(
    found: dict[str, torch.nn.Parameter], names: Iterable[str]
) -> dict[str, torch.nn.Parameter]:
    wanted = set(names)
    for name in sorted(wanted - found.keys()):
        close = nearest(name, list(found))
        raise BadValue(
            "the model has no trainable parameter of this name",
            expected=f"one of {len(found)} names",
            got=name,
            remedy=f'did you mean "{close}"?' if close else None,
        )
    if not wanted:
        raise BadValue("no parameter name was given", got="an empty `names`")
    return {name: parameter for name, parameter in found.items() if name in wanted}
