"""Isotropic merging, common and task-specific subspaces (arXiv:2502.04959).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> d1, d2 = [[4.0, 0.0], [0.0, 0.0]], [[0.0, 1.2], [0.0, 1.6]]
>>> get("iso_cts", {"common": 1}).merge(Stack(torch.tensor([d1, d2])))
tensor([[ 2.8000,  0.6000],
        [-0.6000,  2.8000]])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit import ops
from deltakit.strategies._matrix import matrices, plain_mean, polar, svd
from deltakit.strategies._settings import Share
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import Strategy, check_positive_weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class IsoCts(Strategy):
    """Take the common top directions of the sum and each task's own beside, all at one strength.

    common: the fraction of directions that are the sum's; the rest is shared out evenly between
    the tasks, each giving the top directions of what the common ones leave of its delta (what does
    not divide evenly stays common). All are made orthogonal, and their singular values equal to
    the mean. Parameters that are no matrices are averaged.
    """

    common: Share = 0.8

    family = "matrix"
    unit = "tensor"
    formula = "mean(s) polar([U_c U_1 .. U_T]) polar([V_c V_1 .. V_T])^T"
    paper = "Marczak et al. 2025, arXiv:2502.04959"
    faithful = False

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "neither"

    def check_weights(self, weights: Sequence[float]) -> None:
        check_positive_weights("iso_cts", weights)

    def merge(self, stack: Stack) -> Tensor:
        import torch

        found = matrices(stack, stack.weights)
        if found is None:
            return plain_mean(stack)
        u, s, vh = svd(ops.weighted_sum(found, [1.0] * len(found)))
        each = round((len(s) - int(self.common * len(s))) / len(found))
        each = min(each, len(s) // len(found))
        r = len(s) - each * len(found)
        us, ss, vhs = [u[:, :r]], [s[:r]], [vh[:r]]
        for matrix in found if each else []:
            own_u, own_s, own_vh = svd(matrix - us[0] @ (us[0].T @ matrix), each)
            us.append(own_u)
            ss.append(own_s)
            vhs.append(own_vh)
        mean = torch.cat(ss).mean()
        # Directions without strength are whatever LAPACK chose: they have no part in the frame.
        live = torch.cat(ss) > mean * max(found.shape[1:]) * torch.finfo(found.dtype).eps
        frame_u, frame_v = torch.cat(us, dim=1)[:, live], torch.cat(vhs)[live]
        if not live.any():
            return stack.deltas[0] * 0
        return (polar(frame_u) @ polar(frame_v) * mean).reshape(stack.deltas.shape[1:])
