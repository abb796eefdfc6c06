"""klf: Knowledge Localization and Fusion by ranks (arXiv:2408.05200)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from deltakit.errors import BadValue, NamesDiffer
from deltakit.lora.factors import Factors, nearest_of_rank
from deltakit.lora.modes._mode import Mode, Pack
from deltakit.strategies.klf import Klf as Strategy

if TYPE_CHECKING:
    from torch import Tensor

_NOT_HERE = {"units", "share"}  # a unit is a rank, and each counts as one


@dataclass(frozen=True)
class Klf(Mode):
    """Each rank of each module goes to the tasks it is important to, in the order given.

    fuse: "factors" mixes rows of A and columns of B, as the paper does, cross terms included;
    "products" mixes the rank-1 products and returns the nearest matrix of the same rank. All
    other settings are the strategy klf's, a module's kind its name without its layer's number.
    Needs an importance map of rank units for each adapter.
    """

    fuse: Literal["factors", "products"] = "factors"
    fusion: str = "static"
    order: str = "sequential"
    quantile: float = 0.8
    gamma: float = 0.7
    beta: float = 0.7
    tau: float = 0.25
    neither: str = "half"
    within: str = "model"
    contrast: bool = False
    _strategy: Strategy = field(init=False, repr=False)

    needs_importance = True
    averages = True
    ordered = True

    def __post_init__(self) -> None:
        if self.fuse not in ("factors", "products"):
            raise BadValue(f"fuse is {self.fuse!r}", expected="factors or products")
        shared = {f.name for f in dataclasses.fields(Strategy)} - _NOT_HERE
        object.__setattr__(self, "_strategy", Strategy(**{n: getattr(self, n) for n in shared}))

    @property
    def settings(self) -> dict[str, Any]:
        table = dataclasses.asdict(self._strategy)
        return {"fuse": self.fuse, **{k: v for k, v in table.items() if k not in _NOT_HERE}}

    def check(self, weights: Sequence[float], tasks: Sequence[str]) -> None:
        if any(weight != 1.0 for weight in weights):
            raise BadValue("klf takes no weights: importance decides", remedy="drop --weights")

    def rank(self, ranks: Sequence[int], shape: tuple[int, int]) -> int:
        return ranks[0]

    def prepare(
        self, ranks: Mapping[str, Sequence[int]], scores: Sequence[Mapping[str, Tensor]]
    ) -> Mapping[str, Any]:
        import torch

        for module, found in ranks.items():
            if len(found) < len(scores) or len(set(found)) > 1:
                raise BadValue(
                    "klf fuses rank by rank: every adapter must adapt the module at one rank",
                    where=module,
                    got=f"ranks {', '.join(map(str, found))} of {len(scores)} adapters",
                    remedy="bring them to one rank first: deltakit lora resize",
                )
            for number, task in enumerate(scores):
                if module not in task or task[module].numel() != found[0]:
                    raise NamesDiffer(
                        f"importance map {number + 1} has no scores for the {found[0]} ranks of"
                        f" {module!r}",
                        remedy='capture it on the adapter: KlfImportance.attach(..., units="rank")',
                    )
        facts: dict[str, Any] = {}
        for modules in self._strategy.compared(list(ranks)):
            table = torch.stack([torch.cat([s[m].reshape(-1) for m in modules]) for s in scores])
            each = [1] * table.shape[1]
            shares = torch.from_numpy(self._strategy.coefficients(table.double().numpy(), each))
            widths = [ranks[module][0] for module in modules]
            facts |= dict(zip(modules, shares.split(widths, dim=1), strict=True))
        return facts

    def merge(self, pack: Pack) -> Factors:
        import torch

        products = pack.products
        shares = [share.to(products[0].a.dtype) for share in pack.fact]  # k of (r,)
        if self.fuse == "products":
            a = torch.cat([p.a for p in products])
            b = torch.cat([p.b * s for p, s in zip(products, shares, strict=True)], dim=1)
            return nearest_of_rank(Factors(a, b), len(shares[0]))
        pairs = list(zip(products, shares, strict=True))
        a = torch.stack([p.a * s[:, None] for p, s in pairs]).sum(0)
        return Factors(a, torch.stack([p.b * s for p, s in pairs]).sum(0))
