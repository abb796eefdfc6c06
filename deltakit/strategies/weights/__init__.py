"""Weightings: a weight for each task, found from the deltas; one file each.

>>> get("doge", {"eta": 0.1})
Doge(scope='tensor', eta=0.1)
"""

import sys

from deltakit.strategies._catalogue import Catalogue
from deltakit.strategies._weighting import Weighting

_weights = Catalogue("weighting", sys.modules[__name__], Weighting, "deltakit.weights")  # type: ignore[type-abstract]
names, find, get = _weights.names, _weights.find, _weights.get

__all__ = ["find", "get", "names"]
