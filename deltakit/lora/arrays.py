"""An adapter's factors as numpy arrays, for figures that are there before torch is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from deltakit.errors import NonFinite
from deltakit.lora.adapter import Adapter

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


class Arrays(NamedTuple):
    """The matrix B A in float64: a (r, d_in), b (d_out, r), the scaling in b."""

    a: NDArray[float64]
    b: NDArray[float64]


def arrays(adapter: Adapter, module: str) -> Arrays:
    """Return the factors of a module, as `Adapter.factors` does; raises what that raises."""
    part = adapter.part(module)
    a, b = _read(adapter, part.a), _read(adapter, part.b)
    if part.mid is not None:
        mid = _read(adapter, part.mid)  # (r, r, k, k)
        a = mid.reshape(*mid.shape[:2], -1).transpose(2, 0, 1) @ a.reshape(a.shape[:2])
        a = a.transpose(1, 2, 0)  # (r, channels, k k)
    return Arrays(a.reshape(part.rank, -1), b.reshape(part.outputs, -1) * part.scaling)


def distance(one: Arrays, two: Arrays | None = None) -> float:
    """Return the Euclidean norm of a matrix, or of the difference of two: from small Grams."""
    import numpy as np

    a, b = (
        (one.a, one.b) if two is None else (np.vstack([one.a, two.a]), np.hstack([one.b, -two.b]))
    )
    return float(max(0.0, ((b.T @ b) * (a @ a.T)).sum()) ** 0.5)


def _read(adapter: Adapter, tensor: str) -> NDArray[float64]:
    import numpy as np

    info = adapter.source.infos[tensor]
    raw = bytearray(info.nbytes)
    adapter.source.read(tensor, 0, memoryview(raw))
    if info.dtype == "BF16":  # the upper half of a float32
        values = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    else:
        values = np.frombuffer(raw, _NUMPY[info.dtype])
    if not np.isfinite(values).all():
        raise NonFinite(
            "the adapter holds NaN or infinity",
            where=f"{adapter.label}, {tensor!r}",
            remedy="train it again, or leave it out",
        )
    return values.astype("f8").reshape(info.shape)
