"""The strategies: one file each; the file's name is the strategy's name.

>>> get("ties", {"density": 0.3})
Ties(density=0.3, scope='tensor', elect='mass', divide='weights', combine='mean')
"""

from deltakit.strategies._catalogue import find, get, names
from deltakit.strategies._stack import Stack, Whole
from deltakit.strategies._strategy import Strategy

__all__ = ["Stack", "Strategy", "Whole", "find", "get", "names"]
