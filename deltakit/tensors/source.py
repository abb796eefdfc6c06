"""Anything with weights: a lazy, read-only mapping from tensor name to tensor."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from deltakit.dtypes import itemsize, safetensors_dtype, torch_dtype
from deltakit.errors import BadFile, UnknownName, nearest
from deltakit.stored import Stored, as_tensor
from deltakit.tensors.digest import tensor_digest, whole_fingerprint
from deltakit.tensors.header import TensorInfo

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from deltakit.tensors.reader import SafetensorsFile


class TensorSource(Mapping[str, "Tensor"]):
    """A mapping from tensor name to tensor that reads only what is asked for.

    >>> import torch
    >>> source = MemoryTensors({"x": torch.tensor([1.0, 2.0])})
    >>> source["x"], source.infos["x"].dtype
    (tensor([1., 2.]), 'F32')

    `infos` (dtype and shape of each tensor) and names cost no reading of data. `source[name]` is a
    new tensor of the stored dtype and shape; `block` is a flat slice of it in a caller's buffer.
    """

    label: str = "tensors"

    @property
    @abstractmethod
    def infos(self) -> Mapping[str, TensorInfo]:
        """Dtype and shape of every tensor, by name."""

    @abstractmethod
    def read(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes of tensor `name` from its byte `start`."""

    @property
    def files(self) -> Sequence[SafetensorsFile]:
        """The files behind this source."""
        return ()

    def check_unchanged(self) -> None:
        """Raise InputChanged when a file behind this source was changed since it was opened."""
        for file in self.files:
            file.check_unchanged()

    def __len__(self) -> int:
        return len(self.infos)

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __contains__(self, name: object) -> bool:
        return name in self.infos

    def info(self, name: str) -> TensorInfo:
        """Return dtype and shape of `name`; an unknown one is an error with the nearest name."""
        found = self.infos.get(name)
        if found is None:
            close = nearest(name, list(self.infos))
            raise UnknownName(
                f"no tensor {name!r}",
                where=self.label,
                remedy=f"did you mean {close!r}?" if close else None,
            )
        return found

    def __getitem__(self, name: str) -> Tensor:
        import torch

        info = self.info(name)
        raw = torch.empty(info.nbytes, dtype=torch.uint8)
        return self.block(name, 0, info.numel, raw).reshape(info.shape)

    def block(self, name: str, start: int, stop: int, raw: Tensor) -> Tensor:
        """Read elements start..stop of the flattened tensor into `raw` (uint8) and view them."""
        try:
            dtype = torch_dtype(self.infos[name].dtype)
        except BadFile as error:
            raise error.at(f"{self.label}, tensor {name!r}") from None
        part = raw[: (stop - start) * dtype.itemsize]
        self.read(name, start * dtype.itemsize, memoryview(part.numpy()))
        return part.view(dtype)

    def stored(self, name: str, start: int, stop: int, raw: np.ndarray) -> Stored:
        """Return elements start..stop of the flattened tensor, not read before they are asked for.

        They are read into `raw` (uint8), which is in use for as long as what is returned.
        """
        dtype = self.infos[name].dtype
        return Stored(
            dtype,
            stop - start,
            raw,
            lambda: self.block(name, start, stop, as_tensor(raw)),
            self.place(name, start * itemsize(dtype)),
        )

    def place(self, name: str, start: int) -> tuple[int, int] | None:
        """Return where byte `start` of a tensor lies: a file's descriptor and an offset in it.

        None where no plain file holds it.
        """
        return None

    def digest(self, name: str) -> str:
        """Return the blake3 of the tensor's bytes, in hexadecimal."""
        return tensor_digest(self.info(name).nbytes, lambda at, out: self.read(name, at, out))

    def digests(self) -> dict[str, str]:
        """Return the digest of every tensor, by name; reads all the data."""
        return {name: self.digest(name) for name in sorted(self.infos)}

    def fingerprint(self) -> str:
        """Return one hash over names, dtypes, shapes and digests, whatever the shard layout."""
        return whole_fingerprint(self.infos, self.digests())


class MemoryTensors(TensorSource):
    """Tensors held in a dict, seen as a source; they are not modified.

    They are copied only where they are not contiguous in main memory.
    """

    def __init__(self, tensors: Mapping[str, Tensor], label: str = "tensors in memory") -> None:
        self.label = label
        self._tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        self._infos = {
            name: TensorInfo(safetensors_dtype(tensor.dtype), tuple(tensor.shape))
            for name, tensor in self._tensors.items()
        }

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        return self._infos

    def read(self, name: str, start: int, buffer: memoryview) -> None:
        import torch

        flat = self._tensors[name].reshape(-1).view(torch.uint8).numpy()
        if start < 0 or start + len(buffer) > len(flat):
            raise IndexError(
                f"bytes {start}..{start + len(buffer)} of {name!r}, it has {len(flat)}"
            )
        buffer[:] = memoryview(flat)[start : start + len(buffer)]
