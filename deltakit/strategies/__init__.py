"""The strategies: one file each; the file's name is the strategy's name.

>>> get("ties", {"density": 0.3})
Ties(density=0.3, scope='tensor', elect='mass', divide='weights', combine='mean')
"""

import sys

from deltakit.strategies import masks, weights
from deltakit.strategies._catalogue import Catalogue
from deltakit.strategies._depth import depths, layer, with_layer
from deltakit.strategies._heads import attention_blocks, check_heads, head_shape
from deltakit.strategies._masking import Masking
from deltakit.strategies._method import Method
from deltakit.strategies._per_task import PerTask
from deltakit.strategies._plugins import file_of, is_own_file
from deltakit.strategies._settings import (
    Count,
    Density,
    DropRate,
    NotNegative,
    Positive,
    Range,
    Settings,
    Share,
    range_of,
)
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import Combining, Scores, Strategy
from deltakit.strategies._streaming import Running, Streaming
from deltakit.strategies._weighting import Weighting
from deltakit.strategies._whole import Whole

_strategies = Catalogue("strategy", sys.modules[__name__], Strategy, "deltakit.strategies")  # type: ignore[type-abstract]
names, find, get = _strategies.names, _strategies.find, _strategies.get

__all__ = [
    "Combining",
    "Count",
    "Density",
    "DropRate",
    "Masking",
    "Method",
    "NotNegative",
    "PerTask",
    "Positive",
    "Range",
    "Running",
    "Scores",
    "Settings",
    "Share",
    "Stack",
    "Strategy",
    "Streaming",
    "Weighting",
    "Whole",
    "attention_blocks",
    "check_heads",
    "depths",
    "file_of",
    "find",
    "get",
    "head_shape",
    "is_own_file",
    "layer",
    "masks",
    "names",
    "range_of",
    "weights",
    "with_layer",
]
