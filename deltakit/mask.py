"""Mask: which entries of a delta are kept; True keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from deltakit.errors import BadFile, BadValue, DeltakitError, ShapeMismatch, UnknownName
from deltakit.lazy import LazyDelta
from deltakit.provenance import FORMAT, check_kind, parse, render
from deltakit.rng import Draws
from deltakit.tensors.codec import BITMASK, pack, unpack
from deltakit.tensors.files import LOCAL, Files
from deltakit.tensors.header import TensorInfo, check_info
from deltakit.tensors.reader import SafetensorsFile
from deltakit.tensors.writer import SafetensorsWriter

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_BLOCK = 1 << 20


class Mask(ABC):
    """Tells, for any flat range of a parameter, which entries are kept.

    >>> mask = Mask.random(density=0.5, seed=0, task="trec")
    >>> mask.keep("w", 4, 8).tolist() == mask.keep("w", 0, 8).tolist()[4:]
    True

    `Mask.random` is a function of (seed, task, tensor, index) and is saved as its seed;
    `Mask.open` reads a file. While a delta is written several threads ask at once.
    """

    lazy = False  # whether what it thins is left to the kernels: torch computes nothing

    @abstractmethod
    def keep(self, name: str, start: int, stop: int, delta: Tensor | None = None) -> np.ndarray:
        """Return which flat entries start..stop of parameter `name` are kept: bool.

        `delta`, those entries' values where they are at hand, saves reading them again.
        """

    def look(self, name: str) -> None:
        """Find ahead what must be known of a whole parameter before its blocks are thinned."""

    def thinned(self, name: str, start: int, delta: LazyDelta) -> LazyDelta:
        """Return the delta of entries from `start` with those not kept set to 0, not computed."""
        import torch

        kept = self.keep(name, start, start + delta.numel(), delta.tensor)
        return replace(delta, kept=torch.from_numpy(kept))

    def check_fits(self, infos: Mapping[str, TensorInfo]) -> None:
        """Raise UnknownName or ShapeMismatch where the mask does not fit these parameters."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Return what made the mask, as strings for an artifact's provenance."""

    @staticmethod
    def random(density: float, seed: int, task: str) -> RandomMask:
        """Return SoTU's mask: each entry kept with probability `density`, independently."""
        return RandomMask(density, seed, task)

    @staticmethod
    def open(path: str | Path, files: Files = LOCAL) -> Mask:
        """Open a saved mask; raises BadFile for a file that is not one."""
        file = SafetensorsFile(Path(path), files)
        try:
            metadata = file.header.metadata
            check_kind(metadata, "mask")
            if metadata.get("mask") == "random":
                return RandomMask.parse(metadata)
            return StoredMask(file)
        except DeltakitError as error:
            raise error.at(str(path)) from None


@dataclass(frozen=True)
class RandomMask(Mask):
    """A mask drawn from (seed, task, tensor, flat index); masks of one seed and task nest."""

    density: float
    seed: int
    task: str

    lazy = True

    def __post_init__(self) -> None:
        if not 0.0 < self.density <= 1.0:
            raise BadValue("density is outside (0, 1]", got=f"{self.density:g}")

    @classmethod
    def parse(cls, described: Mapping[str, str]) -> RandomMask:
        """Return the mask that `describe` described; raise BadFile where that is malformed."""
        try:
            density, seed = float(described["density"]), int(described["seed"])
            return cls(density, seed, described["task"])
        except KeyError as error:
            raise BadFile(f"the random mask is described without {error}") from None
        except ValueError as error:
            raise BadFile(f"the random mask is described wrongly: {error}") from None

    def draws(self, name: str) -> Draws:
        return Draws(self.seed, self.task, name)

    def keep(self, name: str, start: int, stop: int, delta: Tensor | None = None) -> np.ndarray:
        return self.draws(name).keep(start, stop, self.density)

    def thinned(self, name: str, start: int, delta: LazyDelta) -> LazyDelta:
        kept = self.draws(name).mask(start, start + delta.numel(), self.density)
        return replace(delta, kept=kept)

    def describe(self) -> dict[str, str]:
        return {
            "mask": "random",
            "seed": str(self.seed),
            "task": self.task,
            "density": repr(self.density),
        }

    def save(self, path: str | Path, files: Files = LOCAL) -> None:
        """Write the mask as its seed: a file without tensors."""
        metadata = {"deltakit": str(FORMAT), "kind": "mask", **self.describe()}
        with SafetensorsWriter(Path(path), {}, metadata, files=files):
            pass


class StoredMask(Mask):
    """A mask read from the bits of a file."""

    def __init__(self, file: SafetensorsFile) -> None:
        self._file = file
        shapes = parse(file.header.metadata, "shapes", dict[str, list[int]])
        self.infos = {
            name: check_info("BOOL", shape, f"parameter {name!r}") for name, shape in shapes.items()
        }
        for name, info in self.infos.items():
            bits = file.header.infos.get(name + BITMASK)
            if bits is None or bits != TensorInfo("U8", (-(-info.numel // 8),)):
                raise BadFile("the bits do not fit the shape", where=f"parameter {name!r}")

    def keep(self, name: str, start: int, stop: int, delta: Tensor | None = None) -> np.ndarray:
        import numpy as np

        if name not in self.infos:
            raise self._lacks(name)
        if stop > self.infos[name].numel:
            raise IndexError(f"entries {start}..{stop} of the mask's {name!r}")
        first = start // 8
        raw = np.empty(-(-stop // 8) - first, dtype=np.uint8)
        self._file.read(name + BITMASK, first, memoryview(raw))
        return unpack(raw, start - first * 8, stop - start)

    def thinned(self, name: str, start: int, delta: LazyDelta) -> LazyDelta:
        import torch

        kept = self.keep(name, start, start + delta.numel())
        return replace(delta, kept=torch.from_numpy(kept))

    def check_fits(self, infos: Mapping[str, TensorInfo]) -> None:
        for name in sorted(infos):
            if name not in self.infos:
                raise self._lacks(name)
            if self.infos[name].shape != infos[name].shape:
                raise ShapeMismatch(
                    f"the mask's {name!r} has another shape",
                    where=str(self._file.path),
                    expected=f"{list(infos[name].shape)}",
                    got=f"{list(self.infos[name].shape)}",
                )

    def _lacks(self, name: str) -> UnknownName:
        return UnknownName(f"the mask has no parameter {name!r}", where=str(self._file.path))

    def describe(self) -> dict[str, str]:
        return {"mask": "stored", "file": self._file.path.name}


def save_bits(
    path: str | Path, mask: Mask, infos: Mapping[str, TensorInfo], files: Files = LOCAL
) -> None:
    """Write any mask's bits for the given parameters, as a file that `Mask.open` reads."""
    shapes = {name: info.shape for name, info in infos.items()}
    metadata = {
        "deltakit": str(FORMAT),
        "kind": "mask",
        "mask": "stored",
        "shapes": render(shapes),
        "recipe": render(mask.describe()),
    }
    bits = {name + BITMASK: TensorInfo("U8", (-(-i.numel // 8),)) for name, i in infos.items()}
    with SafetensorsWriter(Path(path), bits, metadata, files=files) as writer:
        for name, info in infos.items():
            for start in range(0, info.numel, _BLOCK):
                kept = mask.keep(name, start, min(start + _BLOCK, info.numel))
                writer.write(name + BITMASK, start // 8, pack(kept).tobytes())
