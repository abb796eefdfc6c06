"""Models whose stored numbers are not the weights: refused, with what to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from deltakit.dtypes import MERGEABLE
from deltakit.errors import BadFile, some
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.source import TensorSource

# What stands beside the weight of a quantised module, by what wrote it. bitsandbytes, GPTQ, AWQ,
# HQQ, quanto and EETQ by their own names; scales of FP8 and INT8 as DeepSeek, compressed-tensors,
# FBGEMM, ModelOpt and ComfyUI call them.
_BESIDE = {
    ".SCB": "bitsandbytes 8-bit",
    ".weight.absmax": "bitsandbytes 4-bit",
    ".qweight": "GPTQ or AWQ",
    ".weight_packed": "compressed-tensors, packed",
    ".weight_scale_inv": "FP8 with a scale a block",
    ".weight_scale": "FP8 or INT8 with scales",
    ".scale_weight": "FP8 with scales",
    ".weight_scales": "EETQ",
    ".weight._data": "quanto",
    ".W_q": "HQQ",
    ".codebooks": "AQLM",
}
_BLOCKS, _SCALES = "_blocks", "_scales"  # MXFP4: whole parameters, as experts.down_proj_blocks


def refuse_scaled(model: TensorSource, parameters: Iterable[str]) -> None:
    """Raise BadFile when one of these tensors is of a module that is stored quantised.

    The scales and packed integers of such a module are, its bias is not.
    """
    quantised = _modules(model)
    for parameter in sorted(parameters) if quantised else ():
        module, parent = parameter.removesuffix(".weight"), parameter.rpartition(".")[0]
        around = (module, parent, parent.removesuffix(".weight"), _unpacked(parameter))
        kind = next((quantised[name] for name in around if name in quantised), None)
        if kind and not parameter.endswith(".bias"):
            _refuse(parameter, kind, model)


def refuse_quantised(model: TensorSource, weights: Iterable[str]) -> None:
    """Raise BadFile when one of these weights, to be changed, is stored quantised.

    An FP8 weight without scales is a plain, if coarse, float, and is let through, unless the
    model's config says that it is quantised.
    """
    weights = list(weights)
    refuse_scaled(model, weights)
    method = _method(model)
    for name in sorted(weights):
        info = model.infos.get(name)
        plain = info is None or info.dtype in MERGEABLE
        if not plain or (method and info is not None and info.dtype.startswith("F8")):
            _refuse(name, method or "integer weights", model)


def _modules(model: TensorSource) -> dict[str, str]:
    """Return how each quantised module of a model is stored."""
    found, infos, ends = {}, model.infos, tuple(_BESIDE)
    for name in infos:
        if name.endswith(ends):
            end = next(end for end in ends if name.endswith(end))
            found[name.removesuffix(end)] = _BESIDE[end]
        elif name.endswith(_BLOCKS) and _unpacked(name) + _SCALES in infos:
            found[_unpacked(name)] = "MXFP4"
    return found


def _unpacked(name: str) -> str:
    return name.removesuffix(_BLOCKS).removesuffix(_SCALES)


def _method(model: TensorSource) -> str | None:
    """Return what the model's config calls the way it was quantised."""
    table = model.config().get("quantization_config") if isinstance(model, Checkpoint) else None
    return f"{table.get('quant_method', 'quantised')}"[:40] if isinstance(table, dict) else None


def _refuse(parameter: str, kind: str, model: TensorSource) -> NoReturn:
    info, method = model.infos.get(parameter), _method(model)
    told = kind if method is None or method == kind else f"{kind}; its config says {method}"
    raise BadFile(
        f"the model is quantised ({told}): its numbers are not the weights of {parameter!r}",
        where=model.label,
        expected=some(("BF16", "F16", "F32")),
        got=info.dtype if info is not None else "no such tensor",
        remedy="give the original model in bfloat16, or dequantise it first"
        " (transformers: model.dequantize(), save_pretrained); quantise the result again",
    )
