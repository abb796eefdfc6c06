"""Counter-based draws: a function of (seed, task, tensor, flat index) and of nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from deltakit import kernels
from deltakit.errors import BadValue

if TYPE_CHECKING:
    import numpy as np


class Draws:
    """A stream of uniform numbers for one (seed, task, tensor), readable from any position.

    >>> draws = Draws(0, "trec", "encoder.layer.0.weight")
    >>> draws.keep(0, 8, 0.5)[3:].tolist() == draws.keep(3, 8, 0.5).tolist()
    True

    The number of flat index j is u_j = (a_j + b_j) / 65536 with a_j the j-th 16-bit little-endian
    word of the keyed blake3 output stream and b_j in [0, 1) a hash of (key, j) that is looked at
    only where a_j alone does not decide. So `keep` is exact to 2^-48, masks nest (a smaller
    density keeps a subset), and a mask is the same for any dtype, block size, thread count,
    shard layout, machine and order of tasks.
    """

    def __init__(self, seed: int, task: str, tensor: str, purpose: str = "mask") -> None:
        from blake3 import blake3

        identity = json.dumps([f"deltakit 1 {purpose}", seed, task, tensor]).encode()
        self._key = blake3(identity).digest()
        self._stream = blake3(b"", key=self._key)

    def words(self, start: int, stop: int) -> np.ndarray:
        """Return the 16-bit words of flat indices start..stop."""
        import numpy as np

        raw = self._stream.digest(length=2 * (stop - start), seek=2 * start)
        return np.frombuffer(raw, dtype="<u2")

    def keep(self, start: int, stop: int, density: float) -> np.ndarray:
        """Return a bool array: True where u < density, for flat indices start..stop."""
        import numpy as np

        if not 0.0 < density <= 1.0:
            raise BadValue("density is outside (0, 1]", got=f"{density}")
        if density == 1.0:
            return np.ones(stop - start, dtype=np.bool_)
        scaled = density * 65536.0
        whole = int(scaled)
        words = self.words(start, stop)
        kept = np.empty(stop - start, dtype=np.bool_)
        level = kernels.draw(words, whole, kept)
        if level is None:
            np.less(words, np.uint16(whole), out=kept)
            level = np.flatnonzero(words == whole)
        if scaled != whole:
            for at in level.tolist():
                kept[at] = self._fraction(start + at) < scaled - whole
        return kept

    def keep_each(self, start: int, densities: np.ndarray) -> np.ndarray:
        """Return a bool array: True where u < its own density, for flat indices from `start`.

        >>> import numpy as np
        >>> draws = Draws(0, "trec", "w")
        >>> each = draws.keep_each(3, np.full(5, 0.3))
        >>> each.tolist() == draws.keep(3, 8, 0.3).tolist()
        True

        densities (n,) float64 in [0, 1].
        """
        import numpy as np

        scaled = densities.astype(np.float64) * 65536.0
        whole = np.floor(scaled)
        words = self.words(start, start + len(scaled))
        kept: np.ndarray = words < whole
        for at in np.flatnonzero((words == whole) & (scaled != whole)).tolist():
            kept[at] = self._fraction(start + at) < scaled[at] - whole[at]
        return kept

    def numbers(self, start: int, stop: int) -> np.ndarray:
        """Return 64-bit numbers, uniform over all of them, for flat indices start..stop."""
        import numpy as np

        raw = self._stream.digest(length=8 * (stop - start), seek=8 * start)
        return np.frombuffer(raw, dtype="<u8")

    def _fraction(self, index: int) -> float:
        from blake3 import blake3

        raw = blake3(index.to_bytes(8, "little"), key=self._key).digest(length=4)
        return int.from_bytes(raw, "little") / 4294967296.0
