"""What of its running state a merge keeps and goes on from, checked before the first write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltakit.dtypes import itemsize
from deltakit.engine.groups import Group
from deltakit.engine.scores import scores_of
from deltakit.engine.shards import Shard
from deltakit.engine.state import State, part_name, state_shards
from deltakit.errors import BadFile, BadValue, NamesDiffer, some
from deltakit.importance import ImportanceMap
from deltakit.recipe import Effective, Recipe, Rule
from deltakit.recipe.rule import at_rule
from deltakit.strategies import Method, Scores, Streaming, find, names
from deltakit.tensors.header import TensorInfo


@dataclass(frozen=True)
class Keeping:
    """The parts kept of each merged parameter, the files they go to, and the state before."""

    before: State | None
    parts: Mapping[str, Mapping[str, TensorInfo]]  # by parameter, by part
    shards: Sequence[Shard]
    scored: Sequence[str]
    scores: Sequence[Mapping[str, float]]

    @property
    def nbytes(self) -> int:
        return sum(shard.nbytes for shard in self.shards)

    @property
    def bytes_before(self) -> int:
        """Bytes of the state before, which are read."""
        infos = self.before.tensors.infos if self.before else {}
        return sum(info.nbytes for info in infos.values())

    @property
    def entry_bytes(self) -> int:
        """Bytes that an entry of a block needs: what is read, made, and being written."""
        each = (sum(itemsize(i.dtype) for i in parts.values()) for parts in self.parts.values())
        return 3 * max(each, default=0)


def check_streams(recipe: Recipe, groups: Sequence[Group]) -> None:
    """Raise BadValue, with what would do, for a recipe that no task can be added to later."""
    if recipe.slices:
        raise BadValue(
            "a task cannot be added later to a model of stacked layers",
            remedy="merge all tasks at once, without --onto or --keep-state",
        )
    if recipe.tokenizer is not None:
        raise BadValue(
            "a task cannot be added later to models that are matched by token: its own tokens may"
            " be new",
            got=f"--tokenizer {recipe.tokenizer}",
            remedy="merge all tasks at once",
        )
    rules = (recipe.own, *recipe.rules)
    for group in groups:
        for method in group.methods:
            try:
                _check_streams(rules[group.rule], method)
            except BadValue as error:
                raise at_rule(group.rule, error) from None


def _check_streams(rule: Rule, method: Method) -> None:
    if method.streams:
        return
    strategy, remedy = method.strategy, "merge all tasks at once, without --onto or --keep-state"
    if rule.weighting:
        raise BadValue(
            "weights that are found from all deltas at once change with every task",
            got=f"--weights auto:{rule.weighting.name}",
            remedy="give the weights as numbers, or " + remedy,
        )
    piece: Any = strategy
    called = f"{rule.strategy}"
    if isinstance(strategy, Streaming) and strategy.streams and rule.mask:
        piece, called = method.mask, f"--mask {rule.mask.name}"
    if getattr(piece, "streams_with", ""):
        raise BadValue(
            f"a task cannot be added later to what {called} makes with these settings",
            expected=piece.streams_with,
            remedy="choose those, or " + remedy,
        )
    raise BadValue(
        f"a task cannot be added later to what {called} makes: it needs all tasks at once",
        expected=", ".join(streaming()) if piece is strategy else None,
        remedy=remedy,
    )


def streaming() -> list[str]:
    """Return the names of the strategies that a task can be added to later."""
    return [name for name in names() if issubclass(find(name), Streaming)]


def check_allowed(*, resume: bool, nonfinite: bool, device: bool = False) -> None:
    """Raise BadValue for what a merge that keeps its state cannot do."""
    facts = {
        "--resume": (resume, "is not resumed"),
        "--allow-nonfinite": (
            nonfinite,
            "holds no NaN: what is added later could not be seen",
        ),
        "--device": (device, "is computed on the processor"),
    }
    for option, (given, fact) in facts.items():
        if given:
            raise BadValue(
                f"a merge that keeps its running state {fact}",
                remedy=f"leave out {option}, or --keep-state",
            )


def check_before(before: State, groups: Sequence[Group]) -> None:
    """Raise BadFile for a state of parameters that are not merged, and BadValue for new ones.

    A parameter that no earlier task changes was zero in all of them, which is refused only where
    its being merged alters what was kept of the others.
    """
    strange = sorted(before.parameters.difference(*(group.names for group in groups)))
    if strange:
        raise _other_state(before, some(strange))
    for group in groups:
        new = sorted(set(group.names) - before.parameters)
        bound = any(m.needs_importance or m.looks == "model" for m in group.methods)
        if new and bound:
            raise BadValue(
                "the task changes parameters that no earlier one does, and what was kept of the"
                " earlier ones depends on which are merged",
                where=some(new),
                remedy="merge all tasks at once",
            )


def earlier_scores(before: State | None) -> list[Scores]:
    """Return the importance maps of the earlier tasks, as far as a strategy compares them."""
    import torch

    each = before.note.scores if before else []
    return [{n: torch.tensor(s, dtype=torch.float64) for n, s in task.items()} for task in each]


def plan_keeping(
    recipe: Recipe,
    groups: Sequence[Group],
    effective: Mapping[str, Effective],
    infos: Mapping[str, TensorInfo],
    maps: Sequence[ImportanceMap],
    facts: Mapping[str, Any],
    before: State | None,
) -> Keeping:
    """Return what is kept of the merged parameters, whose stored `infos` are given.

    Raises BadValue for a recipe that sums in float64, BadFile for an earlier state that is not what
    the recipe keeps, NamesDiffer for importance maps that score other parameters than the earlier
    ones.
    """
    if recipe.accumulate:
        raise BadValue(
            "a running state is kept in float32",
            where="accumulate",
            remedy="keep no state, or sum in float32",
        )
    parts, scored = {}, []
    for name in sorted(name for group in groups for name in group.names):
        method, info = effective[name].method, infos[name]
        assert isinstance(method.strategy, Streaming)
        worked = TensorInfo("F64" if info.dtype == "F64" else "F32", info.shape)
        parts[name] = method.strategy.keeps(worked, scores_of(maps, name))
        if method.needs_importance and any(name in found for found in maps):
            scored.append(name)
    kept = {part_name(n, part): info for n, each in parts.items() for part, info in each.items()}
    if before is not None:
        if set(scored) != set(before.note.scored):
            raise NamesDiffer(
                "the importance maps score other parameters than those of the earlier tasks",
                where=some(sorted(set(scored) ^ set(before.note.scored))),
                remedy="capture all maps over the same parameters",
            )
        known = before.parameters
        if dict(before.tensors.infos) != {
            name: info for name, info in kept.items() if name.rpartition(".")[0] in known
        }:
            raise _other_state(before)
    compared = [{n: float(found[n]) for n in facts if n in found} for found in maps]
    return Keeping(
        before,
        parts,
        state_shards(kept, recipe.max_shard_size),
        scored,
        [*(before.note.scores if before else []), *compared] if facts else [],
    )


def _other_state(before: State, got: str | None = None) -> BadFile:
    return BadFile(
        f"the state is not what {before.recipe.strategy} keeps of this base",
        where=str(before.tensors.path),
        got=got,
        remedy="merge the tasks again: deltakit merge --recipe",
    )
