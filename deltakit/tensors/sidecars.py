"""The files beside the weights that make a folder a model: config, tokenizer, licence."""

from __future__ import annotations

import os
from pathlib import Path

from deltakit.tensors.index import check_link

SUFFIXES = frozenset({".json", ".txt", ".model", ".jinja", ".py", ".tiktoken", ".spm"})
RECIPE_NAME = "deltakit_recipe.json"
ADAPTER_CONFIG = "adapter_config.json"  # beside a PEFT adapter's weights
STATE_FOLDER = "deltakit_state"  # of a merge: what a task can be added to
_NOT_COPIED = frozenset({RECIPE_NAME, STATE_FOLDER, "trainer_state.json", "training_args.json"})


def sidecars(folder: Path) -> list[Path]:
    """Return the relative paths of the files to keep beside a model's weights, sorted.

    Config, tokenizer, vocabulary, chat template, model code and licence, two folders deep
    (sentence-transformers keeps its pooling in one). Hidden files, weights, indexes and training
    state are left out.
    """
    found: list[Path] = []
    for root, folders, names in os.walk(folder):
        depth = len(Path(root).relative_to(folder).parts)
        folders[:] = sorted(f for f in folders if not _skipped(f)) if depth < 2 else []
        for name in sorted(names):
            path = Path(root) / name
            wanted = path.suffix.lower() in SUFFIXES or name.upper().startswith("LICENSE")
            if wanted and not _skipped(name) and (path.is_file() or path.is_symlink()):
                found.append(check_link(path, folder).relative_to(folder))
    return sorted(found)


def _skipped(name: str) -> bool:
    hidden = name.startswith((".", "checkpoint-"))
    return hidden or name.endswith(".index.json") or name in _NOT_COPIED
