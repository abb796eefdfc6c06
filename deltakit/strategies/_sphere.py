"""Means on a sphere, as coefficients: every one of them lies in the span of the experts.

So the inner products of the experts are all that must be known of a whole tensor, and the merge
itself is a weighted sum that streams.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from deltakit.combination import Combination
from deltakit.lazy import LazyDelta, LazyDeltas
from deltakit.strategies._facts import cosines
from deltakit.strategies._products import ByProducts
from deltakit.strategies._stack import Stack

if TYPE_CHECKING:
    import numpy as np

On = Literal["models", "deltas"]
PARALLEL = 0.9995  # a cosine beyond which slerp is the straight line, as its peers have it
_SAME = 1e-12  # one minus the cosine of directions that float64 cannot tell apart


class OnSphere(ByProducts):
    """A mean on the sphere, of models or of deltas, each parameter a vector of its own."""

    on: On  # a setting of each: they differ in what it is by default

    family = "sphere"

    @property
    def of_models(self) -> bool:
        return self.on == "models"

    @abstractmethod
    def coefficients(self, products: np.ndarray, weights: Sequence[float]) -> list[float]:
        """Return c_i of the mean sum c_i x_i, from the inner products of the x_i."""

    def combination(self, stack: Stack) -> Combination:
        deltas, experts = stack.lazy, len(stack.lazy)
        if experts == 1:
            return Combination.sum(deltas, [1.0])
        coefficients = self.coefficients(self.products(stack), stack.weights)
        rest = math.fsum(coefficients) - 1.0
        base = stack.stored_base
        # Coefficients of a straight line sum to 1 but for rounding, which is no share of the base.
        if self.of_models and base is not None and abs(rest) > _SAME:
            # sum c_i (t_0 + d_i) = t_0 + sum c_i d_i + (sum c_i - 1) t_0
            base = base if isinstance(base, LazyDelta) else LazyDelta(base.reshape(-1))
            deltas = LazyDeltas([*deltas.each, base], deltas.shape, deltas.dtype)
            coefficients = [*coefficients, rest]
        return Combination.sum(deltas, coefficients)


def shares(weights: Sequence[float]) -> list[float]:
    """Return the weights divided by their sum."""
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def slerp(products: np.ndarray, t: float) -> list[float]:
    """Return the coefficients of the arc from the first of two vectors to the second.

    A straight line where the vectors are parallel or one is zero.
    """
    cosine = cosines(products)[0, 1]
    if not abs(cosine) <= PARALLEL:  # NaN for a zero vector
        return [1.0 - t, t]
    angle = math.acos(cosine)
    return [math.sin((1.0 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]


def mean(products: np.ndarray, weights: Sequence[float], rounds: int) -> list[float]:
    """Return the coefficients of the mean direction at the mean length.

    The direction begins as the normalised weighted mean of the unit vectors u_i, and moves
    `rounds` times, or until it rests, to exp_m(sum w_i log_m(u_i)): the Karcher mean in the limit.
    The length is sum w_i |x_i|. A zero vector has no direction, and counts for the length only.
    """
    import numpy as np

    share = np.array(shares(weights))
    norms = np.sqrt(np.diag(products))
    there = norms > 0.0
    if not there.any():
        return share.tolist()
    cosine = np.where(there[:, None] & there[None, :], np.nan_to_num(cosines(products)), 0.0)
    directed = np.where(there, share, 0.0) / share[there].sum()
    if (cosine[np.ix_(there, there)] >= 1.0 - _SAME).all():
        return share.tolist()  # one direction: the weighted mean, to the bit
    m = _unit(directed, cosine)
    for _ in range(rounds if m is not None else 0):
        assert m is not None
        to = np.clip(cosine @ m, -1.0, 1.0)  # cosine of each u_i with the direction
        angle = np.arccos(to)
        stretch = np.where(angle > 1e-9, angle / np.maximum(np.sin(angle), 1e-9), 1.0)
        step = directed * stretch
        tangent = step - (step @ to) * m
        length = math.sqrt(max(0.0, tangent @ cosine @ tangent))
        if length < 1e-12:
            break
        m = _unit(math.cos(length) * m + math.sin(length) * tangent / length, cosine)
    if m is None:  # opposite directions have no mean between them
        return share.tolist()
    along = np.divide(m, norms, out=np.zeros_like(m), where=there)
    return (along * (share @ norms)).tolist()


def _unit(coefficients: np.ndarray, cosine: np.ndarray) -> np.ndarray | None:
    length = math.sqrt(max(0.0, coefficients @ cosine @ coefficients))
    return coefficients / length if length > 1e-9 else None
