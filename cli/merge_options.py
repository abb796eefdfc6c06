"""The options of deltakit merge, and what --help says of each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TASK|PATH",
        help="Tasks of the store, or paths of models, adapters or delta files; name=PATH renames.",
        show_default=False,
    ),
]

# How it is merged.
Strategy = Annotated[
    str,
    typer.Option("--strategy", "-s", help="See: deltakit strategies; or FILE.py:Class."),
]
Base = Annotated[str | None, typer.Option(help="The base: a path, or its name in the store.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the strategy; repeat it."),
]
Weights = Annotated[
    str, typer.Option(metavar="1,0.5", help="One weight a task, or auto:NAME to find them.")
]
MaskName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[:KEY=VALUE,..]", help="Thin deltas first; see: deltakit strategies."
    ),
]
Density = Annotated[
    float | None, typer.Option(help="The fraction that --mask keeps of each delta.")
]
Lines = Annotated[
    str | None, typer.Option(metavar="A,B", help="Scale by A + B * depth, 0 to 1 (LiNeS).")
]
Scale = Annotated[float, typer.Option(help="Multiplies the merged delta.")]
Exclude = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Tensors to keep as in the base; repeat it."),
]
Heads = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Tensors each task keeps, beside the result."),
]
Maps = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="An importance map, once a task, in their order."),
]
Seed = Annotated[int, typer.Option(help="Seed of all random masks.")]
Accumulate = Annotated[
    str | None,
    typer.Option(help="Sum deltas in float64; default float32. The result is rounded once."),
]
Dtype = Annotated[str | None, typer.Option(help="Of the output, as bfloat16; default the base's.")]
Tokenizer = Annotated[
    str | None,
    typer.Option(metavar="base|union|PATH", help="Whose tokens, where tokenizers differ."),
]
RecipePath = Annotated[
    Path | None,
    typer.Option(help="Merge as this file says: a recipe, a merged folder's, or mergekit's."),
]
SaveRecipe = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Only write the recipe, .yaml or .json, to edit."),
]
Onto = Annotated[
    Path | None,
    typer.Option(metavar="MERGED", help="Add the tasks to this merged model."),
]
Without = Annotated[
    list[str] | None,
    typer.Option(metavar="TASK", help="Take a task out of --onto MERGED; repeat it."),
]
KeepState = Annotated[
    bool, typer.Option("--keep-state", help="Keep what a later merge --onto needs.")
]
ShardSize = Annotated[str, typer.Option(help="Largest output file.")]
Threads = Annotated[int | None, typer.Option(help="Threads; by default one a core, to 4.")]
BlockSize = Annotated[int | None, typer.Option(help="Entries worked on at a time by a thread.")]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Scratch memory at most, as 512MB. More lets larger tensors be trimmed in one pass.",
    ),
]
OnDevice = Annotated[
    str | None, typer.Option(metavar="cuda|mps", help="Sum and round on this device.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier merge in --out.")]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Keep finished files, and go on from them."),
]
AllowNonfinite = Annotated[
    bool, typer.Option("--allow-nonfinite", help="Let NaN and infinity through.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check all, print the plan, write nothing.")
]

# What a recipe fixes, and so a merge that goes on from one: the parameter, and its name.
FIXED = {
    "tasks": "TASK",
    "strategy": "--strategy",
    "base": "--base",
    "settings": "--set",
    "weights": "--weights",
    "mask": "--mask",
    "density": "--density",
    "lines": "--lines",
    "scale": "--scale",
    "exclude": "--exclude",
    "heads": "--heads",
    "importance": "--importance",
    "seed": "--seed",
    "dtype": "--dtype",
    "accumulate": "--accumulate",
    "tokenizer": "--tokenizer",
    "max_shard_size": "--max-shard-size",
    "recipe": "--recipe",
}
