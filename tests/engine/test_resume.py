"""An interrupted merge goes on from its finished files, and gives the same bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deltakit.engine import Limits, Report, execute, make_plan
from deltakit.errors import BadFile, NonFinite
from deltakit.experts import reopen
from deltakit.recipe import Recipe, Task
from tests.engine.merging import plan, weights, write_models
from tests.failing import FailingFiles
from tests.models import write_model


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_models(tmp_path, shards=2)
    return tmp_path


def small(folder: Path, **recipe: object):  # type: ignore[no-untyped-def]
    return plan(folder, "ties", max_shard_size=100, **recipe)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def hidden(folder: Path) -> list[Path]:
    return sorted(folder.glob(".out.*.tmp"))


def numbers(report: Report) -> tuple[object, ...]:
    return (report.changed, report.copied, report.merged_norm, report.task_norms, report.notes)


class Stopping:
    """Interrupts a merge, as Ctrl-C does, after so many writes."""

    def __init__(self, writes: int) -> None:
        self.left = writes

    def __call__(self, name: str, count: int) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("writes", [1, 3, 5, 6])
def test_an_interrupted_merge_resumes_to_the_same_bytes_and_report(
    models: Path, writes: int
) -> None:
    whole = execute(small(models), models / "whole")
    with pytest.raises(KeyboardInterrupt):
        execute(small(models), models / "out", resume=True, progress=Stopping(writes))
    assert not (models / "out").exists()
    assert len(hidden(models)) == 1
    finished = len(list(hidden(models)[0].glob("*.safetensors")))
    report = execute(small(models), models / "out", resume=True)
    assert report.resumed == finished
    assert contents(models / "out") == contents(models / "whole")
    assert numbers(report) == numbers(whole)
    assert not hidden(models)


def test_a_failure_at_any_call_resumes_to_the_same_bytes(models: Path) -> None:
    execute(small(models), models / "whole")
    clean = FailingFiles()
    execute(small(models), models / "clean", resume=True, files=clean)
    resumed = 0
    for call in range(1, len(clean.calls) + 1, 7):
        out = models / f"out{call}"
        try:
            execute(small(models), out, resume=True, files=FailingFiles(call))
        except OSError:
            if not out.exists():  # else only what comes after the rename failed
                resumed += execute(small(models), out, resume=True).resumed
        assert contents(out) == contents(models / "whole")
    assert resumed > 0


def test_finished_files_of_another_recipe_or_input_are_not_taken(models: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        execute(small(models), models / "out", resume=True, progress=Stopping(6))
    other = execute(small(models, scale=0.5), models / "out", resume=True)
    assert other.resumed == 0
    weights = next((models / "b").glob("*.safetensors"))
    os.utime(weights, ns=(0, 0))  # as if they had been written anew
    assert execute(small(models), models / "out", resume=True, overwrite=True).resumed == 0


def test_without_resume_an_interrupted_merge_leaves_nothing(models: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        execute(small(models), models / "out", progress=Stopping(5))
    assert not hidden(models)


def test_bad_input_leaves_nothing_even_with_resume(models: Path) -> None:
    with pytest.raises(NonFinite):
        execute(small(models, scale=1e38), models / "out", resume=True)
    assert not hidden(models)


def test_what_was_let_through_is_not_taken_by_a_merge_that_would_refuse_it(models: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        execute(
            small(models, scale=1e38),
            models / "out",
            resume=True,
            allow_nonfinite=True,
            progress=Stopping(6),
        )
    with pytest.raises(NonFinite):
        execute(small(models, scale=1e38), models / "out", resume=True)


def test_a_merge_that_let_nan_through_resumes_to_the_same_report(models: Path) -> None:
    def merge(out: str, progress: Stopping | None = None) -> Report:
        made = small(models, scale=1e38)
        return execute(made, models / out, resume=True, allow_nonfinite=True, progress=progress)

    whole = merge("whole")
    with pytest.raises(KeyboardInterrupt):
        merge("out", Stopping(6))
    report = merge("out")
    assert report.resumed > 0
    assert repr(numbers(report)) == repr(numbers(whole))  # NaN is not equal to itself


def test_shards_made_with_another_config_of_an_adapter_are_not_taken(tmp_path: Path) -> None:
    write_model(tmp_path / "base", {f"l.{i}.q.weight": torch.zeros(8, 8) for i in range(4)})
    names = [f"base_model.model.l.{i}.q.lora_{side}.weight" for i in range(4) for side in "AB"]
    tensors = {name: torch.ones((1, 8) if "_A." in name else (8, 1)) for name in names}
    (tmp_path / "lora").mkdir()
    save_file(tensors, tmp_path / "lora" / "adapter_model.safetensors")

    def merge(alpha: int, progress: Stopping | None = None) -> Report:
        config = {"peft_type": "LORA", "r": 1, "lora_alpha": alpha, "target_modules": ["q"]}
        path = tmp_path / "lora" / "adapter_config.json"
        if not path.exists() or json.loads(path.read_text()) != config:
            path.write_text(json.dumps(config))
        recipe = Recipe(
            base=str(tmp_path / "base"),
            tasks=[Task("lora", str(tmp_path / "lora"))],
            strategy="task_arithmetic",
            max_shard_size=256,
        )
        found = reopen(recipe)
        made = make_plan(recipe, found.base, found.experts, limits=Limits(threads=1))
        return execute(made, tmp_path / "out", resume=True, progress=progress)

    with pytest.raises(KeyboardInterrupt):
        merge(1, Stopping(3))
    assert merge(8).resumed == 0
    found = weights(tmp_path / "out")
    assert all(torch.equal(each, torch.full((8, 8), 8.0)) for each in found.values())


def test_damaged_counts_are_told(models: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        execute(small(models), models / "out", resume=True, progress=Stopping(6))
    counts = sorted(hidden(models)[0].glob("*.counts.json"))
    assert counts
    counts[0].write_text("{")
    with pytest.raises(BadFile, match="what an interrupted merge left is damaged"):
        execute(small(models), models / "out", resume=True)
