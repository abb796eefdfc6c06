"""deltakit: keep what fine-tuning changed, and merge it.

>>> import deltakit
>>> deltakit.merge(["./ft-a", "./ft-b"], "ties", "./merged", base="./base")  # doctest: +SKIP

Names are loaded when they are first used, so that `import deltakit` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltakit import strategies as strategies
    from deltakit.delta import Delta as Delta
    from deltakit.errors import DeltakitError as DeltakitError
    from deltakit.importance import ImportanceMap as ImportanceMap
    from deltakit.incremental import merge_onto as merge_onto
    from deltakit.incremental import merge_without as merge_without
    from deltakit.learn.callback import KlfImportanceCallback as KlfImportanceCallback
    from deltakit.learn.klf_importance import KlfImportance as KlfImportance
    from deltakit.mask import Mask as Mask
    from deltakit.merging import merge as merge
    from deltakit.opening import open_any as open  # noqa: A004, F401
    from deltakit.recipe import Recipe as Recipe
    from deltakit.store import Store as Store

_HOMES = {
    "Delta": "delta",
    "DeltakitError": "errors",
    "ImportanceMap": "importance",
    "KlfImportance": "learn.klf_importance",
    "KlfImportanceCallback": "learn.callback",
    "Mask": "mask",
    "Recipe": "recipe",
    "Store": "store",
    "merge": "merging",
    "merge_onto": "incremental",
    "merge_without": "incremental",
    "open": "opening:open_any",
    "strategies": "strategies:",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'deltakit' has no attribute {name!r}")
    module, colon, attribute = home.partition(":")
    found = importlib.import_module(f"deltakit.{module}")
    return found if colon and not attribute else getattr(found, attribute or name)


def __dir__() -> list[str]:
    return __all__
