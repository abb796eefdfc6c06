"""Layers of several models stacked into one: which tensor of the output is which of theirs."""

from deltakit.stacking.base import StackedBase
from deltakit.stacking.config import differences, stacked_config
from deltakit.stacking.stack import Level, Stack, stack

__all__ = ["Level", "Stack", "StackedBase", "differences", "stack", "stacked_config"]
