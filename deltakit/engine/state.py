"""The running state of a merge: what a later task is added to, in a folder beside the weights.

deltakit_state/
  state.json                     digests of the merged model's files and of these
  state.safetensors              <parameter>.<part>, as the strategy's `keeps` says
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from deltakit.engine.aside import FOLDER as HEADS
from deltakit.engine.shards import Shard, make_shards
from deltakit.errors import BadFile, NotFound
from deltakit.recipe import Recipe
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.digest import file_digest
from deltakit.tensors.files import LOCAL, Files, read_whole
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.index import check_link
from deltakit.tensors.new_file import write_whole
from deltakit.tensors.reader import SafetensorsFile
from deltakit.tensors.sidecars import RECIPE_NAME, STATE_FOLDER

FOLDER, NOTE = STATE_FOLDER, "state.json"
FORMAT = 2  # 1 held no `merged`
_MOST_NOTE = 1 << 28


class Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What state.json holds."""

    format: int = FORMAT
    since: int  # when the first of its tasks was merged, in ns since 1970
    merged: list[int] = []  # when each was, in the recipe's order
    digests: dict[str, str]  # blake3 of each file, by its path in the merged folder
    scored: list[str] = []  # the merged parameters that importance maps score
    scores: list[dict[str, float]] = []  # of each task, where the strategy compares all of them

    def times(self, recipe: Recipe) -> list[int]:
        """Return when each task of the merged model's recipe was merged, as far as was noted."""
        merged = self.merged or [self.since] * len(recipe.tasks)
        if len(merged) != len(recipe.tasks):
            raise BadFile(
                "the state's note is of other tasks than the recipe",
                expected=f"{len(recipe.tasks)} times",
                got=f"{len(merged)}",
                remedy="merge the tasks again: deltakit merge --recipe",
            )
        return merged


@dataclass(frozen=True)
class State:
    """The tasks merged so far: their recipe, and their running tensors by `part_name`."""

    folder: Path  # of the merged model
    recipe: Recipe
    note: Note
    tensors: Checkpoint

    @classmethod
    def open(cls, folder: str | Path, files: Files = LOCAL) -> State:
        """Open a merged model that keeps its state, and check every byte that its note names.

        Raises NotFound for a folder without one, BadFile for files that are not as they were.
        """
        folder = Path(folder)
        recipe = read_recipe(folder, files)
        if not keeps_state(folder):
            raise NotFound(
                "the merged model keeps no running state",
                where=str(folder),
                remedy="merge it once more, keeping one: deltakit merge"
                f" --recipe {folder} --keep-state --out DIR",
            )
        note = read_note(folder, files)
        names = [name for name in note.digests if name.startswith(f"{FOLDER}/")]
        note.times(recipe)
        if RECIPE_NAME not in note.digests or not names:
            raise BadFile("the state's note names no recipe or no state", where=str(folder))
        for name, digest in sorted(note.digests.items()):
            _check_file(folder, name, digest, files)
        shards = [SafetensorsFile(folder / name, files) for name in sorted(names)]
        return cls(folder, recipe, note, Checkpoint(folder / FOLDER, shards, files))

    @property
    def heads(self) -> list[str]:
        """The files of the tensors that tasks keep for themselves."""
        return sorted(name for name in self.note.digests if name.startswith(f"{HEADS}/"))

    @property
    def parameters(self) -> set[str]:
        """The parameters that some task so far changes."""
        return {name.rpartition(".")[0] for name in self.tensors}


def part_name(parameter: str, part: str) -> str:
    """Return the name of a part: no part holds a dot, so no two names are the same."""
    return f"{parameter}.{part}"


def read_recipe(folder: Path, files: Files = LOCAL) -> Recipe:
    """Return the recipe of a merged folder; raises NotFound for a folder that is none."""
    if not (folder / RECIPE_NAME).is_file():
        raise NotFound(
            f"no merged model: there is no {RECIPE_NAME}",
            where=str(folder),
            expected="a folder that deltakit merge wrote",
        )
    return Recipe.read(check_link(folder / RECIPE_NAME, folder), files)


def keeps_state(folder: Path) -> bool:
    """Tell whether a merged folder keeps its running state."""
    return (folder / FOLDER / NOTE).is_file()


def state_shards(infos: Mapping[str, TensorInfo], most: int) -> list[Shard]:
    """Return the files of a state, each of at most `most` bytes of tensors."""
    return [
        dataclasses.replace(
            shard, file_name=f"{FOLDER}/{shard.file_name.replace('model', 'state', 1)}"
        )
        for shard in make_shards(infos, most)
    ]


def write_note(
    folder: Path,
    names: Sequence[str],
    scored: Sequence[str],
    scores: Sequence[Mapping[str, float]],
    merged: Sequence[int],
    files: Files,
) -> None:
    """Write state.json, which vouches for the recipe and the files `names`, all of them written."""
    note = Note(
        since=min(merged),
        merged=list(merged),
        digests={name: file_digest(folder / name, files)[1] for name in (RECIPE_NAME, *names)},
        scored=list(scored),
        scores=[dict(each) for each in scores],
    )
    data = msgspec.json.format(msgspec.json.encode(note, order="sorted"), indent=1)
    write_whole(folder / FOLDER / NOTE, data + b"\n", files=files)


def read_note(folder: Path, files: Files = LOCAL) -> Note:
    """Return the note of a merged folder's state; raises BadFile for what is none."""
    path = check_link(folder / FOLDER / NOTE, folder)
    try:
        raw = read_whole(path, files, most=_MOST_NOTE)
        version = msgspec.json.decode(raw, type=dict[str, msgspec.Raw]).get("format", b"1")
        if msgspec.json.decode(version, type=int) > FORMAT:
            raise BadFile("the state was written by a newer deltakit", remedy="upgrade deltakit")
        return msgspec.json.decode(raw, type=Note)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadFile(f"not the note of a state: {error}", where=str(path)) from None
    except BadFile as error:
        raise error.at(str(path)) from None


def _check_file(folder: Path, name: str, digest: str, files: Files) -> None:
    """Raise BadFile unless a file of the merged model is the one that was written."""
    if name.startswith("/") or ".." in Path(name).parts:
        raise BadFile("the state's note names a file elsewhere", where=str(folder), got=name)
    path = check_link(folder / name, folder)
    if not path.is_file():
        raise BadFile(
            "a file of the merged model is gone",
            where=str(path),
            remedy="merge the tasks again: deltakit merge --recipe",
        )
    found = file_digest(path, files)[1]
    if found != digest:
        raise BadFile(
            "a file of the merged model is not as it was written",
            where=str(path),
            expected=f"blake3 {digest[:16]}",
            got=f"blake3 {found[:16]}",
            remedy="its state no longer tells what is in it: merge the tasks again",
        )
