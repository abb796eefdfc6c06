"""Model folders as live models: the one place that asks transformers for one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deltakit.errors import BadFile, NotFound


def config(path: str | Path) -> dict[str, Any]:
    """Return config.json of a model folder, or raise `NotFound` or `BadFile`."""
    file = Path(path) / "config.json"
    if not file.is_file():
        raise NotFound(
            "this is not a model folder",
            where=str(path),
            expected="a folder with config.json, safetensors weights and a tokenizer",
            remedy="pass the folder that save_pretrained wrote",
        )
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadFile("config.json is no JSON", where=str(file), got=str(error)) from None
    if not isinstance(found, dict):
        raise BadFile("config.json is no object", where=str(file), got=type(found).__name__)
    return found


def load(path: str | Path, auto_class: str) -> tuple[Any, Any]:
    """Return (model, tokenizer) of a folder: float32, evaluation mode, nothing downloaded.

    `auto_class` is the transformers class that reads it, such as "AutoModel". Only safetensors
    weights are read, and no code that a folder brings along is run.
    """
    config(path)
    import transformers

    local = {"local_files_only": True, "trust_remote_code": False}
    with quiet():
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(path), **local)
        except (OSError, ValueError) as error:
            raise BadFile(
                "the model's tokenizer cannot be read",
                where=str(path),
                got=str(error).partition("\n")[0],
                remedy="save it beside the weights: tokenizer.save_pretrained(folder)",
            ) from None
        model = getattr(transformers, auto_class).from_pretrained(
            str(path), dtype="float32", use_safetensors=True, **local
        )
    return model.eval(), tokenizer


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from drawing bars and load reports between our own lines."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
