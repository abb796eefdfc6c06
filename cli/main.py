"""The front of the command: finds the verb, runs it, and turns what it raises into one message."""

from __future__ import annotations

import atexit
import errno
import gc
import importlib
import os
import pkgutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from deltakit_cli import verbs
from deltakit_cli.output import flush, note, printable, say, shorten
from deltakit_cli.stopping import exit_code, stop_as_ctrl_c

PANELS = ["Store", "Merge", "Look"]  # the order of the help; a heading not named here comes last
FIRST = ["init", "base", "add"]  # verbs in the order they are met; the others by name

INTERRUPTED = "interrupted, nothing was left half-written"

REMEDIES = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some space, or write to another disk",
    errno.EACCES: "check who may read and write there",
    errno.EPERM: "check who may read and write there",
    errno.EROFS: "write to another disk",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENAMETOOLONG: "a path is expected here, not the text of a file",
}


def verb_names() -> list[str]:
    """Return the verbs there are: `import_.py` is the verb "import", `dry_run.py` "dry-run".

    >>> "inspect" in verb_names()
    True
    """
    found = sorted(_verb(module.name) for module in pkgutil.iter_modules(verbs.__path__))
    return [v for v in FIRST if v in found] + [v for v in found if v not in FIRST]


def _verb(module: str) -> str:
    return module.rstrip("_").replace("_", "-")


class Front(TyperGroup):
    """The group of all verbs: its help has one section a panel; what a verb raises ends here."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        _bare_arguments(self)

    def list_commands(self, ctx: Any) -> list[str]:
        return [verb for verb in verb_names() if verb in self.commands]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {name: [] for name in PANELS}
        for verb in self.list_commands(ctx):
            panel = getattr(self.commands[verb], "rich_help_panel", None)
            heading = panel if isinstance(panel, str) else "Other"
            # The limit is that of a sentence, not of a line: a long one is wrapped, not cut.
            text = self.commands[verb].get_short_help_str(limit=1000)
            panels.setdefault(heading, []).append((verb, text))
        for heading, rows in panels.items():
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt as stop:
            note(INTERRUPTED)
            raise typer.Exit(exit_code(stop)) from None
        except Exception as error:
            if hasattr(error, "show") or ctx.params.get("debug"):
                raise  # a usage error, which the library shows; or the traceback that was asked for
            note(explain(error))
            raise typer.Exit(1) from None


def _bare_arguments(command: Any) -> None:
    """Leave the Python type out of the help of an argument that says itself what it takes."""
    for parameter in command.params:
        if parameter.param_type_name == "argument" and parameter.metavar:
            parameter.display_type_rich = lambda ctx: None
    for inner in getattr(command, "commands", {}).values():
        _bare_arguments(inner)


def explain(error: Exception) -> str:
    """Return the one message that the user gets for an error."""
    from deltakit.errors import DeltakitError

    if isinstance(error, DeltakitError):
        return f"error: {error}"
    if isinstance(error, OSError) and error.strerror:
        named = "" if error.filename is None else printable(os.fsdecode(error.filename))
        path = f"{shorten(named, 200)}: " if named else ""
        remedy = REMEDIES.get(error.errno or 0)
        return f"error: {path}{error.strerror.lower()}" + (f" ({remedy})" if remedy else "")
    if isinstance(error, MemoryError):
        return "error: out of memory (give fewer --threads, or a smaller --block-size)"
    return (
        f"error: {type(error).__name__}: {printable(str(error))}\n"
        "  this is a fault in deltakit; --debug shows where it happened"
    )


def build(wanted: Iterable[str] | None = None) -> typer.Typer:
    """Return the application with the given verbs, or with all of them."""
    app = typer.Typer(
        cls=Front,
        name="deltakit",
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    app.callback()(_front)
    modules = {_verb(module.name): module.name for module in pkgutil.iter_modules(verbs.__path__)}
    for verb in verb_names() if wanted is None else wanted:
        module = importlib.import_module(f"deltakit_cli.verbs.{modules[verb]}")
        panel = getattr(module, "PANEL", "Other")
        if hasattr(module, "app"):
            module.app.rich_markup_mode = None
            app.add_typer(module.app, name=verb, rich_help_panel=panel)
        else:
            app.command(verb, rich_help_panel=panel)(module.command)
    return app


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        say(f"deltakit {version('deltakit-merge')}")
        raise typer.Exit


def _front(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version.",
            is_eager=True,
            callback=_print_version,
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
) -> None:
    """Store what fine-tuning changed, and merge it.

    A task may be given by its name in a store, or as the path of a model folder or delta file.
    """


def spare() -> None:
    """Leave out what the process would do for nothing; call it before numpy is imported."""
    # What is imported lives as long as the process: looking through it for garbage, again and
    # again and once more at the end, takes up to a third of a short command's time.
    gc.set_threshold(100_000, 50, 50)
    atexit.register(gc.freeze)
    # The threads of numpy's OpenBLAS wait for work in a loop that takes a tenth of a second on each
    # processor, and mostly none comes: they are to sleep after 2^4 cycles, the least it takes.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")


def main(args: list[str] | None = None) -> None:
    """Run the command with these arguments (the process's own by default), and exit."""
    spare()
    given = list(sys.argv[1:] if args is None else args)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started the process: it is told nothing
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  until the end
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):  # a name that the terminal's encoding lacks is no error
            stream.reconfigure(errors="backslashreplace")
    options = given[: given.index("--")] if "--" in given else given
    if "--debug" in options:  # taken anywhere on the line
        given.remove("--debug")
        given.insert(0, "--debug")
    verb = next((word for word in given if not word.startswith("-")), None)
    try:
        stop_as_ctrl_c()
        # Only the verb that is called is imported; help and a mistyped verb need all of them.
        app = build([verb] if verb in verb_names() else None)
        app(args=given, prog_name="deltakit")
    except KeyboardInterrupt as stop:
        note(INTERRUPTED)
        sys.exit(exit_code(stop))
    finally:
        flush()


if __name__ == "__main__":
    main()
