"""Bases whose stored numbers are not the weights: refused, with what to do."""

from __future__ import annotations

from collections.abc import Iterable

from deltakit.errors import BadFile, some
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.dtypes import MERGEABLE
from deltakit.tensors.source import TensorSource

# Tensors that stand beside a quantised weight, by what wrote them.
_BESIDE = {
    ".SCB": "bitsandbytes 8-bit",
    ".weight.absmax": "bitsandbytes 4-bit",
    ".qweight": "GPTQ or AWQ",
    ".weight_packed": "compressed-tensors",
    ".weight_scale": "FP8 with scales",
    ".weight_scale_inv": "FP8 with scales",
}


def refuse_quantised(base: TensorSource, parameters: Iterable[str]) -> None:
    """Raise BadFile when a parameter to be changed is stored quantised in the base.

    An FP8 weight without scales is a plain, if coarse, float, and is let through.
    """
    method = None
    if isinstance(base, Checkpoint):
        config = base.config().get("quantization_config")
        if isinstance(config, dict):
            method = str(config.get("quant_method", "quantised"))[:40]
    for parameter in sorted(parameters):
        module = parameter.removesuffix(".weight")
        info = base.infos.get(parameter)
        beside = [kind for end, kind in _BESIDE.items() if module + end in base.infos]
        if beside or (info is not None and info.dtype not in MERGEABLE):
            raise BadFile(
                f"the base is quantised ({beside[0] if beside else method or 'integer weights'}):"
                f" its numbers are not the weights of {parameter!r}",
                where=base.label,
                expected=some(("BF16", "F16", "F32")),
                got=info.dtype if info is not None else "no such tensor",
                remedy="give the original base in bfloat16, or dequantise it first"
                " (transformers: model.dequantize(), save_pretrained); quantise the result again",
            )
