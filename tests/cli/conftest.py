"""A folder to type commands in."""

from pathlib import Path

import pytest

from tests.engine.merging import write_models


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, without a store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DELTAKIT_STORE", raising=False)
    return tmp_path


@pytest.fixture
def here(empty: Path) -> Path:
    """The working folder with a base, and its fine-tunes a, b and c."""
    write_models(empty)
    return empty
