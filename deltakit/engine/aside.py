"""What is not merged: tensors a rule excludes, and heads, which each task keeps for itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from deltakit.delta import Delta
from deltakit.delta_source import ModelDelta
from deltakit.engine.checks import Expert
from deltakit.errors import BadValue, some
from deltakit.recipe import Recipe, Rules
from deltakit.recipe.pattern import text
from deltakit.restored import Restored
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.files import Files
from deltakit.tensors.part import Part
from deltakit.tensors.source import TensorSource
from deltakit.tensors.writer import SafetensorsWriter, layout

if TYPE_CHECKING:
    from deltakit.engine.plan import Plan

FOLDER = "heads"
_CHUNK = 1 << 22
_MOST_NAME = 200  # bytes; file systems allow 255 for all of a name


@dataclasses.dataclass(frozen=True)
class Heads:
    """The tensors of one task that are written beside the result."""

    source: TensorSource
    names: Sequence[str]

    def metadata(self, task: str) -> dict[str, str]:
        """Return what the file says of itself: the task, and what its labels are called."""
        config = self.source.config() if isinstance(self.source, Checkpoint) else {}
        labels = {"id2label": json.dumps(config["id2label"])} if "id2label" in config else {}
        return {"format": "pt", "task": task, **labels}


def set_aside(expert: Expert, base: TensorSource, rules: Rules) -> tuple[Expert, Heads | None]:
    """Return an expert as the merge sees it, without what is not merged, and its heads.

    What is not merged may have another shape than the base's, or be missing from either.
    """
    whole = _model(expert, base, rules)
    if whole is None:
        return expert, None
    heads = sorted(name for name in whole.infos if rules.is_head(name))
    left_out = [name for name in whole.infos if not rules.merges(name)]
    if left_out:
        expert = dataclasses.replace(expert, source=ModelDelta(Part(whole, left_out)))
    return expert, Heads(whole, heads) if heads else None


def _model(expert: Expert, base: TensorSource, rules: Rules) -> TensorSource | None:
    """Return the model an expert stands for; None where it differs from the base by a delta."""
    source = expert.source
    if isinstance(source, ModelDelta):
        return source.tuned
    if isinstance(source, Delta) and source.role == "replace":
        source.base.check_infos(base.infos, f"the delta {source.label}", base.label)
        if any(not rules.merges(name) for name in (*source.new.infos, *base.infos)):
            return Restored(base, source)
    changed = [name for name in base.infos if rules.is_head(name)]
    if changed:
        raise BadValue(
            f"the heads of task {expert.name!r} cannot be kept aside: it is a delta to the base",
            where=source.label,
            got=f"heads {some(changed)}",
            remedy="give the fine-tuned model, or exclude them by a rule",
        )
    return None


def notes_on_aside(
    recipe: Recipe,
    experts: Sequence[Expert],
    heads: Mapping[str, Heads],
    base: TensorSource,
    rules: Rules,
) -> list[str]:
    """Return what is kept aside, and what is in no output; BadValue for heads nobody has."""
    if recipe.heads and not heads:
        raise BadValue(
            "no task has a tensor that the heads' pattern matches",
            got=text(recipe.heads),
            remedy="* stands for any text, dots too; deltakit inspect PATH shows the names",
        )
    notes = [
        f"{task}: {some(found.names, most=3)} kept aside in {path(task)}"
        for task, found in heads.items()
    ]
    without = [expert.name for expert in experts if heads and expert.name not in heads]
    notes += [f"without heads: {some(without)}"] if without else []
    for expert in experts:
        if isinstance(expert.source, ModelDelta):
            extra = set(expert.source.tuned.infos) - set(base.infos)
            lost = [name for name in extra if not rules.merges(name) and not rules.is_head(name)]
            if lost:
                notes.append(f"{expert.name}: excluded, and not in the base: {some(lost)}")
    return notes


def path(task: str) -> Path:
    """Return where the heads of a task lie in the output: under its name, shortened if long."""
    name = quote(task, safe=" ")
    if len(name) > _MOST_NAME:
        from blake3 import blake3

        name = f"{name[:_MOST_NAME]}-{blake3(task.encode()).hexdigest()[:16]}"
    return Path(FOLDER) / f"{name}.safetensors"


def write_heads(plan: Plan, folder: Path, files: Files) -> None:
    """Write each task's heads, byte for byte, into a file of its own."""
    if plan.heads:
        files.make_folder(folder / FOLDER)
    for task, heads in plan.heads.items():
        infos = {name: heads.source.infos[name] for name in heads.names}
        with SafetensorsWriter(
            folder / path(task), infos, heads.metadata(task), files=files
        ) as writer:
            for name, info in layout(infos):
                for start in range(0, info.nbytes, _CHUNK):
                    buffer = bytearray(min(_CHUNK, info.nbytes - start))
                    heads.source.read(name, start, memoryview(buffer))
                    writer.write(name, start, memoryview(buffer))
