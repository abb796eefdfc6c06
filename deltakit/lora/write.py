"""Writing an adapter's folder as PEFT does: config, tensors, and what tells how it was made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from deltakit.dtypes import parse_dtype, torch_dtype
from deltakit.errors import AlreadyThere, BadValue, NonFinite, some
from deltakit.lora.adapter import Kind
from deltakit.lora.config import config_bytes
from deltakit.lora.factors import Factors
from deltakit.lora.finite import all_finite
from deltakit.lora.layout import FLOATS, TENSORS_NAME, key_of
from deltakit.lora.patterns import spelled
from deltakit.tensors.files import LOCAL, Files
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.new_file import write_whole
from deltakit.tensors.new_folder import check_apart
from deltakit.tensors.sidecars import ADAPTER_CONFIG
from deltakit.tensors.writer import SafetensorsWriter

if TYPE_CHECKING:
    from torch import Tensor

RECORD_NAME = "deltakit_lora.json"


@dataclass(frozen=True)
class NewPart:
    """A module of the adapter to be written; its scaling is 1."""

    module: str
    kind: Kind
    rank: int
    outputs: int
    inputs: tuple[int, ...]
    bias: bool = False
    magnitude: bool = False

    def infos(self, dtype: str) -> dict[str, TensorInfo]:
        """Return its tensors, by name."""
        ones = (1,) * (len(self.inputs) - 1)
        a, b = self._ab()
        found = {
            a: TensorInfo(dtype, (self.rank, *self.inputs)),
            b: TensorInfo(dtype, (self.outputs, self.rank, *ones)),
        }
        if self.bias:
            found[key_of("bias", self.module)] = TensorInfo(dtype, (self.outputs,))
        if self.magnitude:
            shape = (1, self.outputs, *ones) if self.kind == "conv" else (self.outputs,)
            found[key_of("magnitude", self.module)] = TensorInfo(dtype, shape)
        return found

    def _ab(self) -> tuple[str, str]:
        if self.kind == "embedding":
            return key_of("embedding_a", self.module), key_of("embedding_b", self.module)
        return key_of("a", self.module), key_of("b", self.module)


@dataclass(frozen=True)
class Contents:
    """Everything of an adapter but its numbers, known before the first is computed."""

    parts: Sequence[NewPart]
    dtype: str
    fields: Mapping[str, Any]  # of adapter_config.json, beside ranks and flags
    whole: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    rows: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # (rows, columns)

    def config(self) -> bytes:
        """Return adapter_config.json: every scaling folded, so that alpha is r everywhere."""
        ranks = {part.module: part.rank for part in self.parts}
        rank = Counter(ranks.values()).most_common(1)[0][0] if ranks else 1
        others = spelled(ranks, rank)
        return config_bytes(
            {
                "target_modules": sorted(ranks),
                **self.fields,
                "r": rank,
                "lora_alpha": rank,
                "rank_pattern": others,
                "alpha_pattern": others,
                "lora_bias": any(part.bias for part in self.parts),
                "use_dora": any(part.magnitude for part in self.parts),
            }
        )

    def infos(self) -> dict[str, TensorInfo]:
        """Return every tensor, by its name in the file."""
        found: dict[str, TensorInfo] = {}
        for part in self.parts:
            found |= part.infos(self.dtype)
        for name, shape in self.whole.items():
            found[self.whole_key(name)] = TensorInfo(self.dtype, shape)
        for name, shape in self.rows.items():
            found[key_of("rows", name.removesuffix(".weight"))] = TensorInfo(self.dtype, shape)
        return found

    def whole_key(self, name: str) -> str:
        """Return the name of a whole tensor; PEFT puts those of an adapted module inside it."""
        module, _, parameter = name.rpartition(".")
        adapted = any(part.module == module for part in self.parts)
        return key_of("whole", f"{module}.base_layer.{parameter}" if adapted else name)


class AdapterWriter:
    """Writes an adapter into a folder, tensor by tensor, in any order and from any thread.

    The folder is complete when the `with` block ends well.
    """

    def __init__(
        self, folder: Path, contents: Contents, metadata: Mapping[str, str], files: Files = LOCAL
    ) -> None:
        self._folder, self._contents, self._files = folder, contents, files
        self._infos = contents.infos()
        told = {"format": "pt", **metadata}
        self._writer = SafetensorsWriter(folder / TENSORS_NAME, self._infos, told, files=files)

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._writer.__exit__(*error)
        if error[0] is None:
            write_whole(self._folder / ADAPTER_CONFIG, self._contents.config(), files=self._files)

    def write_part(
        self,
        part: NewPart,
        factors: Factors,
        bias: Tensor | None = None,
        magnitude: Tensor | None = None,
    ) -> Factors:
        """Write a module's tensors, rounded once, and return the factors as they were rounded."""
        a, b = part._ab()
        rounded = Factors(self._write(a, factors.a), self._write(b, factors.b))
        if bias is not None:
            self._write(key_of("bias", part.module), bias)
        if magnitude is not None:
            self._write(key_of("magnitude", part.module), magnitude)
        return rounded

    def write_whole(self, name: str, blocks: Iterable[Tensor]) -> None:
        """Write a whole tensor from consecutive flat blocks."""
        key, start = self._contents.whole_key(name), 0
        for values in blocks:
            self._write(key, values, start)
            start += values.numel()

    def write_rows(self, name: str, values: Tensor) -> None:
        self._write(key_of("rows", name.removesuffix(".weight")), values)

    def _write(self, name: str, values: Tensor, start: int = 0) -> Tensor:
        import torch

        rounded = values.to(torch_dtype(self._contents.dtype)).contiguous()
        if not all_finite(rounded):
            raise NonFinite(
                f"a value of the adapter overflows {rounded.dtype}",
                where=name,
                remedy="write a wider --dtype, as float32",
            )
        raw = memoryview(rounded.reshape(-1).view(torch.uint8).numpy())
        self._writer.write(name, start * rounded.itemsize, raw)
        return rounded.to(values.dtype)


def adapter_dtype(text: str) -> str:
    """Return the safetensors name of a dtype that adapters are written in, or raise BadValue."""
    dtype = parse_dtype(text)
    if dtype not in FLOATS:
        raise BadValue(
            f"an adapter is not written as {dtype}",
            expected=some(FLOATS),
            remedy="choose one of these: --dtype bfloat16",
        )
    return dtype


def check_target(out: Path, inputs: Sequence[Path], overwrite: bool, files: Files = LOCAL) -> None:
    """Raise unless `out` is free, or an adapter written by deltakit that may be replaced."""
    check_apart(out, inputs)
    if files.exists(out) and not (overwrite and (out / RECORD_NAME).is_file()):
        raise AlreadyThere(
            f"the output exists and holds no {RECORD_NAME}, so it is not ours to replace"
            if overwrite
            else "the output exists already",
            where=str(out),
            remedy="choose another --out"
            + ("" if overwrite else ", or pass --overwrite to replace it"),
        )
