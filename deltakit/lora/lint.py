"""What another program will not take of an adapter, told before it is tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from deltakit.errors import UnknownName, some
from deltakit.lora.adapter import Adapter

VLLM_RANK = 16  # its default max_lora_rank
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # all that it can be started for
_REQUIRED = ("r", "lora_alpha", "target_modules")  # fields that vLLM has no default for


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
    """What its lora/peft_helper.py, lora/lora_model.py and config/lora.py refuse or pass over."""
    yield from _peft(adapter, rank)
    config = adapter.config
    bake = "bake it: deltakit lora bake ADAPTER --base PATH --out DIR"
    fold = "fold it: deltakit lora merge ADAPTER --mode cat --out DIR"
    parts = adapter.parts.values()
    yield from _vllm_rank(adapter, rank)
    missing = [name for name in _REQUIRED if name not in config.fields]
    if missing and not adapter.flat:
        yield Finding("error", f"its config lacks {some(missing)}", fold)
    if config.rank_pattern or config.alpha_pattern:
        yield Finding(
            "error" if len({part.scaling for part in parts}) > 1 else "warning",
            "rank_pattern or alpha_pattern: only its newest versions read them, others take one"
            " alpha / r for all modules",
            "deltakit lora merge ADAPTER --mode cat --uniform --out DIR",
        )
    if config.use_rslora:
        yield Finding("warning", "use_rslora, which older versions do not read", fold)
    if config.use_dora:
        yield Finding("error", "DoRA", bake)
    if config.lora_bias:
        yield Finding("error", "lora_bias", bake)
    if config.bias != "none":
        yield Finding("error", f"bias {config.bias!r}", bake)
    yield from _vllm_whole(adapter, bake)
    if adapter.rows:
        yield Finding("error", f"trained rows of {some(adapter.rows)}", bake)
    kinds = {part.kind for part in parts}
    if "conv" in kinds:
        yield Finding("error", "adapters of convolutions", bake)
    if "embedding" in kinds:
        yield Finding("warning", "adapters of embeddings, which few models there take", bake)
    if not adapter.flat and not isinstance(config.fields.get("target_modules"), list):
        yield Finding(
            "warning",
            "target_modules is no list of names",
            "deltakit lora merge ADAPTER --mode cat --out DIR writes one",
        )


def _vllm_whole(adapter: Adapter, bake: str) -> Iterator[Finding]:
    saved = {name.rpartition(".")[2] for name in adapter.config.modules_to_save or []}
    others = {name for name in adapter.whole if not _passed_over(name, adapter)}
    kept = saved | {name.rpartition(".")[0].rpartition(".")[2] for name in others}
    if kept - {"classifier", "score"}:
        told = others or saved
        yield Finding("error", f"parameters kept whole: {some(told)}", bake)
    elif kept:
        yield Finding(
            "warning",
            f"a trained {some(kept)}, which only its newest versions read",
            bake,
        )
    if len(others) < len(adapter.whole):
        yield Finding(
            "warning",
            "the base's embeddings beside an adapter of them, which it passes over",
            "see that the served base has them, where the vocabulary was resized for training",
        )


def _vllm_rank(adapter: Adapter, rank: int) -> Iterator[Finding]:
    ranks = {part.rank for part in adapter.parts.values()}
    if not adapter.flat:  # what the config says counts, whether a module has it or not
        ranks |= {adapter.config.r, *adapter.config.rank_pattern.values()}
    most = max(ranks, default=0)
    if most > rank:
        smaller = "deltakit lora resize ADAPTER --rank K --out DIR"
        served = next((known for known in VLLM_RANKS if known >= most), None)
        yield Finding(
            "error",
            f"rank {most} is above {rank}",
            f"start it with --max-lora-rank {served}, or: {smaller}" if served else smaller,
        )


def _passed_over(name: str, adapter: Adapter) -> bool:
    """Tell whether vLLM passes over a whole tensor: the base's, which PEFT saves beside its own."""
    return adapter.whole[name].endswith(
        (".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight")
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
