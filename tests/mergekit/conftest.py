"""Small Llamas to configure merges of."""

from pathlib import Path

import pytest

from tests.mergekit.models import write_llamas


@pytest.fixture(scope="package")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with base, a and b."""
    folder = tmp_path_factory.mktemp("llamas")
    write_llamas(folder)
    return folder


@pytest.fixture
def models(llamas: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the working folder."""
    monkeypatch.chdir(llamas)
    return llamas
