"""Options that several commands of `deltakit lora` take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Adapters = Annotated[
    list[str],
    typer.Argument(
        metavar="TASK|PATH",
        help="Adapters of the store, PEFT folders or kohya files; name=PATH renames.",
    ),
]
One = Annotated[
    str,
    typer.Argument(
        metavar="TASK|PATH", help="An adapter of the store, a PEFT folder or a kohya file."
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")]
Weights = Annotated[
    str, typer.Option(metavar="1,0.5", help="One weight an adapter, separated by commas.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the mode; repeat it."),
]
Rank = Annotated[int | None, typer.Option(help="The rank of every module of the result.")]
Energy = Annotated[
    float | None, typer.Option(help="Instead of a rank: the share of the energy to keep, as .99.")
]
Seed = Annotated[int, typer.Option(help="Seed of all random masks.")]
Dtype = Annotated[str | None, typer.Option(help="The output's dtype; by default the inputs'.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what deltakit wrote to --out earlier.")
]
