"""What the README shows, runs."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from deltakit_cli.main import build
from tests.lora.folders import factors, write_folder
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


def run(line):
    words = shlex.split(line, comments=True)
    assert words[0] == "deltakit"
    done = CliRunner().invoke(build(), words[1:])
    assert done.exit_code == 0, f"{line}\n{done.output}"
    return done.stdout


def ten_lines():
    (text,) = blocks("console", "deltakit init")
    return text.splitlines()


def test_the_ten_lines_work(folder):
    for line in ten_lines():
        assert run(line), line
    assert (folder / "merged" / "model.safetensors").exists()
    assert (folder / "averaged" / "model.safetensors").exists()


def test_the_commands_further_down_work_after_the_ten_lines(folder):
    """They also speak of a third task, and of adapters of a model of their own."""
    third = {n: t * 2 if t.is_floating_point() else t for n, t in some_tensors().items()}
    write_model(folder / "ft-rt", third)
    llama = {"q.weight": torch.ones(32, 24), "norm.weight": torch.ones(24)}
    write_model(folder / "llama", llama)
    write_model(folder / "ft-b", {name: tensor * 1.5 for name, tensor in llama.items()})
    for seed, name in enumerate(("lora-a", "lora-b")):
        tensors = factors("q", seed, rank=12, outputs=32, inputs=24)
        write_folder(folder / name, tensors, r=12, lora_alpha=12)
    for line in ten_lines():
        run(line)
    run("deltakit add rt --base minilm --model ./ft-rt")
    run("deltakit base add llama ./llama")
    further = re.findall(r"^    (deltakit .*)$", README, re.MULTILINE)
    assert len(further) > 9
    for line in further:
        run(line)


def test_the_python_lines_work(folder):
    (text,) = blocks("python", "deltakit.merge")
    exec(text, {})
    assert (folder / "in-python" / "deltakit_recipe.json").exists()


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
