"""deltakit lora convert: between PEFT and kohya."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from deltakit_cli.options import Json, StorePath, is_given, store_if_any
from deltakit_cli.output import emit, say
from deltakit_cli.verbs.lora._options import One


def command(
    ctx: typer.Context,
    adapter: One,
    to: Annotated[str, typer.Option(metavar="peft|kohya", help="What to write.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder, or kohya file, to write.")],
    base: Annotated[
        Path | None, typer.Option(help="From kohya: the model, for the names of its modules.")
    ] = None,
    scope: Annotated[str, typer.Option(help="To kohya: what its names begin with.")] = "lora_unet",
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Convert between PEFT's folders and kohya's files; the numbers stay as they are.

    deltakit lora convert ./style.safetensors --to peft --base ./unet --out ./style
    """
    from deltakit.errors import AlreadyThere
    from deltakit.lora.kohya import dotted, write_kohya
    from deltakit.lora.merge import merge_adapters
    from deltakit.members import open_members
    from deltakit.tensors.checkpoint import Checkpoint

    if to not in ("peft", "kohya"):
        raise typer.BadParameter(f"--to {to}: expected peft or kohya")
    if to == "kohya" and base is not None:
        raise typer.BadParameter("--base goes with --to peft")
    if to == "peft" and is_given(ctx, "scope"):
        raise typer.BadParameter("--scope goes with --to kohya")
    if out.exists():
        raise AlreadyThere(
            "the output exists already",
            where=str(out),
            remedy="choose another --out, or delete it yourself",
        )
    member = open_members([adapter], store=store_if_any(store))[0]
    opened = member.adapter
    if to == "kohya":
        write_kohya(opened, out, scope=scope)
    else:
        if opened.flat and base is None:
            raise typer.BadParameter("kohya's names have lost their dots: --base PATH is needed")
        if base is not None:
            if not opened.flat:
                raise typer.BadParameter("--base goes with a kohya file; a PEFT folder needs none")
            names = Checkpoint.open(base).infos
            opened = dotted(opened, [n.removesuffix(".weight") for n in names])
        merge_adapters([dataclasses.replace(member, adapter=opened)], "cat", out)
    emit(
        {"out": out, "modules": len(opened.parts)},
        lambda: say(f"wrote {len(opened.parts)} modules to {out}"),
        as_json,
    )
