"""What adapters keep whole (heads, norms, rows of embeddings), merged by the same weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deltakit.errors import BadValue, ShapeMismatch, some
from deltakit.lora.union import Member
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.source import TensorSource

if TYPE_CHECKING:
    from torch import Tensor

ALMOST = 1e-9  # weights written as decimal fractions add up to 1 only so far


@dataclass(frozen=True)
class Kept:
    """base + sum of share_i (kept_i - base), for each parameter that some adapter keeps.

    `shares` are the weights, or what they are of their sum where the mode averages. An adapter
    that does not keep a parameter leaves it as the base has it. The base is read only where the
    shares of those that keep it do not add up to 1.
    """

    members: Sequence[Member]
    shares: Sequence[float]
    base: TensorSource | None = None

    def check(self) -> None:
        """Raise for shapes that differ, and for what cannot be known without the base."""
        for name, shape in self.whole.items():
            for member in self.members:
                tensor = member.adapter.whole.get(name)
                if tensor is not None:
                    _check_shape(name, shape, member.adapter.source.infos[tensor].shape, member)
            self._check_known(name, self._holders(name))
        for name, indices in self.rows.items():
            for row in indices:
                holders = [
                    n
                    for n, member in enumerate(self.members)
                    if name in member.adapter.rows and row in member.adapter.rows[name].indices
                ]
                self._check_known(name, holders)

    @property
    def whole(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the parameters kept whole, by name."""
        return {
            name: member.adapter.source.infos[tensor].shape
            for member in reversed(self.members)
            for name, tensor in sorted(member.adapter.whole.items())
        }

    @property
    def rows(self) -> Mapping[str, tuple[int, ...]]:
        """Numbers of the rows kept, sorted, by parameter."""
        found: dict[str, set[int]] = {}
        for member in self.members:
            for name, rows in member.adapter.rows.items():
                found.setdefault(name, set()).update(rows.indices)
        return {name: tuple(sorted(found[name])) for name in sorted(found)}

    def columns(self, name: str) -> int:
        sizes = {
            m.adapter.source.infos[m.adapter.rows[name].tensor].shape[1]: m
            for m in self.members
            if name in m.adapter.rows
        }
        if len(sizes) > 1:
            raise ShapeMismatch(f"rows of {name!r} differ in length", got=some(map(str, sizes)))
        return next(iter(sizes))

    def _holders(self, name: str) -> list[int]:
        return [n for n, member in enumerate(self.members) if name in member.adapter.whole]

    def _left(self, holders: Sequence[int]) -> float:
        """Return the base's share: what those that keep the parameter leave of 1."""
        left = 1.0 - sum(self.shares[n] for n in holders)
        return 0.0 if abs(left) < ALMOST else left

    def _check_known(self, name: str, holders: Sequence[int]) -> None:
        if self._left(holders) == 0.0 or (self.base is not None and name in self.base.infos):
            return
        if self._same(name, holders):
            return
        raise BadValue(
            f"merging what the adapters keep of {name!r} takes the base's own values:"
            f" the weights of those that keep it add up to"
            f" {sum(self.shares[n] for n in holders):g}, not to 1",
            where=some([self.members[n].name for n in holders]),
            remedy="give --base PATH, or weights that add up to 1",
        )

    def _same(self, name: str, holders: Sequence[int]) -> bool:
        """Tell whether all keep the same bytes of an adapted module's own weight: the base's.

        PEFT stores the base's embeddings beside an adapter of them.
        """
        if name.removesuffix(".weight") not in self.members[holders[0]].adapter.parts:
            return False
        digests = {
            m.adapter.source.digest(m.adapter.whole[name])
            for m in (self.members[n] for n in holders)
            if name in m.adapter.whole
        }
        return len(digests) == 1

    def merged(self, name: str) -> Tensor:
        """Return the merged value of a parameter kept whole, in float32 or float64."""
        holders = self._holders(name)
        read = [self.members[n].adapter.read(self.members[n].adapter.whole[name]) for n in holders]
        left = self._left(holders)
        if left and (self.base is None or name not in self.base.infos):
            return read[0]  # all alike, see _same
        total = read[0] * self.shares[holders[0]]
        for number, values in zip(holders[1:], read[1:], strict=True):
            total = total + values * self.shares[number]
        if left:
            assert self.base is not None
            base = self.base[name].to(total.dtype)
            _check_shape(name, tuple(base.shape), tuple(total.shape), self.members[holders[0]])
            total += base * left
        return total

    def merged_rows(self, name: str) -> Tensor:
        """Return the merged rows of a parameter, in the order of `rows`: (rows, columns)."""
        import torch

        indices = self.rows[name]
        total = torch.zeros(len(indices), self.columns(name))
        left = [1.0] * len(indices)
        for member, share in zip(self.members, self.shares, strict=True):
            rows = member.adapter.rows.get(name)
            if rows is None:
                continue
            for row, values in zip(rows.indices, member.adapter.read(rows.tensor), strict=True):
                at = indices.index(row)
                total[at] += (values * share).to(total.dtype)
                left[at] -= share
        for at, (row, share) in enumerate(zip(indices, left, strict=True)):
            if abs(share) >= ALMOST:
                assert self.base is not None
                total[at] += self.base[name][row].to(total.dtype) * share
        return total


def _check_shape(
    name: str, expected: tuple[int, ...], got: tuple[int, ...], member: Member
) -> None:
    if expected != got:
        raise ShapeMismatch(
            f"what is kept of {name!r} has another shape",
            where=member.name,
            expected=f"{list(expected)}",
            got=f"{list(got)}",
            remedy="heads of different tasks, or resized vocabularies, cannot be averaged",
        )


def kept_infos(kept: Kept, dtype: str) -> dict[str, TensorInfo]:
    """Return dtype and shape of everything kept whole, as it will be written."""
    return {name: TensorInfo(dtype, shape) for name, shape in kept.whole.items()}
