"""A store with a base and a lossless and a mergeable task, made once and copied for each test."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from deltakit.store import Store
from tests.models import write_model


@dataclass(frozen=True)
class Project:
    """A folder with a store (`here`), and models beside it."""

    folder: Path
    models: Path

    @property
    def store(self) -> Store:
        return Store.open(self.folder)


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "embed.weight": torch.randn(16, 8, generator=generator).to(torch.bfloat16),
        "layer.weight": torch.randn(8, 8, generator=generator),
        "layer.bias": torch.randn(8, generator=generator).to(torch.float16),
        "position_ids": torch.arange(8),
    }


def tuned(seed: int) -> dict[str, torch.Tensor]:
    found = tensors()
    generator = torch.Generator().manual_seed(seed)
    for name, value in found.items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator) * 0.1
            found[name] = (value.float() + noise).to(value.dtype)
    return found


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Project:
    models = tmp_path_factory.mktemp("models")
    write_model(models / "base", tensors())
    for seed, name in enumerate(("a", "b", "c"), 1):
        write_model(models / name, tuned(seed), shards=2 if name == "b" else 1)
    folder = tmp_path_factory.mktemp("template")
    store = Store.init(folder)
    store.add_base("tiny", models / "base")
    store.add("whole", "tiny", models / "b", lossless=True)
    store.add("first", "tiny", models / "a")
    return Project(folder, models)


@pytest.fixture
def project(template: Project, tmp_path: Path) -> Project:
    """A copy of the template that a test may damage; the models are shared and only read."""
    return copied(template, tmp_path / "project")


def copied(project: Project, folder: Path) -> Project:
    shutil.copytree(project.folder, folder)
    return Project(folder, project.models)


def content(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder by its path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
