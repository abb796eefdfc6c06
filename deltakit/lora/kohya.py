"""kohya's LoRA files: lora_down, lora_up, lora_mid and alpha under names without dots."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

from deltakit.errors import BadFile, BadValue, DeltakitError, NamesDiffer, nearest, some
from deltakit.lora.adapter import Adapter, Kind, Part
from deltakit.lora.config import AdapterConfig
from deltakit.lora.layout import FLOATS
from deltakit.lora.peft import check_factors
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.files import LOCAL, Files
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.reader import SafetensorsFile
from deltakit.tensors.writer import SafetensorsWriter

DOWN, UP, MID, ALPHA = ".lora_down.weight", ".lora_up.weight", ".lora_mid.weight", ".alpha"
_SCOPE = re.compile(r"lora_[a-z]+[0-9]*_")  # lora_unet_, lora_te_, lora_te1_


def is_kohya_file(path: Path) -> bool:
    """Tell whether a safetensors file holds factors named as kohya does; reads its header."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    file = SafetensorsFile(path)
    names = file.header.infos
    file.close()
    return any(name.endswith(DOWN) for name in names)


def open_kohya(path: Path, files: Files = LOCAL) -> Adapter:
    """Open a kohya file; reads its header, and the alpha of each module.

    Raises BadFile for LoHa, LoKr, DoRA and whatever else is not lora_down, lora_up, lora_mid or
    alpha. Module names stay as they are, without dots, until they are fitted to a base.
    """
    source = Checkpoint(path, [SafetensorsFile(path, files)], files)
    try:
        return read_kohya(path, source)
    except DeltakitError as error:
        source.close()
        raise error.at(str(path)) from None


def read_kohya(path: Path, source: Checkpoint) -> Adapter:
    """Return the adapter that tensors named as kohya does make up."""
    modules: dict[str, dict[str, str]] = {}
    for name, info in source.infos.items():
        module, end = _split(name)
        if info.dtype not in FLOATS:
            raise BadFile(f"the tensor {name!r} is {info.dtype}", expected=some(FLOATS))
        modules.setdefault(module, {})[end] = name
    parts = {name: _part(name, modules[name], source) for name in sorted(modules)}
    return Adapter(path, source, AdapterConfig(), parts, flat=True)


def _split(name: str) -> tuple[str, str]:
    for end in (DOWN, UP, MID, ALPHA):
        if name.endswith(end):
            return name.removesuffix(end), end
    raise BadFile(
        f"the tensor {name!r} is of no kind that a plain LoRA has",
        expected=f"names ending in {DOWN}, {UP}, {MID} or {ALPHA}",
        remedy="LoHa, LoKr and DoRA files of kohya are not supported: bake them with kohya's tools",
    )


def _part(module: str, names: dict[str, str], source: Checkpoint) -> Part:
    down, up, mid = names.get(DOWN), names.get(UP), names.get(MID)
    if down is None or up is None:
        raise BadFile(f"{module!r} lacks a factor", expected="lora_down and lora_up")
    a, b = source.infos[down].shape, source.infos[up].shape
    check_factors(module, a, b)
    inputs = a[1:]
    if mid is not None:
        middle = source.infos[mid].shape
        if len(a) != 4 or set(a[2:]) != {1} or len(middle) != 4 or middle[:2] != (a[0], a[0]):
            raise BadFile(f"lora_mid of {module!r} does not fit", got=f"{list(middle)}")
        inputs = (a[1], *middle[2:])
    kind: Kind = "linear" if len(a) == 2 else "conv"
    alpha = float(a[0])
    if ALPHA in names:
        if source.infos[names[ALPHA]].numel != 1:
            raise BadFile(f"alpha of {module!r} is not one number")
        alpha = float(source[names[ALPHA]])
    return Part(module, kind, a[0], alpha / a[0], b[0], inputs, down, up, mid=mid)


def unflatten(names: Iterable[str], modules: Iterable[str]) -> dict[str, str]:
    """Return the dotted module of each flat name.

    >>> unflatten(["lora_unet_mid_block_proj"], ["mid_block.proj", "mid_block.norm"])
    {'lora_unet_mid_block_proj': 'mid_block.proj'}

    Raises NamesDiffer for a name that stands for no module, BadValue for one that stands for two.
    """
    dotted: dict[str, list[str]] = {}
    for module in modules:
        dotted.setdefault(module.replace(".", "_"), []).append(module)
    found = {}
    for name in names:
        scope = _SCOPE.match(name)
        tail = name if name in dotted or scope is None else name[scope.end() :]
        fitting = dotted.get(tail, [])
        if not fitting:
            close = nearest(tail, dotted)
            raise NamesDiffer(
                f"the base has no module for {name!r}",
                remedy=f"is it {dotted[close][0]!r}? the adapter was trained on another layout"
                if close
                else "give the model that the adapter was trained on",
            )
        if len(fitting) > 1:
            raise BadValue(f"{name!r} stands for two modules", got=some(fitting))
        found[name] = fitting[0]
    return found


def dotted(adapter: Adapter, modules: Iterable[str]) -> Adapter:
    """Return the adapter with its modules called as in a model that has these modules."""
    names = unflatten(adapter.parts, modules)
    parts = {names[m]: part._replace(module=names[m]) for m, part in adapter.parts.items()}
    return dataclasses.replace(adapter, parts=parts, flat=False)


def write_kohya(
    adapter: Adapter, path: Path, *, scope: str = "lora_unet", files: Files = LOCAL
) -> None:
    """Write an adapter as a kohya file; the factors keep their bytes and dtype.

    Raises BadValue, naming it, for what the format cannot hold: embeddings, DoRA, biases, whole
    tensors, and two modules whose names are one without dots.
    """
    _refuse_inexpressible(adapter)
    if path.suffix != ".safetensors":
        raise BadValue(
            "a kohya file is told by its name",
            where=str(path),
            expected="a name that ends in .safetensors",
            remedy=f"--out {path}.safetensors",
        )
    copies: dict[str, str] = {}
    infos: dict[str, TensorInfo] = {}
    alphas: dict[str, float] = {}
    for module, part in adapter.parts.items():
        name = module if adapter.flat else f"{scope}_{module.replace('.', '_')}"
        if name + DOWN in infos:
            raise BadValue(f"two modules are called {name!r} without dots", where=adapter.label)
        for end, tensor in ((DOWN, part.a), (UP, part.b), (MID, part.mid)):
            if tensor is not None:
                copies[name + end] = tensor
                infos[name + end] = adapter.source.infos[tensor]
        infos[name + ALPHA] = TensorInfo("F32", ())
        alphas[name + ALPHA] = part.scaling * part.rank
    import numpy as np

    with SafetensorsWriter(path, infos, {"format": "pt"}, files=files) as writer:
        for name, tensor in copies.items():
            data = bytearray(infos[name].nbytes)
            adapter.source.read(tensor, 0, memoryview(data))
            writer.write(name, 0, memoryview(data))
        for name, alpha in alphas.items():
            writer.write(name, 0, np.float32(alpha).tobytes())


def _refuse_inexpressible(adapter: Adapter) -> None:
    parts = adapter.parts.values()
    facts = {
        "embeddings": [p.module for p in parts if p.kind == "embedding"],
        "DoRA magnitudes": [p.module for p in parts if p.magnitude],
        "lora_bias": [p.module for p in parts if p.bias],
        "whole tensors": [*adapter.whole, *adapter.rows],
    }
    for fact, names in facts.items():
        if names:
            raise BadValue(
                f"a kohya file cannot hold {fact}",
                where=adapter.label,
                got=some(names),
                remedy="bake the adapter into its base: deltakit lora bake",
            )
