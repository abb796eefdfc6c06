"""Where a parameter lies in its model, read from its name."""

from __future__ import annotations

from collections.abc import Iterable

from deltakit.tensors.tied import is_embedding, is_head


def layer(name: str) -> int | None:
    """Return the number of the layer a parameter belongs to, or None for one outside of layers.

    >>> layer("model.layers.12.mlp.up_proj.weight"), layer("lm_head.weight")
    (12, None)
    """
    numbers = (int(part) for part in name.split(".") if part.isascii() and part.isdigit())
    return next(numbers, None)


def with_layer(name: str, number: int) -> str:
    """Return what a parameter of a layer is called in another layer.

    >>> with_layer("model.layers.12.mlp.up_proj.weight", 3)
    'model.layers.3.mlp.up_proj.weight'
    """
    return _with(name, str(number))


def without_layer(name: str) -> str:
    """Return what parameters that differ only in their layer's number have in common.

    >>> without_layer("model.layers.12.mlp.up_proj.weight"), without_layer("lm_head.weight")
    ('model.layers.*.mlp.up_proj.weight', 'lm_head.weight')
    """
    return name if layer(name) is None else _with(name, "*")


def _with(name: str, number: str) -> str:
    parts = name.split(".")
    at = next(i for i, part in enumerate(parts) if part.isascii() and part.isdigit())
    return ".".join([*parts[:at], number, *parts[at + 1 :]])


def depths(names: Iterable[str]) -> dict[str, float]:
    """Return the depth of each parameter: 0 in the first layer, 1 in the last.

    >>> depths(["h.0.w", "h.1.w", "h.2.w", "embed.weight", "norm.weight"])
    {'h.0.w': 0.0, 'h.1.w': 0.5, 'h.2.w': 1.0, 'embed.weight': 0.0, 'norm.weight': 1.0}

    Outside of layers, what is called an embedding lies before the first and the rest after the
    last. A model of one layer lies at depth 1.
    """
    layers = {name: layer(name) for name in names}
    last = max((number for number in layers.values() if number is not None), default=0)

    def depth(name: str) -> float:
        number = layers[name]
        if number is not None:
            return number / last if last else 1.0
        weight = f"{name.rpartition('.')[0]}.weight"
        if is_head(weight):  # whatever it is called: embed_out is a head
            return 1.0
        called = "emb" in name.lower() or {"wte", "wpe"} & set(name.split("."))
        return 0.0 if called or is_embedding(weight) else 1.0

    return {name: depth(name) for name in layers}
