"""What the README shows, runs."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from deltakit_cli.main import build
from tests.models import some_tensors, write_model

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```(console|python)\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder the README speaks of: a base and two fine-tunes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DELTAKIT_STORE", raising=False)
    write_model(tmp_path / "base", some_tensors())
    for seed, name in enumerate(("ft-trec", "ft-sms"), 1):
        tuned = {
            n: t + some_tensors(seed)[n] * 0.1 if t.is_floating_point() else t
            for n, t in some_tensors().items()
        }
        write_model(tmp_path / name, tuned)
    return tmp_path


def blocks(kind, word):
    return [text for found, text in BLOCKS if found == kind and word in text]


def test_the_ten_lines_work(folder):
    (text,) = blocks("console", "deltakit init")
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        assert words[0] == "deltakit"
        done = CliRunner().invoke(build(), words[1:])
        assert done.exit_code == 0, f"{line}\n{done.output}"
        assert done.stdout, line
    assert (folder / "merged" / "model.safetensors").exists()
    assert (folder / "averaged" / "model.safetensors").exists()


def test_the_python_lines_work(folder):
    (text,) = blocks("python", "deltakit.merge")
    exec(text, {})
    assert (folder / "merged" / "deltakit_recipe.json").exists()


def test_the_capture_loop_works(folder):
    (text,) = blocks("python", "KlfImportance.attach")
    model = torch.nn.Linear(2, 1)
    world = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "batches": [torch.ones(4, 2)] * 3,
        "loss": lambda model, batch: model(batch).sum(),
    }
    exec(text, world)
    assert (folder / "trec.importance.safetensors").exists()


def test_its_two_commands_are_targets_of_the_makefile():
    (text,) = blocks("console", "make demo")
    targets = [line.split()[1] for line in text.splitlines()]
    assert targets == ["demo", "test"]
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    for target in targets:
        assert f"\n{target}: " in makefile
