"""How one sparse tensor is stored: dense, bitmask, indices, or positions drawn from a seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from deltakit.dtypes import itemsize
from deltakit.errors import BadFile, BadValue
from deltakit.tensors.header import TensorInfo

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Codec = Literal["dense", "bitmask", "indices", "seed"]

VALUES, BITMASK, INDICES = ".values", ".bitmask", ".indices"


def index_dtype(numel: int) -> str:
    """Return the dtype of flat indices into a tensor: 32 bits where they suffice."""
    return "U32" if numel <= 1 << 32 else "U64"


def stored(
    name: str, codec: Codec, dtype: str, shape: tuple[int, ...], count: int
) -> dict[str, TensorInfo]:
    """Return the file tensors that hold `count` values of a parameter under `codec`.

    >>> stored("w", "bitmask", "BF16", (4, 4), 3)["w.bitmask"]
    TensorInfo(dtype='U8', shape=(2,))
    """
    full = TensorInfo(dtype, shape)
    if codec == "dense":
        return {name: full}
    tensors = {name + VALUES: TensorInfo(dtype, (count,))}
    if codec == "bitmask":
        tensors[name + BITMASK] = TensorInfo("U8", (-(-full.numel // 8),))
    elif codec == "indices":
        tensors[name + INDICES] = TensorInfo(index_dtype(full.numel), (count,))
    return tensors


def choose(dtype: str, numel: int, count: int) -> Codec:
    """Return the smallest of dense, bitmask and indices for `count` of `numel` entries.

    >>> choose("BF16", 1000, 960), choose("BF16", 1000, 100), choose("BF16", 1000, 10)
    ('dense', 'bitmask', 'indices')
    """
    value, index = itemsize(dtype), itemsize(index_dtype(numel))
    sizes: dict[Codec, int] = {
        "dense": numel * value,
        "bitmask": count * value + -(-numel // 8),
        "indices": count * (value + index),
    }
    return min(sizes, key=lambda codec: sizes[codec])


def codecs(infos: Mapping[str, TensorInfo]) -> dict[str, Codec]:
    """Return parameter -> codec, read off the names of a file's tensors.

    `<p>.values` with `<p>.bitmask` or `<p>.indices` beside it is sparse, alone it is drawn from a
    seed; any other name is a dense parameter. A bitmask or indices without values is refused.
    """
    found: dict[str, Codec] = {}
    for name in infos:
        stem, dot, last = name.rpartition(".")
        if dot + last == VALUES:
            both = stem + BITMASK in infos, stem + INDICES in infos
            if all(both):
                raise BadFile(f"{stem!r} has a bitmask and indices")
            found[stem] = "bitmask" if both[0] else "indices" if both[1] else "seed"
        elif dot + last in (BITMASK, INDICES):
            if stem + VALUES not in infos:
                raise BadFile(f"{name!r} has no values beside it")
        else:
            found[name] = "dense"
    return found


def check_names(names: Iterable[str]) -> None:
    """Raise BadValue for a parameter whose own name reads as a part of a sparse one."""
    for name in names:
        if name.endswith((VALUES, BITMASK, INDICES)):
            raise BadValue(
                f"a delta cannot hold the parameter {name!r}",
                expected=f"no name that ends in {VALUES}, {BITMASK} or {INDICES}",
                remedy="rename it in the model",
            )


def pack(kept: np.ndarray) -> np.ndarray:
    """Return the bits of a bool array, first entry in the lowest bit, as bytes."""
    import numpy as np

    return np.packbits(kept, bitorder="little")


def unpack(raw: np.ndarray, first_bit: int, count: int) -> np.ndarray:
    """Return `count` bools from bytes, beginning at bit `first_bit` of the first byte."""
    import numpy as np

    return np.unpackbits(raw, count=first_bit + count, bitorder="little")[first_bit:].view(np.bool_)


def scatter(values: Tensor, kept: np.ndarray, out: Tensor) -> None:
    """Put values, converted to out's dtype, at the True positions of a flat `out`."""
    import torch

    # As bytes of one element, because torch cannot index every dtype (fp8, unsigned integers).
    size = f"u{out.element_size()}"
    target = out.view(torch.uint8).numpy().view(size)
    target[kept] = values.to(out.dtype).view(torch.uint8).numpy().view(size)
