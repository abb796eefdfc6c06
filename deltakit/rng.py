"""Counter-based draws: a function of (seed, task, tensor, flat index) and of nothing else."""

from __future__ import annotations

import json
import math
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from deltakit.bits import draw_bits
from deltakit.drawn import Drawn, How
from deltakit.errors import BadValue

if TYPE_CHECKING:
    import numpy as np

_FRACTIONS = float(1 << 53)


class Draws:
    """A stream of uniform numbers for one (seed, task, tensor), readable from any position.

    >>> draws = Draws(0, "trec", "encoder.layer.0.weight")
    >>> draws.keep(0, 8, 0.5)[3:].tolist() == draws.keep(3, 8, 0.5).tolist()
    True

    The number of flat index j is u_j = (a_j + b_j) / 256: a_j is byte j, little-endian, of the
    SplitMix64 stream (Steele, Lea and Flood, OOPSLA 2014) whose state is one half of a hash of
    (seed, task, tensor), and b_j in [0, 1) the upper 53 bits of word j of the other half's, looked
    at only where a_j alone does not decide. So `keep` is exact to 2^-61, masks nest (a smaller
    density keeps a subset), and a mask is the same for any dtype, block size, thread count,
    shard layout, machine and order of tasks.
    """

    def __init__(self, seed: int, task: str, tensor: str, purpose: str = "mask") -> None:
        self._key, self._level_key = _states(purpose, seed, task, tensor)

    def bytes(self, start: int, stop: int) -> np.ndarray:
        """Return the bytes a_j of flat indices start..stop: uint8."""
        import numpy as np

        words = _splitmix(self._key, np.arange(start // 8, -(-stop // 8), dtype=np.uint64))
        return words.astype("<u8", copy=False).view(np.uint8)[start % 8 :][: stop - start]

    def keep(self, start: int, stop: int, density: float) -> np.ndarray:
        """Return a bool array: True where u < density, for flat indices start..stop.

        Raises BadValue for a density outside (0, 1].
        """
        import numpy as np

        bits = self.bits(start, stop, density)
        return np.unpackbits(bits, count=stop - start, bitorder="little").view(np.bool_)

    def bits(self, start: int, stop: int, density: float) -> np.ndarray:
        """Return what `keep` does as bits: uint8, the first entry's the lowest of the first byte.

        >>> Draws(0, "trec", "w").bits(0, 20, 1.0).tolist()
        [255, 255, 15]
        """
        import numpy as np

        how = self._how(start, density)
        bits = np.empty(-(-(stop - start) // 8), dtype=np.uint8)
        if draw_bits(how, stop - start, bits):
            return bits
        drawn = self.bytes(start, stop)
        kept = drawn < how.whole
        level = np.flatnonzero(drawn == how.whole)
        kept[level] = self._fractions(start, level) < np.uint64(how.limit)
        return np.packbits(kept, bitorder="little")

    def mask(self, start: int, stop: int, density: float) -> Drawn:
        """Return what `keep` does, not yet drawn."""
        draw = partial(self.keep, start, stop, density)
        return Drawn(self._how(start, density), stop - start, draw)

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

        scaled = densities.astype(np.float64) * 256.0
        whole = np.minimum(255.0, np.floor(scaled))
        drawn = self.bytes(start, start + len(scaled))
        kept: np.ndarray = drawn < whole
        level = np.flatnonzero(drawn == whole)
        limits = np.ceil((scaled[level] - whole[level]) * _FRACTIONS)
        kept[level] = self._fractions(start, level) < limits.astype(np.uint64)
        return kept

    def numbers(self, start: int, stop: int) -> np.ndarray:
        """Return 64-bit numbers, uniform over all of them, for flat indices start..stop."""
        import numpy as np

        return _splitmix(self._key, np.arange(start, stop, dtype=np.uint64))

    def _how(self, start: int, density: float) -> How:
        if not 0.0 < density <= 1.0:
            raise BadValue("density is outside (0, 1]", got=f"{density}")
        whole = min(255, math.floor(density * 256.0))  # at density 1 all fractions are below
        limit = math.ceil((density * 256.0 - whole) * _FRACTIONS)
        return How(self._key, self._level_key, whole, limit, start)

    def _fractions(self, start: int, places: np.ndarray) -> np.ndarray:
        """Return b_j times 2^53 for flat indices start + places."""
        import numpy as np

        numbers = _splitmix(self._level_key, places.astype(np.uint64) + np.uint64(start))
        return numbers >> np.uint64(11)


@lru_cache(1024)  # a parameter's blocks ask for the same again and again
def _states(purpose: str, seed: int, task: str, tensor: str) -> tuple[int, int]:
    from blake3 import blake3

    identity = json.dumps([f"deltakit 2 {purpose}", seed, task, tensor]).encode()
    state = blake3(identity).digest(length=16)
    return int.from_bytes(state[:8], "little"), int.from_bytes(state[8:], "little")


def _splitmix(state: int, index: np.ndarray) -> np.ndarray:
    """Return words number `index` (uint64) of the SplitMix64 stream that starts at `state`."""
    import numpy as np

    z = (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(state)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return z ^ z >> np.uint64(31)
