"""Masks: which entries of each delta a merge keeps; one file each, before any strategy.

>>> get("outliers", {"gamma": 0.02})
Outliers(density=0.9, gamma=0.02)
"""

import sys

from deltakit.strategies._catalogue import Catalogue
from deltakit.strategies._masking import Masking

_masks = Catalogue("mask", sys.modules[__name__], Masking, "deltakit.masks")  # type: ignore[type-abstract]
names, find, get = _masks.names, _masks.find, _masks.get

__all__ = ["find", "get", "names"]
