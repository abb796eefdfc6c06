"""What another program will not take of an adapter, told before it is tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from deltakit.errors import UnknownName, some
from deltakit.lora.adapter import Adapter

VLLM_RANK = 16  # its default max_lora_rank


class Finding(msgspec.Struct, frozen=True):
    """One thing to know: an error is refused or computed wrongly, a warning may be."""

    level: Literal["error", "warning"]
    fact: str
    remedy: str


def lint(adapter: Adapter, program: str, *, rank: int = VLLM_RANK) -> list[Finding]:
    """Return what `program` (peft, vllm or kohya) will not take of an adapter; reads headers only.

    >>> lint(open_adapter("./lora-a"), "vllm", rank=64)                  # doctest: +SKIP
    []

    rank: the largest the server was started for (vLLM's --max-lora-rank).
    """
    if program not in _RULES:
        raise UnknownName(f"no rules for {program!r}", expected=", ".join(_RULES))
    return list(_RULES[program](adapter, rank))


def _peft(adapter: Adapter, rank: int) -> Iterator[Finding]:
    if adapter.flat:
        yield Finding(
            "error", "a kohya file", "deltakit lora convert FILE --to peft --base PATH --out DIR"
        )
    yield from _several_dtypes(adapter)


def _vllm(adapter: Adapter, rank: int) -> Iterator[Finding]:
    yield from _peft(adapter, rank)
    config = adapter.config
    smaller = "deltakit lora resize ADAPTER --rank K --out DIR"
    bake = "bake it: deltakit lora bake ADAPTER --base PATH --out DIR"
    ranks = sorted({part.rank for part in adapter.parts.values()})
    if ranks and ranks[-1] > rank:
        yield Finding(
            "error",
            f"rank {ranks[-1]} is above {rank}",
            f"start it with --max-lora-rank {ranks[-1]}, or: {smaller}",
        )
    if config.rank_pattern or config.alpha_pattern:
        scalings = {part.scaling for part in adapter.parts.values()}
        yield Finding(
            "error" if len(scalings) > 1 else "warning",
            "rank_pattern or alpha_pattern, which it does not read: one alpha / r for all modules",
            "deltakit lora merge ADAPTER --mode cat --uniform --out DIR",
        )
    if config.use_rslora:
        yield Finding(
            "warning",
            "use_rslora, which older versions do not read",
            "fold it: deltakit lora merge ADAPTER --mode cat --out DIR",
        )
    if config.use_dora:
        yield Finding("error", "DoRA", bake)
    if config.lora_bias:
        yield Finding("error", "lora_bias", bake)
    if config.bias != "none":
        yield Finding("error", f"bias {config.bias!r}", bake)
    others = [
        name
        for name in adapter.whole
        if name.rpartition(".")[0].rpartition(".")[2] not in ("classifier", "score")
    ]
    if others:
        yield Finding("error", f"parameters kept whole: {some(others)}", bake)
    if adapter.rows:
        yield Finding("error", f"trained rows of {some(adapter.rows)}", bake)
    kinds = {part.kind for part in adapter.parts.values()} - {"linear"}
    if kinds:
        yield Finding(
            "warning", f"adapters of kind {some(kinds)}, which few models there take", bake
        )
    if not isinstance(config.fields.get("target_modules"), list):
        yield Finding(
            "warning",
            "target_modules is no list of names",
            "deltakit lora merge ADAPTER --mode cat --out DIR writes one",
        )


def _kohya(adapter: Adapter, rank: int) -> Iterator[Finding]:
    bake = "bake it: deltakit lora bake ADAPTER --base PATH --out DIR"
    parts = adapter.parts.values()
    if any(part.kind == "embedding" for part in parts):
        yield Finding("error", "adapters of embeddings", bake)
    if any(part.magnitude for part in parts):
        yield Finding("error", "DoRA", bake)
    if any(part.bias for part in parts):
        yield Finding("error", "lora_bias", bake)
    if adapter.whole or adapter.rows:
        yield Finding(
            "error", f"parameters kept whole: {some([*adapter.whole, *adapter.rows])}", bake
        )
    flat = [part.module.replace(".", "_") for part in parts]
    if len(set(flat)) < len(flat):
        yield Finding("error", "two modules have one name without dots", bake)
    yield from _several_dtypes(adapter)


def _several_dtypes(adapter: Adapter) -> Iterator[Finding]:
    if len(adapter.dtypes) > 1:
        yield Finding(
            "warning",
            f"tensors of several dtypes: {some(adapter.dtypes)}",
            "deltakit lora merge ADAPTER --mode cat --dtype bfloat16 --out DIR",
        )


_RULES: dict[str, Callable[[Adapter, int], Iterator[Finding]]] = {
    "peft": _peft,
    "vllm": _vllm,
    "kohya": _kohya,
}
