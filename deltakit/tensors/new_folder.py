"""A new folder: filled under a hidden name, and named when it is complete."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from deltakit.errors import AlreadyThere, BadValue
from deltakit.tensors.files import LOCAL, Files
from deltakit.tensors.new_file import temporary_name


def check_apart(out: Path, inputs: Iterable[Path]) -> None:
    """Raise BadValue where a folder to be written would replace an input."""
    target = out.resolve()
    for path in inputs:
        if path.resolve().is_relative_to(target):
            raise BadValue(
                "the output would replace an input",
                where=str(out),
                got=str(path),
                remedy="choose another --out",
            )


def _check_free(path: Path, replace: bool, files: Files) -> None:
    if not files.exists(path):
        return
    if not replace:
        raise AlreadyThere(
            "the output exists already",
            where=str(path),
            remedy="choose another --out, or pass --overwrite to replace it",
        )
    if path.is_symlink() or not path.is_dir():
        raise BadValue("the output to replace is not a folder", where=str(path))


@contextlib.contextmanager
def new_folder(
    path: Path, *, replace: bool = False, keep: str | None = None, files: Files = LOCAL
) -> Iterator[Path]:
    """Give a temporary sibling of `path` to fill, and rename it to `path` when the block ends well.

    `keep`, 16 hexadecimal digits, names that sibling. It is then left as it is when the block is
    interrupted or the disk fails (KeyboardInterrupt, OSError), and given again the next time.

    Raises AlreadyThere when `path` exists and `replace` is False, BadValue when it is no folder.
    With `replace`, the old folder is moved aside before the rename and deleted after it, so a
    crash leaves one of the two whole.
    """
    path = Path(os.path.abspath(path))  # "." has no name to put a temporary one beside
    _check_free(path, replace, files)
    files.make_folder(path.parent)
    temporary, old = temporary_name(path, keep), temporary_name(path)
    try:
        files.make_folder(temporary)
        yield temporary
        files.sync_folder(temporary)
        _check_free(path, replace, files)
        if files.exists(path):
            files.rename(path, old)
        files.rename(temporary, path)
        files.sync_folder(path.parent)
    except BaseException as error:
        if files.exists(old) and not files.exists(path):
            files.rename(old, path)
        if keep is None or not isinstance(error, (KeyboardInterrupt, OSError)):
            with contextlib.suppress(OSError):
                files.delete_folder(temporary)
        raise
    finally:
        if files.exists(old) and files.exists(path):
            files.delete_folder(old)
