"""Plain data as text: JSON or YAML, of which each says all that the other does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from deltakit.errors import BadFile, BadValue
from deltakit.recipe import yaml_text
from deltakit.tensors.files import LOCAL, Files, read_whole
from deltakit.tensors.new_file import write_whole

_YAML = (".yaml", ".yml")


def read_data(path: str | Path, files: Files = LOCAL) -> Any:
    """Return the plain data that a JSON or YAML file holds; BadFile for what is neither."""
    path = Path(path)
    raw = read_whole(path, files, most=10_000_000)
    try:
        return parse(raw, is_yaml=path.suffix.lower() in _YAML)
    except BadFile as error:
        raise error.at(str(path)) from None


def parse(raw: bytes, *, is_yaml: bool = False) -> Any:
    """Return the plain data of a JSON text, or of a YAML one."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeError as error:
        raise BadFile(f"not a recipe: {error}") from None
    is_json = not is_yaml and text.lstrip().startswith(("{", "["))
    found = _json(text) if is_json else yaml_text.load(text)
    if "\\ud" in text.lower():
        _check_writable(found)
    return found


def _json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadFile):
            raise
        raise BadFile(f"not a recipe: {error}") from None


def _check_writable(found: Any) -> None:
    """Raise BadFile for a text that no file can hold: half of a pair of escapes."""
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BadFile(
            "not a recipe: an escape is half a character",
            got=ascii(error.object[error.start]),
            remedy="write the character itself",
        ) from None


def write_data(value: msgspec.Struct, path: str | Path, files: Files = LOCAL) -> None:
    """Write a struct as YAML or JSON, as the name of the file says; one that exists is refused."""
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (*_YAML, ".json"):
        raise BadValue(
            "the name of the file says neither YAML nor JSON",
            expected="a name that ends in .yaml or .json",
            got=path.name,
        )
    data = to_json(value) if kind == ".json" else to_yaml(value).encode()
    write_whole(path, data, files=files)


def to_json(value: msgspec.Struct) -> bytes:
    """Return a struct as JSON, the same bytes for equal ones."""
    raw = msgspec.json.encode(value, order="sorted")
    return msgspec.json.format(raw, indent=2) + b"\n"


def to_yaml(value: msgspec.Struct) -> str:
    """Return a struct as YAML, without the keys that say what would be without them."""
    return yaml_text.dump(_terse(value))


def _terse(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.fields(value)
        given = {field.name: getattr(value, field.name) for field in fields}
        return {f.name: _terse(given[f.name]) for f in fields if given[f.name] != _default(f)}
    if isinstance(value, (list, tuple)):
        return [_terse(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _terse(entry) for key, entry in value.items()}
    return value


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON, in which no key is twice."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise BadFile(f"not a recipe: the key {key[:80]!r} is there twice")
        found[key] = value
    return found


def _no_constant(word: str) -> None:
    raise BadFile(f"not a recipe: {word} is no JSON")
