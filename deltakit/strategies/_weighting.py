"""What every automatic weighting is: settings, and one weight a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from deltakit.strategies._settings import Settings
from deltakit.strategies._stack import Stack
from deltakit.strategies._whole import Whole


@dataclass(frozen=True)
class Weighting(Settings, ABC):
    """A weight for each task, found from the deltas.

    A subclass is a frozen dataclass in a file of its own in `weights`, with a setting `scope`:
    whether the deltas of each "tensor" or of the whole "model" decide.
    """

    scope: Literal["tensor", "model"] = "model"

    @property
    def looks(self) -> Literal["nothing", "tensor", "model"]:
        """What is read before a block can be weighed."""
        return self.scope

    def whole(self, stack: Stack) -> Whole:
        """Return the facts that decide: of the tensor or of the model."""
        whole = stack.model if self.scope == "model" else stack.whole
        assert whole is not None
        return whole

    @abstractmethod
    def weights(self, stack: Stack) -> tuple[float, ...]:
        """Return one finite weight a task; a task that changes nothing has one too."""
