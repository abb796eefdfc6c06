"""What makes the output a model folder: config, tokenizer, index, recipe and model card."""

from __future__ import annotations

import json
from pathlib import Path

from deltakit.dtypes import DTYPES
from deltakit.engine.card import model_card
from deltakit.engine.checks import Expert
from deltakit.engine.plan import Plan
from deltakit.errors import AlreadyThere, BadFile
from deltakit.tensors.files import MOST_WHOLE, Files, read_whole
from deltakit.tensors.index import INDEX_NAME, index_bytes
from deltakit.tensors.new_file import write_whole
from deltakit.tensors.new_folder import check_apart
from deltakit.tensors.sidecars import ADAPTER_CONFIG, RECIPE_NAME, sidecars


def check_target(plan: Plan, out: Path, overwrite: bool, files: Files) -> None:
    """Raise unless `out` is free, or a merged model that may be replaced.

    Even with `overwrite` only a folder that holds a recipe is replaced, so that a slip of the
    keyboard deletes no home folder, and never one that holds an input.
    """
    check_apart(out, input_paths(plan))
    if not files.exists(out):
        return
    if not overwrite:
        raise AlreadyThere(
            "the output exists already",
            where=str(out),
            remedy="choose another --out, or pass --overwrite to replace it",
        )
    if not (out / RECIPE_NAME).is_file():
        raise AlreadyThere(
            f"the output exists and holds no {RECIPE_NAME}, so it is not ours to replace",
            where=str(out),
            remedy="choose another --out, or delete it yourself",
        )


def input_paths(plan: Plan) -> list[Path]:
    """Return every file and folder that a merge reads."""
    opened = (*plan.model.files, *plan.base.files)
    paths = [plan.model.path, *(file.path for file in opened)]
    if plan.recipe.tokenizer not in (None, "base", "union"):
        paths.append(Path(plan.recipe.tokenizer))
    for expert in plan.experts:
        paths += paths_of(expert)
    return paths


def paths_of(expert: Expert) -> list[Path]:
    """Return the files of a task: weights, an adapter's config beside them, an importance map."""
    files = [file.path for file in expert.source.files]
    configs = [path.with_name(ADAPTER_CONFIG) for path in files]
    maps = [expert.importance] if expert.importance is not None else []
    return [*files, *(path for path in configs if path.is_file()), *maps]


def check_sidecars(plan: Plan) -> None:
    """Raise BadFile for a file beside the base's weights that could not be copied."""
    for relative in _kept(plan):
        path = plan.model.folder / relative
        if str(relative) not in plan.files and path.stat().st_size > MOST_WHOLE:
            raise BadFile(
                "a file beside the weights is larger than a file of its kind can be",
                where=str(path),
                expected=f"at most {MOST_WHOLE} bytes",
                got=f"{path.stat().st_size}",
                remedy="move it out of the folder",
            )


def _kept(plan: Plan) -> list[Path]:
    source = plan.model.folder
    return sidecars(source) if (source / "config.json").exists() else []


def write_sidecars(plan: Plan, folder: Path, files: Files) -> None:
    """Write everything of the output but its weights, from the base's folder and the plan."""
    source = plan.model.folder
    for relative in sorted({*_kept(plan), *map(Path, plan.files)}):
        data = plan.files.get(str(relative), b"")
        if data is None:
            continue
        if str(relative) not in plan.files:
            data = read_whole(source / relative, files)
        if str(relative) == "config.json":
            data = _config(plan, data)
        if len(relative.parts) > 1:
            files.make_folder((folder / relative).parent)
        write_whole(folder / relative, data, files=files)
    if len(plan.shards) > 1:
        homes = {name: shard.file_name for shard in plan.shards for name in shard.infos}
        write_whole(folder / INDEX_NAME, index_bytes(homes, plan.bytes_out), files=files)
    write_whole(folder / RECIPE_NAME, plan.recipe.encode(), files=files)
    write_whole(folder / "README.md", model_card(plan.recipe).encode(), files=files)


def _config(plan: Plan, data: bytes) -> bytes:
    """Return this config.json, with the output's dtype where that is not the base's."""
    if plan.recipe.dtype is None:
        return data
    config = json.loads(data)
    for key in ("dtype", "torch_dtype"):
        if key in config:
            config[key] = DTYPES[plan.recipe.dtype][1]
    return (json.dumps(config, indent=2) + "\n").encode()
