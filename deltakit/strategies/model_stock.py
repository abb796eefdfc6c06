"""Model Stock (Jang et al. 2024, arXiv:2403.19522).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> get("model_stock").merge(Stack(torch.tensor([[1.0, 0.0], [0.6, 0.8]])))
tensor([0.6000, 0.3000])
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from deltakit.combination import Combination
from deltakit.strategies._facts import cosines
from deltakit.strategies._products import ByProducts
from deltakit.strategies._stack import Stack


@dataclass(frozen=True)
class ModelStock(ByProducts):
    """Shrink the mean towards the base, the more the experts' directions disagree.

    Tensor by tensor, c the mean cosine of the pairs of deltas that are not zero. A ratio outside
    [0, 1] is taken to its end; a tensor that one expert alone changes has no cosine, and c = 0.
    """

    family = "linear"
    formula = "r mean(d_i), r = T c / (1 + (T-1) c), c the mean cosine of pairs"
    paper = "Jang et al. 2024, arXiv:2403.19522"
    weighted = False

    def combination(self, stack: Stack) -> Combination:
        experts = len(stack.lazy)
        share = self.ratio(stack) / experts
        return Combination.sum(stack.lazy, [share] * experts)

    def ratio(self, stack: Stack) -> float:
        """Return how far from the base the mean is left, in [0, 1]."""
        import numpy as np

        experts = len(stack.lazy)
        if experts == 1:
            return 1.0
        pairs = cosines(self.products(stack))[np.triu_indices(experts, 1)]
        defined = pairs[~np.isnan(pairs)]
        c = math.fsum(defined) / len(defined) if len(defined) else 0.0
        if c <= 0.0:
            return 0.0
        return min(1.0, experts * c / (1.0 + (experts - 1) * c))
