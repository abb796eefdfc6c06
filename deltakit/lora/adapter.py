"""A LoRA adapter: which modules it adapts, with what factors, and what it keeps whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from deltakit.dtypes import working_dtype
from deltakit.errors import DeltakitError, NonFinite, UnknownName, nearest
from deltakit.lora.config import AdapterConfig
from deltakit.lora.factors import Factors
from deltakit.lora.finite import all_finite
from deltakit.lora.flat import flat_blocks
from deltakit.tensors.checkpoint import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

    from deltakit.provenance import ModelTable

Kind = Literal["linear", "embedding", "conv"]


class Part(NamedTuple):
    """One adapted module: delta = scaling * B A, seen as a matrix (outputs, inputs).

    `a`, `b`, `bias`, `magnitude` and `mid` are names of tensors. `inputs` is the shape A has
    after its rank: (d_in,), or (channels, k, k) of a convolution.
    """

    module: str
    kind: Kind
    rank: int
    scaling: float
    outputs: int
    inputs: tuple[int, ...]
    a: str
    b: str
    bias: str | None = None
    magnitude: str | None = None
    mid: str | None = None  # kohya's core of a factored convolution


class Rows(NamedTuple):
    """Rows of an embedding that were trained: the tensor of their values, and their numbers."""

    tensor: str
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Adapter:
    """An adapter, opened: facts from its headers, tensors when they are asked for.

    >>> from deltakit.lora import open_adapter
    >>> adapter = open_adapter("./lora-a")                               # doctest: +SKIP
    >>> a, b = adapter.factors("model.layers.0.self_attn.q_proj")        # doctest: +SKIP

    `parts` by module; `whole` are parameters kept whole and `rows` parts of them, by the
    parameter's name in the base. `flat` tells that module names have lost their dots (kohya).
    `base` is the model it was stored for, where a store was told.
    """

    path: Path
    source: Checkpoint
    config: AdapterConfig
    parts: Mapping[str, Part]
    whole: Mapping[str, str] = field(default_factory=dict)  # parameter -> tensor
    rows: Mapping[str, Rows] = field(default_factory=dict)
    flat: bool = False
    base: ModelTable | None = None

    @property
    def label(self) -> str:
        return str(self.path)

    @cached_property
    def parameters(self) -> list[str]:
        """Its own names of all parameters that it changes, sorted."""
        parts = self.parts.values()
        weights = [f"{part.module}.weight" for part in parts]
        biases = [f"{part.module}.bias" for part in parts if part.bias is not None]
        return sorted({*weights, *biases, *self.whole, *self.rows})

    def part(self, module: str) -> Part:
        found = self.parts.get(module)
        if found is None:
            close = nearest(module, self.parts)
            raise UnknownName(
                f"the adapter does not adapt {module!r}",
                where=self.label,
                remedy=f"did you mean {close!r}?" if close else None,
            )
        return found

    def factors(self, module: str) -> Factors:
        """Return A (r, d_in) and scaling * B (d_out, r), float32 (float64 for float64 tensors).

        The inputs of a convolution are flattened. Raises NonFinite for NaN or infinity.
        """
        part = self.part(module)
        a, b = self.read(part.a), self.read(part.b)
        if part.mid is not None:
            mid = self.read(part.mid)  # (r, r, k, k)
            a = mid.flatten(2).permute(2, 0, 1) @ a.flatten(1)  # (k k, r, channels)
            a = a.permute(1, 2, 0).contiguous()
        return Factors(a.reshape(part.rank, -1), b.reshape(part.outputs, -1) * part.scaling)

    def bias(self, module: str) -> Tensor | None:
        """Return what is added to the module's bias, (d_out,), or None."""
        part = self.part(module)
        return None if part.bias is None else self.read(part.bias) * part.scaling

    def magnitude(self, module: str) -> Tensor | None:
        """Return DoRA's norm of each output, (d_out,), or None."""
        part = self.part(module)
        return None if part.magnitude is None else self.read(part.magnitude).reshape(-1)

    def read(self, tensor: str) -> Tensor:
        """Return a tensor in its working dtype, checked to be finite."""
        dtype = working_dtype(self.source.infos[tensor].dtype)
        return self.checked(self.source[tensor].to(dtype), tensor)

    def blocks(self, tensor: str) -> Iterator[Tensor]:
        """Yield a tensor in flat blocks, as `read` would return them, in memory used again."""
        dtype = working_dtype(self.source.infos[tensor].dtype)
        for values in flat_blocks(self.source, tensor):
            yield self.checked(values.to(dtype), tensor)

    def checked(self, values: Tensor, tensor: str) -> Tensor:
        """Return values of a tensor, or raise NonFinite."""
        if not all_finite(values):
            raise NonFinite(
                "the adapter holds NaN or infinity",
                where=f"{self.label}, {tensor!r}",
                remedy="train it again, or leave it out",
            )
        return values

    @property
    def dtypes(self) -> list[str]:
        """The dtypes of its tensors, safetensors names, sorted."""
        return sorted({info.dtype for info in self.source.infos.values()})

    @property
    def nbytes(self) -> int:
        return sum(info.nbytes for info in self.source.infos.values())

    @property
    def file_nbytes(self) -> int:
        """Bytes of its file or files of tensors, headers included."""
        return sum(shard.header.file_size for shard in self.source.shards)

    @cached_property
    def fingerprint(self) -> str:
        """One hash over all its tensors; the first time it is asked for, they are read."""
        return self.source.fingerprint()

    def close(self) -> None:
        self.source.close()

    def check_unchanged(self) -> None:
        try:
            self.source.check_unchanged()
        except DeltakitError as error:
            raise error.at(self.label) from None
