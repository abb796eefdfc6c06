"""deltakit lora lint: what another program will not take."""

from __future__ import annotations

from typing import Annotated

import typer

from deltakit_cli.options import Json, StorePath, store_if_any
from deltakit_cli.output import emit, say, say_wrapped
from deltakit_cli.verbs.lora._options import One


def command(
    adapter: One,
    program: Annotated[str, typer.Option("--for", metavar="peft|vllm|kohya", help="For what.")],
    rank: Annotated[int, typer.Option(help="The largest rank that vLLM was started for.")] = 16,
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Tell what another program will not take of an adapter; exit code 1 where it will fail.

    deltakit lora lint ./merged --for vllm --rank 64
    """
    from deltakit.lora.lint import lint as find
    from deltakit.members import open_members

    opened = open_members([adapter], store=store_if_any(store))[0].adapter
    found = find(opened, program, rank=rank)

    def render() -> None:
        for finding in found:
            say_wrapped(f"{finding.level}: {finding.fact}")
            say_wrapped(f"  remedy: {finding.remedy}")
        if not found:
            say(f"{adapter}: nothing that {program} would not take")

    emit(found, render, as_json)
    if any(finding.level == "error" for finding in found):
        raise typer.Exit(1)
