"""What adapters keep whole (heads, norms, rows of embeddings), merged by the same weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deltakit.dtypes import working_dtype
from deltakit.errors import BadValue, ShapeMismatch, some
from deltakit.lora.flat import flat_blocks
from deltakit.lora.union import Member
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
                    found = member.adapter.source.infos[tensor].shape
                    _check_shape(name, shape, found, member.name)
            base = self._base_of(name, self._holders(name))
            if base is not None:
                _check_shape(name, base.infos[name].shape, shape, base.label)
        for name, indices in self.rows.items():
            for holders in sorted(set(self._row_holders(name).values())):
                base = self._base_of(name, holders)
                if base is not None:
                    found = base.infos[name].shape
                    rows = max(indices[-1] + 1, *found[:1])
                    _check_shape(name, found, (rows, self.columns(name)), base.label)

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

    def _row_holders(self, name: str) -> dict[int, tuple[int, ...]]:
        """Return who keeps each row of a parameter."""
        found: dict[int, tuple[int, ...]] = {}
        for number, member in enumerate(self.members):
            for row in member.adapter.rows[name].indices if name in member.adapter.rows else ():
                found[row] = (*found.get(row, ()), number)
        return found

    def _left(self, holders: Sequence[int]) -> float:
        """Return the base's share: what those that keep the parameter leave of 1."""
        left = 1.0 - sum(self.shares[n] for n in holders)
        return 0.0 if abs(left) < ALMOST else left

    def _base_of(self, name: str, holders: Sequence[int]) -> TensorSource | None:
        """Return the base if its values are needed, or raise where they are and it is not there."""
        if self._left(holders) == 0.0:
            return None
        if self.base is not None and name in self.base.infos:
            return self.base
        if self._same(name, holders):
            return None
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

    def nbytes(self, name: str) -> int:
        """Return the bytes that all adapters hold of a parameter kept whole."""
        adapters = [self.members[n].adapter for n in self._holders(name)]
        return sum(adapter.source.infos[adapter.whole[name]].nbytes for adapter in adapters)

    def blocks(self, name: str) -> Iterator[Tensor]:
        """Yield the merged values of a parameter kept whole, flat, in float32 or float64."""
        holders = self._holders(name)
        adapters = [self.members[n].adapter for n in holders]
        read = [adapter.blocks(adapter.whole[name]) for adapter in adapters]
        shares = [self.shares[n] for n in holders]
        left = self._left(holders)
        if left and (self.base is None or name not in self.base.infos):
            yield from read[0]  # all alike, see _same
            return
        if left:
            assert self.base is not None
            read.append(flat_blocks(self.base, name))
            shares.append(left)
        kinds = [working_dtype(a.source.infos[a.whole[name]].dtype) for a in adapters]
        wide = max(kinds, key=lambda kind: kind.itemsize)
        for first, *others in zip(*read, strict=True):
            total = first.to(wide) * shares[0]
            for values, share in zip(others, shares[1:], strict=True):
                total += values.to(wide) * share
            yield total

    def merged_rows(self, name: str) -> Tensor:
        """Return the merged rows of a parameter, in the order of `rows`: (rows, columns)."""
        import torch

        at = {row: number for number, row in enumerate(self.rows[name])}
        columns = self.columns(name)
        total = torch.zeros(len(at), columns)
        left = dict.fromkeys(at, 1.0)
        for member, share in zip(self.members, self.shares, strict=True):
            rows = member.adapter.rows.get(name)
            if rows is None:
                continue
            for row, values in zip(rows.indices, member.adapter.read(rows.tensor), strict=True):
                total[at[row]] += (values * share).to(total.dtype)
                left[row] -= share
        raw = torch.empty(8 * columns, dtype=torch.uint8)
        for row, share in left.items():
            if abs(share) >= ALMOST:
                assert self.base is not None
                values = self.base.block(name, row * columns, (row + 1) * columns, raw)
                total[at[row]] += values.to(total.dtype) * share
        return total


def _check_shape(name: str, expected: tuple[int, ...], got: tuple[int, ...], where: str) -> None:
    if expected != got:
        raise ShapeMismatch(
            f"what is kept of {name!r} has another shape",
            where=where,
            expected=f"{list(expected)}",
            got=f"{list(got)}",
            remedy="heads of different tasks, or resized vocabularies, cannot be averaged",
        )
