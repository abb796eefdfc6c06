"""YAML as recipes use it: plain data, read strictly, for what is read may come from anywhere."""

from __future__ import annotations

import re
from typing import Any

from deltakit.errors import BadFile

MOST_BYTES = 1_000_000
_DEEPEST = 32
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]{1,19}")  # up to 2^63 - 1, the largest seed
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,4})?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def load(text: str) -> Any:
    r"""Return what a YAML text holds: dicts, lists, strings, numbers, bools and None.

    >>> load("strategy: ties\nsettings: {density: 1e-1, scope: no}")
    {'strategy': 'ties', 'settings': {'density': 0.1, 'scope': 'no'}}

    Plain words mean what YAML 1.2 says: only true and false are bools. Keys are text. Raises
    BadFile with the line for what is no YAML, and for what a recipe has no use for: aliases (by
    which a small text stands for a huge one), tags, a key twice, several documents, deep nesting.
    """
    import yaml

    if len(text) > MOST_BYTES:
        raise BadFile(f"a YAML text of over {MOST_BYTES} characters")
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            builder.take(event)
    except yaml.YAMLError as error:
        raise BadFile("not YAML: " + " ".join(str(error).split())) from None
    except RecursionError:
        raise BadFile("not YAML: nested too deeply") from None
    return builder.result


class _Builder:
    """Makes values of the events of a parser, one after the other."""

    def __init__(self) -> None:
        self.result: Any = None
        self._open: list[dict[str, Any] | list[Any]] = []
        self._keys: list[str | None] = []  # of each open collection: the key whose value is due
        self._documents = 0

    def take(self, event: Any) -> None:
        kind = type(event).__name__
        self._refuse(event, kind)
        if kind == "DocumentStartEvent":
            self._documents += 1
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            self._open.pop()
            self._keys.pop()
        elif kind == "ScalarEvent":
            self._scalar(event)
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            made: dict[str, Any] | list[Any] = {} if kind == "MappingStartEvent" else []
            self._put(made, event)
            self._open.append(made)
            self._keys.append(None)

    def _refuse(self, event: Any, kind: str) -> None:
        reason = None
        if kind == "AliasEvent" or getattr(event, "anchor", None):
            reason = "anchors and aliases (& and *) are not taken: write the value out"
        elif getattr(event, "tag", None):
            reason = f"tags ({event.tag[:40]}) are not taken: a plain value is meant"
        elif kind == "DocumentStartEvent" and self._documents:
            reason = "more than one document"
        elif len(self._open) > _DEEPEST:
            reason = "nested too deeply"
        if reason:
            raise _bad(reason, event)

    def _scalar(self, event: Any) -> None:
        if self._open and isinstance(self._open[-1], dict) and self._keys[-1] is None:
            if event.value in self._open[-1]:
                raise _bad(f"the key {event.value!r} is there twice", event)
            self._keys[-1] = event.value
            return
        self._put(plain(event.value) if event.style is None else event.value, event)

    def _put(self, value: Any, event: Any) -> None:
        if not self._open:
            self.result = value
            return
        into = self._open[-1]
        if isinstance(into, list):
            into.append(value)
            return
        key = self._keys[-1]
        if key is None:
            raise _bad("a key that is a list or a mapping", event)
        into[key], self._keys[-1] = value, None


def _bad(fact: str, event: Any) -> BadFile:
    return BadFile(f"not YAML for a recipe: {fact}", where=f"line {event.start_mark.line + 1}")


def plain(text: str) -> Any:
    """Return what a plain word means.

    >>> plain("1e-3"), plain("0.5"), plain("7"), plain("true"), plain("off"), plain("~")
    (0.001, 0.5, 7, True, 'off', None)
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def dump(value: Any) -> str:
    """Return plain data as YAML that `load`, and any other reader, gives back.

    >>> print(dump({"settings": {"density": 0.5}, "base": "1e-3"}), end="")
    settings: {density: 0.5}
    base: '1e-3'
    """
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]
        """Quotes each text that would be read back as something else."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: Any, data: str) -> Any:
        style = None if isinstance(plain(data), str) else "'"
        return dumper.represent_scalar("tag:yaml.org,2002:str", data, style=style)

    Dumper.add_representer(str, text)
    return yaml.dump(
        value, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=96
    )
