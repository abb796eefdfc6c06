"""deltakit inspect: the same figures as tables and as JSON, from paths and from a store."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from deltakit.importance import ImportanceMap
from deltakit.store import Store
from deltakit_cli.main import build
from tests.cli.running import on_terminal
from tests.models import write_model

TASKS = ["trec-questions-of-a-long-name", "sms", "rt", "sst2", "agnews", "emotion"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with a fine-tune of each task, and a store that holds two of them."""
    folder = tmp_path_factory.mktemp("models")
    generator = torch.Generator().manual_seed(0)
    shapes = {"embeddings.weight": (10, 4), "classifier.weight": (2, 4)}
    for i in range(3):
        shapes |= {f"layer.{i}.attention.query.weight": (4, 4), f"layer.{i}.ffn.lin.weight": (8, 4)}
    base = {n: torch.randn(s, generator=generator) for n, s in shapes.items()}
    write_model(folder / "base", base)
    for task in TASKS:
        tuned = {n: t + 0.1 * torch.randn(t.shape, generator=generator) for n, t in base.items()}
        write_model(folder / task, tuned)
    store = Store.init(folder)
    store.add_base("tiny", folder / "base")
    for task in ("sms", "rt"):
        store.add(task, "tiny", folder / task)
    return folder


def run(folder: Path, line: str) -> Result:
    """Run `inspect` in the folder, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return CliRunner().invoke(build(["inspect", "ls"]), ["inspect", *line.split()])


PATHS = " ".join(f"./{task}" for task in TASKS)


def test_piped_tables_have_every_name_in_full_and_no_colour(folder: Path):
    done = run(folder, f"{PATHS} --base ./base")
    assert done.exit_code == 0, done.output
    assert all(done.stdout.count(task) >= 4 for task in TASKS)
    assert "…" not in done.stdout
    assert "\x1b" not in done.stdout
    for kind in ("embedding", "attention q", "mlp", "head"):
        assert f"\n{kind} " in done.stdout


def test_six_tasks_fit_a_terminal_of_80_columns(folder: Path):
    args = [*(f"./{task}" for task in TASKS), "--base", "./base"]
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", on_terminal("inspect", *args, cwd=folder))
    lines = shown.rpartition("\r")[2].splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("…" in line for line in lines) > 4


def test_json_has_the_figures_of_the_tables_and_every_parameter(folder: Path):
    done = run(folder, "./sms ./rt --base ./base --json")
    report = json.loads(done.stdout)
    assert report["tasks"] == ["sms", "rt"]
    assert len(report["parameters"]) == report["model"]["parameters"] == 8
    assert [group["name"] for group in report["layers"]] == ["0", "1", "2", "-"]
    cosine = report["model"]["pairs"][0]["cosine"]
    tables = run(folder, "./sms ./rt --base ./base").stdout
    assert f"{cosine:.3f}" in tables


def test_tasks_of_a_store_give_the_figures_of_their_models(folder: Path):
    stored = json.loads(run(folder, "sms rt --json").stdout)
    direct = json.loads(run(folder, "./sms ./rt --base ./base --json").stdout)
    for one, other in zip(stored["model"]["tasks"], direct["model"]["tasks"], strict=True):
        assert one["norm"] == pytest.approx(other["norm"], rel=1e-5)
        assert one["relative_norm"] == pytest.approx(other["relative_norm"], rel=1e-5)


def test_one_task_needs_no_pair(folder: Path):
    done = run(folder, "sms")
    assert done.exit_code == 0, done.output
    assert "cosine" not in done.stdout
    assert "conflict" not in done.stdout


def test_fast_reads_headers_without_torch_or_base(folder: Path):
    code = (
        "import sys; from deltakit_cli.main import main\n"
        "try: main()\n"
        "finally: sys.stderr.write(str({'torch', 'rich'} & set(sys.modules)))"
    )
    args = ["inspect", "sms", "./rt", "--fast"]
    done = subprocess.run(
        [sys.executable, "-c", code, *args], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stderr == "set()"
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [
        ["sms", "add"],
        ["rt", "model"],
    ]


def test_fast_json_has_density_role_and_size(folder: Path):
    (header,) = json.loads(run(folder, "sms --fast --json").stdout)
    assert (header["task"], header["role"], header["parameters"]) == ("sms", "add", 8)
    assert header["density"] == 1.0
    assert header["nbytes"] > 0


def test_a_path_may_be_given_another_name(folder: Path):
    report = json.loads(run(folder, "one=./sms two=./sms --base ./base --json").stdout)
    assert report["tasks"] == ["one", "two"]
    assert report["model"]["together"]["interference"] == pytest.approx(1.0)
    (header,) = json.loads(run(folder, "one=./sms --fast --json").stdout)
    assert header["task"] == "one"


REFUSED = [
    ("./sms ./sms --base ./base", "two tasks have one name"),
    ("nope", "'nope' is neither a task nor a path"),
    ("sns --fast", "did you mean 'sms'?"),
    ("./nope --base ./base", "no such model or delta"),
    ("./nope --fast", "no such"),
    ("./sms --store ./nowhere", "there is no store"),
]


@pytest.mark.parametrize(("line", "words"), REFUSED)
def test_what_cannot_be_inspected_is_refused(folder: Path, line: str, words: str):
    done = run(folder, line)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert words in done.stderr


def test_fast_takes_no_base(folder: Path):
    assert run(folder, "./sms --fast --base /nope").exit_code == 2


def test_an_importance_map_is_not_a_task(folder: Path, tmp_path: Path):
    path = tmp_path / "importance.safetensors"
    ImportanceMap({"w": torch.tensor(0.5)}, task="trec").save(path)
    for options in ("--fast", "--base ./base"):
        done = run(folder, f"{path} {options}")
        assert done.exit_code == 1
        assert done.stderr.startswith("error: ")
