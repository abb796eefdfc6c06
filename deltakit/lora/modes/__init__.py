"""The ways to merge adapters into one: a file each, the file's name is the mode's name.

>>> find("svd").exact
True
>>> find("ties", {"density": 0.5}).method.strategy
Ties(density=0.5, scope='tensor', elect='mass', divide='weights', combine='mean')

Every strategy is a mode too: `elementwise` applies it to the deltas themselves.
"""

from deltakit.lora.modes._catalogue import find, names
from deltakit.lora.modes._mode import Mode, Pack

__all__ = ["Mode", "Pack", "find", "names"]
