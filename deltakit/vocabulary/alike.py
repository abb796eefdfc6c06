"""What a merge by ids is refused for: models whose rows are not of the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from deltakit.delta_source import DeltaSource
from deltakit.errors import BadValue, DeltakitError, ShapeMismatch
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.digest import bytes_digest
from deltakit.tensors.files import LOCAL, read_whole
from deltakit.tensors.header import TensorInfo
from deltakit.vocabulary.members import model_of
from deltakit.vocabulary.tensors import rows_of, vocabulary_tensors
from deltakit.vocabulary.tokenizer import MOST_BYTES, OLDER_FILES, Tokenizer

_REMEDY = (
    "match rows by token: --tokenizer base keeps the base's tokens,"
    " --tokenizer union also those that only a task has"
)


def check_same_tokens(
    base: Checkpoint,
    names: Sequence[str],
    sources: Sequence[DeltaSource],
    merges: Callable[[str], bool],
) -> list[str]:
    """Raise unless a row of an embedding is the same token's in all models; return notes.

    Raises ShapeMismatch for another number of rows, naming both, and BadValue for an id that
    stands for two tokens or a token of two ids, as far as tokenizers lie beside the models. An id
    that is one model's token and another's padding is no contradiction. Only tensors that the merge
    `merges` matter.
    """
    tensors = [name for name in vocabulary_tensors(base.infos, base.config()) if merges(name)]
    if not tensors:
        return []
    seen = [(base.label, base)]
    for name, source in zip(names, sources, strict=True):
        model = model_of(source)
        if model is None:
            continue
        for tensor in tensors:
            _check_size(name, model, tensor, base.infos[tensor])
        seen.append((name, model))
    return _compare(seen, rows_of(base.infos[tensors[0]]))


def _check_size(task: str, model: Checkpoint, tensor: str, ours: TensorInfo) -> None:
    theirs = model.infos.get(tensor)
    if theirs is not None and rows_of(theirs) != rows_of(ours):
        raise ShapeMismatch(
            f"the vocabulary of task {task!r} has another size than the base's",
            where=f"{model.label}, tensor {tensor!r}",
            expected=f"{rows_of(ours)} rows, {list(ours.shape)}, as in the base",
            got=f"{rows_of(theirs)} rows, {list(theirs.shape)}",
            remedy=_REMEDY,
        )


def _compare(models: Sequence[tuple[str, Checkpoint]], rows: int) -> list[str]:
    """Raise BadValue for the first contradiction; a tokenizer that cannot be read is noted."""
    with_files = [(name, model, _files(model)) for name, model in models]
    present = [entry for entry in with_files if entry[2]]
    if len({tuple(files.items()) for _, _, files in present}) < 2:
        return []
    notes: list[str] = []
    tokens: dict[int, tuple[str, str]] = {}  # of each id: the token, and whose it is
    ids: dict[str, int] = {}
    for name, model, _ in present:
        try:
            found = Tokenizer.open(model.folder)
        except DeltakitError as error:
            notes.append(f"{name}: its tokens were not compared: {error.fact}")
            continue
        for token, number in (found.ids if found else {}).items():
            if number >= rows:
                continue
            other, whose = tokens.setdefault(number, (token, name))
            if other != token:
                raise _contradiction(model, f"{other!r}, as in {whose}", f"{token!r}, id {number}")
            if ids.setdefault(token, number) != number:
                raise _contradiction(model, f"{token!r} with id {ids[token]}", f"id {number}")
    return notes


def _contradiction(model: Checkpoint, expected: str, got: str) -> BadValue:
    return BadValue(
        "the models' tokenizers contradict each other, so their rows cannot be merged by id",
        where=model.label,
        expected=expected,
        got=got,
        remedy=_REMEDY,
    )


def _files(model: Checkpoint) -> dict[str, str]:
    """Return the digests of the tokenizer's files; empty where only settings are there."""
    if not any((model.folder / name).is_file() for name in ("tokenizer.json", *OLDER_FILES)):
        return {}
    return {
        name: bytes_digest(read_whole(model.folder / name, LOCAL, MOST_BYTES))
        for name in ("tokenizer.json", "tokenizer_config.json", *OLDER_FILES)
        if (model.folder / name).is_file()
    }
