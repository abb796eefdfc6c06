"""What the page about methods shows, runs; and a strategy of one's own is held to its file."""

import re
import shlex
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from deltakit import strategies
from deltakit.errors import BadValue, NotFound, UnknownName
from deltakit.strategies import _plugins
from deltakit_cli.main import build
from tests.models import some_tensors, write_model

PAGE = (Path(__file__).parent.parent / "docs" / "methods.md").read_text()
BLOCKS = re.findall(r"```(console|python)\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder the page speaks of: a base, two fine-tunes and mine.py."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DELTAKIT_STORE", raising=False)
    write_model(tmp_path / "base", some_tensors())
    for seed, name in enumerate(("ft-trec", "ft-sms"), 1):
        tuned = {
            n: t + some_tensors(seed)[n] * 0.1 if t.is_floating_point() else t
            for n, t in some_tensors().items()
        }
        write_model(tmp_path / name, tuned)
    (mine,) = (text for kind, text in BLOCKS if kind == "python")
    assert len(mine.splitlines()) <= 21
    (tmp_path / "mine.py").write_text(mine)
    return tmp_path


def run(line: str) -> Any:
    words = shlex.split(line, comments=True)
    assert words[0] == "deltakit"
    return CliRunner().invoke(build(), words[1:])


def test_every_command_of_the_page_works(folder: Path) -> None:
    lines = [line for kind, text in BLOCKS if kind == "console" for line in text.splitlines()]
    assert len(lines) == 7
    for line in lines:
        done = run(line)
        assert done.exit_code == 0, f"{line}\n{done.output}"
    first, second = ((folder / n / "model.safetensors").read_bytes() for n in ("mine", "again"))
    assert first == second


MERGE = "deltakit merge ./ft-trec ./ft-sms --base ./base --strategy"


def test_a_recipe_that_names_code_runs_it_only_if_allowed_and_unchanged(folder: Path) -> None:
    assert run(f"{MERGE} ./mine.py:Mine --out m").exit_code == 0
    done = run("deltakit merge --recipe m --out again")
    assert done.exit_code == 1
    assert "runs code of its own" in done.stderr
    (folder / "mine.py").write_text((folder / "mine.py").read_text() + "\n")
    done = run("deltakit merge --recipe m --allow-code --out again")
    assert done.exit_code == 1
    assert "not the one the recipe was made with" in done.stderr


def test_a_file_that_holds_no_such_strategy_is_refused_with_what_is_wrong(folder: Path) -> None:
    (folder / "broken.py").write_text("1 / 0")
    for name, error, fact in [
        ("./nowhere.py:Mine", NotFound, "no such file"),
        ("./mine.py:Mien", UnknownName, "did you mean 'Mine'"),
        ("./mine.py:Tensor", BadValue, "this is no Strategy"),
        ("./broken.py:Mine", BadValue, "ZeroDivisionError"),
    ]:
        with pytest.raises(error, match=fact):
            strategies.get(name)
    with pytest.raises(BadValue, match="density is outside"):
        strategies.get("./mine.py:Mine", {"density": 2})


def test_an_installed_package_may_offer_a_strategy(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint("mine", "mine:Mine", "deltakit.strategies")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(_plugins, "entry_points", lambda group: [point][: group == point.group])
    assert "mine" in strategies.names()
    merged = strategies.get("mine", {"density": 1}).merge(
        strategies.Stack(torch.tensor([[1.0, 2.0], [3.0, -4.0]]))
    )
    assert merged.tolist() == [4.0, 0.0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ties --density 0.1", "--density goes with --mask"),
        ("ties --mask ramdom", "did you mean 'random'"),
        ("ties --mask random:density", "not written as KEY=VALUE"),
        ("ties --mask random --density 20", "density is outside"),
        ("ties --set scope=global --mask random", "takes no mask beside"),
        ("average --weights auto:metagpd", "did you mean 'metagpt'"),
        ("klf --weights auto:metagpt", "takes no weights"),
        ("average --lines 1", "expected two numbers"),
        ("average --mask importance:by=map", "needs an importance map"),
        ("regmean", "deltakit importance ft-trec --kind gram --model PATH --data FILE"),
        ("slerp --set t=2", "t is outside [0, 1]"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_anything_is_written(
    words: str, message: str, folder: Path
) -> None:
    done = run(f"{MERGE} {words} --out m")
    assert done.exit_code in (1, 2)
    assert message in " ".join((done.stderr or done.output).split())
    assert not (folder / "m").exists()


def test_the_plan_tells_what_stands_around_the_strategy(folder: Path) -> None:
    done = run(
        f"{MERGE} ties --mask random:density=0.5 --weights auto:doge --lines 0.5,1 --dry-run"
    )
    assert done.exit_code == 0, done.output
    for word in ("random (density=0.5, rescale=none)", "doge (eta=0.07", "0.5 + 1 depth"):
        assert word in done.stdout
