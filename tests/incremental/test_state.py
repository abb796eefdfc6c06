"""The state beside a merged model: only where asked for, and no byte of it is taken on trust."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deltakit.engine.state import FOLDER, NOTE, State
from deltakit.errors import (
    BadFile,
    NotFound,
)
from deltakit.tensors.digest import file_digest
from tests.incremental.growing import at_once, contents, onto


def test_a_merge_keeps_no_state_unless_asked(models: Path, tmp_path: Path) -> None:
    plain = at_once(models, "average", "ab", tmp_path / "plain")
    assert not (plain / FOLDER).exists()
    with pytest.raises(NotFound, match="keeps no running state") as refusal:
        onto(models, "average", plain, "c", tmp_path / "abc")
    assert "--keep-state" in str(refusal.value)
    with pytest.raises(NotFound, match="no merged model"):
        onto(models, "average", models / "base", "c", tmp_path / "abc")


@pytest.mark.parametrize(
    "file", ["model.safetensors", f"{FOLDER}/state.safetensors", "deltakit_recipe.json"]
)
def test_one_flipped_byte_in_the_merged_model_is_refused(
    models: Path, tmp_path: Path, ab: Path, file: str
) -> None:
    data = bytearray((ab / file).read_bytes())
    data[-3] ^= 1
    (ab / file).write_bytes(data)
    with pytest.raises(BadFile) as refusal:
        onto(models, "average", ab, "c", tmp_path / "abc")
    assert Path(file).name in str(refusal.value)
    assert not (tmp_path / "abc").exists()
    (ab / file).unlink()
    with pytest.raises((BadFile, NotFound)):
        onto(models, "average", ab, "c", tmp_path / "abc")


NOTES = [
    ("{", "not the note"),
    ('{"format": 3}', "newer deltakit"),
    ('{"since": 0, "digests": {}}', "names no recipe"),
    ('{"since": 0, "digests": {}, "more": 1}', "not the note"),
    ('{"since": 0, "merged": [0], "digests": {}}', "of other tasks"),
]


@pytest.mark.parametrize(("text", "words"), NOTES)
def test_a_note_that_is_none_is_refused(
    models: Path, tmp_path: Path, ab: Path, text: str, words: str
) -> None:
    (ab / FOLDER / NOTE).write_text(text)
    with pytest.raises(BadFile, match=words):
        onto(models, "average", ab, "c", tmp_path / "abc")


def test_a_note_of_the_first_format_is_read(models: Path, tmp_path: Path, ab: Path) -> None:
    abc = onto(models, "average", ab, "c", tmp_path / "abc")
    note = json.loads((ab / FOLDER / NOTE).read_text())
    assert note.pop("merged") == [note["since"]] * 2
    (ab / FOLDER / NOTE).write_text(json.dumps({**note, "format": 1}))
    again = onto(models, "average", ab, "c", tmp_path / "again")
    assert contents(again) == contents(abc)
    read = State.open(again).note
    assert read.merged[:2] == [note["since"]] * 2 < read.merged[2:]


@pytest.mark.parametrize("name", ["../a/model.safetensors", "/etc/passwd", "missing"])
def test_a_note_that_names_a_file_elsewhere_is_refused(ab: Path, name: str) -> None:
    note = json.loads((ab / FOLDER / NOTE).read_text())
    note["digests"][name] = "0" * 64
    (ab / FOLDER / NOTE).write_text(json.dumps(note))
    with pytest.raises((BadFile, NotFound)):
        State.open(ab)


def vouched(folder: Path) -> None:
    """Make the note fit the files again, as a forger would."""
    note = json.loads((folder / FOLDER / NOTE).read_text())
    note["digests"] = {name: file_digest(folder / name)[1] for name in note["digests"]}
    (folder / FOLDER / NOTE).write_text(json.dumps(note))


def test_a_state_of_other_tensors_is_refused(models: Path, tmp_path: Path, ab: Path) -> None:
    path = ab / FOLDER / "state.safetensors"
    tensors = load_file(path)
    for wrong in (
        {**tensors, "more.sum": torch.zeros(2)},
        {name: tensor.double() for name, tensor in tensors.items()},
        {name.replace("norm", "form"): tensor for name, tensor in tensors.items()},
    ):
        save_file(wrong, path)
        vouched(ab)
        with pytest.raises(BadFile, match="not what average keeps"):
            onto(models, "average", ab, "c", tmp_path / "abc")
