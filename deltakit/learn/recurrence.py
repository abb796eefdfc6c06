"""The importance recurrence over all tracked parameters of a model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from deltakit.learn import scores
from deltakit.learn.blocks import Part, Scratch, step_
from deltakit.learn.gradients import Gradient
from deltakit.learn.means import RunningMeans


class Recurrence:
    """I and U of each parameter, by name, and the blocks to work in on each device.

    They are made at the first step: by then the model sits on its training device. `on_cpu` keeps I
    and U in main memory.
    """

    def __init__(
        self, parameters: Mapping[str, torch.nn.Parameter], rule: scores.Rule, *, on_cpu: bool
    ) -> None:
        self.means: dict[str, RunningMeans] = {}
        self.scratch: dict[torch.device, Scratch] = {}
        self._parameters, self._rule, self._on_cpu = parameters, rule, on_cpu
        self._steps = 0

    def advance_(self, gradients: Mapping[str, Gradient]) -> None:
        """Advance every parameter by one step; one that has no gradient by a gradient of zero."""
        if not self.means:
            self._make()
        left: dict[torch.device, list[Part]] = {device: [] for device in self.scratch}
        for name, parameter in self._parameters.items():
            device, means = parameter.device, self.means[name]
            part = means.advance_(parameter, gradients.get(name), self.scratch[device], self._rule)
            if part is not None:
                left[device].append(part)
        for device, parts in left.items():
            step_(parts, self.scratch[device], self._rule)
        self._steps += 1
        if self._steps % scores.FLUSH_EVERY == 0:
            for means in self.means.values():
                means.flush_(self._rule)

    def _make(self) -> None:
        total = sum(parameter.numel() for parameter in self._parameters.values())
        for name, parameter in self._parameters.items():
            device = parameter.device
            place = torch.device("cpu") if self._on_cpu else device
            self.means[name] = RunningMeans(parameter.shape, place)
            if device not in self.scratch:
                self.scratch[device] = Scratch(device, total)

    def settle_(self) -> None:
        """Do all decays that are due: I and U are then those of the last step."""
        for means in self.means.values():
            means.settle_(self._rule)

    def product(self, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return I U, in the parameter's shape; of settled means."""
        means = self.means[name]
        each = means.state.to(dtype) * means.spread.to(dtype)
        return each.view(self._parameters[name].shape)
