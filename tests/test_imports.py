"""Commands that read only headers start without the heavy libraries."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from deltakit import kernels

HEAVY = {"torch", "transformers", "peft", "accelerate", "scipy", "huggingface_hub"}

# Runs the command as its entry point does, then writes what got imported to the file argv[1].
RUN = """
import json, sys
report, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = "deltakit"
try:
    from deltakit_cli.main import main
    code = main()
except SystemExit as stop:
    code = stop.code
finally:
    with open(report, "w") as out:
        json.dump(sorted({name.partition(".")[0] for name in sys.modules}), out)
sys.exit(code)
"""


def deltakit(*args: str | Path, cwd: Path) -> tuple[str, set[str]]:
    """Run a command that must succeed: what it printed, and the libraries that it imported."""
    report = cwd / "imported.json"
    command = [sys.executable, "-c", RUN, report, *args]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"deltakit {args}: exit code {done.returncode}\n{done.stderr}"
    return done.stdout, set(json.loads(report.read_text()))


def write_model(folder: Path, shift: float) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert", "hidden_size": 4}')
    weight = np.arange(32, dtype=np.float32).reshape(8, 4) + np.float32(shift)
    save_file({"encoder.weight": weight}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that holds one base and one task."""
    folder = tmp_path_factory.mktemp("project")
    base, tuned = write_model(folder / "base", 0), write_model(folder / "tuned", 0.5)
    deltakit("init", cwd=folder)
    deltakit("base", "add", "tiny", base, cwd=folder)
    deltakit("add", "shifted", "--base", "tiny", "--model", tuned, cwd=folder)
    return folder


def test_import_deltakit_is_light(tmp_path: Path):
    script = "import sys, deltakit; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert not (HEAVY | {"rich", "typer", "numpy"}) & set(done.stdout.split())


def test_help_is_light(tmp_path: Path):
    printed, imported = deltakit("--help", cwd=tmp_path)
    assert "merge" in printed
    assert not HEAVY & imported


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("ls", "shifted"),
        ("ls --json", "shifted"),
        ("show shifted", "tiny"),
        ("show shifted --json", "tiny"),
        ("log shifted", "shifted"),
        ("verify", ""),
        ("verify --read-data", ""),
    ],
)
def test_reading_a_store_is_light(project: Path, command: str, expected: str):
    printed, imported = deltakit(*command.split(), cwd=project)
    assert printed.strip()
    assert expected in printed
    assert not HEAVY & imported


def test_looking_at_adapters_is_light(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        config = '{"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q"]}'
        (tmp_path / name / "adapter_config.json").write_text(config)
        key = "base_model.model.q.lora_"
        tensors = {f"{key}{half}.weight": np.ones((2, 2), dtype=np.float32) for half in "AB"}
        save_file(tensors, tmp_path / name / "adapter_model.safetensors")
    for words in (
        ("inspect", "./a", "./b", "--fast"),
        ("inspect", "./a", "./b"),
        ("lora", "lint", "a", "--for", "vllm"),
    ):
        _, imported = deltakit(*words, cwd=tmp_path)
        assert not HEAVY & imported
    _, imported = deltakit("lora", "--help", cwd=tmp_path)
    assert not HEAVY & imported


def test_a_recipe_is_shown_and_converted_without_the_heavy_libraries(project: Path, tmp_path: Path):
    recipe = tmp_path / "r.yaml"
    base = project / "base"
    recipe.write_text(f"base: {base}\ntasks: [{{name: a, path: a}}]\nstrategy: klf\n")
    for words in (["show", recipe], ["convert", recipe, tmp_path / "r.json"]):
        _, imported = deltakit("recipe", *words, cwd=tmp_path)
        assert not HEAVY & imported, words


def test_a_stored_adapter_is_light(tmp_path: Path):
    (tmp_path / "a").mkdir()
    config = '{"peft_type": "LORA", "r": 2, "lora_alpha": 2}'
    (tmp_path / "a" / "adapter_config.json").write_text(config)
    tensors = {
        f"base_model.model.q.lora_{half}.weight": np.ones((2, 2), dtype=np.float32) for half in "AB"
    }
    save_file(tensors, tmp_path / "a" / "adapter_model.safetensors")
    for words in (["init"], ["add", "q", "--adapter", "a"], ["show", "q"], ["verify"]):
        _, imported = deltakit(*words, cwd=tmp_path)
        assert not HEAVY & imported, words


@pytest.mark.skipif(kernels.compiled is None, reason="the kernels were not built here")
@pytest.mark.parametrize("strategy", ["average", "task_arithmetic", "sotu", "dare", "ties"])
def test_what_the_kernels_merge_is_light(project: Path, tmp_path: Path, strategy: str):
    for task in ("shifted", project / "tuned"):  # stored, and a model
        words = ["merge", task, "--base", project / "base", "-s", strategy, "--out", tmp_path / "m"]
        _, imported = deltakit(*words, "--overwrite", cwd=project)
        assert not HEAVY & imported


@pytest.mark.skipif(kernels.compiled is None, reason="the kernels were not built here")
def test_a_merge_that_leaves_tensors_out_is_light(project: Path, tmp_path: Path):
    for name in ("base", "tuned"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        tensors = {"w": np.full(8, float(name == "tuned"), np.float32), "x": np.ones(8, np.float32)}
        save_file(tensors, tmp_path / name / "model.safetensors")
    words = ["merge", "./tuned", "--base", "./base", "-s", "average", "--out", "./merged"]
    _, imported = deltakit(*words, "--exclude", "x", cwd=tmp_path)
    assert not HEAVY & imported


def test_the_watch_sees_a_heavy_import(project: Path):
    """The same watch reports torch where it is rightly used, so the tests above can fail."""
    _, imported = deltakit(
        "merge",
        "shifted",
        "-s",
        "average",
        "--mask",
        "magnitude",
        "--out",
        project / "merged",
        cwd=project,
    )
    assert "torch" in imported


@pytest.mark.skipif(kernels.compiled is None, reason="the kernels were not built here")
@pytest.mark.parametrize(
    "kept",
    ["", "--lossless", "--mask sotu --p 0.5", "--mask magnitude --density 0.5", "--mask outliers"],
)
def test_what_the_kernels_store_is_light(project: Path, tmp_path: Path, kept: str):
    deltakit("init", cwd=tmp_path)
    deltakit("base", "add", "tiny", project / "base", cwd=tmp_path)
    words = ["add", "task", "--base", "tiny", "--model", project / "tuned", *kept.split()]
    _, imported = deltakit(*words, cwd=tmp_path)
    assert not HEAVY & imported
    if kept == "--lossless":
        _, imported = deltakit("restore", "task", "--out", tmp_path / "again", cwd=tmp_path)
        assert not HEAVY & imported
