"""The chat template of the output: one given, or the one that most models have."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deltakit.errors import BadFile, BadValue, nearest
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.files import LOCAL, read_whole
from deltakit.tensors.index import check_link, read_json
from deltakit.vocabulary.files import Replaced

_FILE, _CONFIG, _OLD = "chat_template.jinja", "tokenizer_config.json", "chat_template.json"
_MOST = 1_000_000  # bytes of a template
_SHORTEST = 20  # characters of what can be a template
_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
NAMED = {"chatml": _CHATML}


def check_template(choice: str) -> None:
    """Raise BadValue for what is neither auto, a known name nor a template."""
    if choice == "auto" or choice in NAMED:
        return
    if len(choice) < _SHORTEST or "{" not in choice:
        close = nearest(choice, ("auto", *NAMED))
        raise BadValue(
            "not a chat template",
            expected=f"auto, {', '.join(NAMED)}, or a template in Jinja",
            got=choice[:80],
            remedy=f"did you mean {close!r}?" if close else "write the template itself",
        )


def chat_files(
    choice: str | None, base: Checkpoint, models: Mapping[str, Checkpoint | None], files: Replaced
) -> tuple[Replaced, list[str]]:
    """Return the files that hold the chat template, and notes; none where there is no choice.

    "auto" is the template that most of base and `models` have, of several the base's, then the
    first model's. `files` are those beside the weights that are not the base's. Raises BadValue
    where no tokenizer is there to have a template.
    """
    if choice is None:
        return {}, []
    notes: list[str] = []
    found = NAMED.get(choice, choice)
    if choice == "auto":
        each = {"the base": template_of(base.folder)}
        each |= {name: template_of(m.folder) for name, m in models.items() if m is not None}
        told = {name: text for name, text in each.items() if text}
        if not told:
            return {}, ["chat_template: no model has one"]
        ((found, _),) = Counter(told.values()).most_common(1)
        whose = [name for name, text in told.items() if text == found]
        notes.append(f"chat_template: that of {', '.join(whose)}")
    if not any(_there(name, base, files) for name in (_CONFIG, "tokenizer.json")):
        raise BadValue(
            "chat_template needs a tokenizer, and none is beside the base",
            where=str(base.folder),
            remedy="copy the tokenizer's files there",
        )
    made: Replaced = {_FILE: found.encode()}
    if _there(_OLD, base, files):
        made[_OLD] = None
    if _there(_CONFIG, base, files):
        config = _config(base.folder, files.get(_CONFIG))
        if "chat_template" in config:
            config["chat_template"] = found
            made[_CONFIG] = (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
    return made, notes


def template_of(folder: Path) -> str | None:
    """Return the chat template of a model's folder, None where it has none."""
    if (folder / _FILE).is_file():
        raw = read_whole(check_link(folder / _FILE, folder), LOCAL, _MOST)
        try:
            return raw.decode().strip() or None
        except UnicodeDecodeError:
            raise BadFile("not UTF-8", where=str(folder / _FILE)) from None
    if not (folder / _CONFIG).is_file():
        return None
    found = _config(folder, None).get("chat_template")
    if isinstance(found, list):
        found = _default(found)
    return found.strip() or None if isinstance(found, str) else None


def _default(several: Sequence[Any]) -> Any:
    """Return the template that is used unasked, of several with names."""
    named = {part.get("name"): part.get("template") for part in several if isinstance(part, dict)}
    return named.get("default")


def _config(folder: Path, replaced: bytes | None) -> dict[str, Any]:
    path = folder / _CONFIG
    table = read_json(check_link(path, folder)) if replaced is None else json.loads(replaced)
    if not isinstance(table, dict):
        raise BadFile("not a JSON object", where=str(path))
    return table


def _there(name: str, base: Checkpoint, files: Replaced) -> bool:
    """Tell whether the output has a file."""
    return files[name] is not None if name in files else (base.folder / name).is_file()
