"""One unified delta and a mask for each task: the models that come back, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from deltakit.delta import Delta
from deltakit.errors import (
    AlreadyThere,
    BadFile,
    BadValue,
    DeltakitError,
    NonFinite,
    NotFound,
    WrongBase,
)
from deltakit.mask import Mask
from deltakit.merging import merge
from deltakit.store import Store
from deltakit.unified import UNIFIED, UnifiedTask
from deltakit.unify import BLOCK, plan_unify, unify
from deltakit_cli.main import build
from tests.engine.merging import TASKS, tune
from tests.models import write_model

SHAPES: dict[str, tuple[int, ...]] = {
    "layers.0.weight": (7, 5),
    "layers.1.weight": (3, BLOCK // 3 + 11),  # more than a block
    "norm.weight": (13,),
    "empty": (0, 4),
    "one": (),
}


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    draw = torch.Generator().manual_seed(0)
    dtype = getattr(torch, request.param)
    base = {n: torch.randn(s, generator=draw).to(dtype) for n, s in SHAPES.items()}
    base["ids"] = torch.arange(4)
    write_model(folder / "base", base)
    for seed, task in enumerate(TASKS, 1):
        write_model(folder / task, tune(base, seed))
    return folder


def unified(models: Path, out: Path, **options: Any) -> Path:
    tasks = [str(models / task) for task in TASKS]
    unify(plan_unify(tasks, base=str(models / "base"), **options), out)
    return out


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_a_task_comes_back_to_the_bytes_of_emr_without_the_others(
    models: Path, tmp_path: Path, scope: str
) -> None:
    weights, around = [1.0, 0.5, 2.0], {"base": str(models / "base"), "scale": 0.9}
    unified(models, tmp_path / "emr", scope=scope, weights=weights)
    for task in TASKS:
        merge(
            [str(models / t) for t in TASKS],
            "emr",
            tmp_path / f"{task}-all",
            settings={"task": task, "scope": scope},
            weights=weights,
            **around,
        )
        shutil.copytree(tmp_path / "emr", alone := tmp_path / f"{task}-emr")
        for other in set(TASKS) - {task}:
            (alone / f"{other}.safetensors").unlink()
        path = str(alone / f"{task}.safetensors")
        merge([path], "task_arithmetic", tmp_path / task, **around)
        one, other = (tmp_path / f / "model.safetensors" for f in (task, f"{task}-all"))
        assert one.read_bytes() == other.read_bytes()


def test_the_files_are_a_delta_and_masks_that_anyone_reads(models: Path, tmp_path: Path) -> None:
    done = unify(
        plan_unify([str(models / task) for task in TASKS], base=str(models / "base")),
        tmp_path / "emr",
    )
    delta = Delta.open(tmp_path / "emr" / UNIFIED)
    assert set(delta) == set(SHAPES)
    assert delta["norm.weight"].dtype == torch.float32
    merge([str(tmp_path / "emr" / UNIFIED)], "task_arithmetic", tmp_path / "u",
          base=str(models / "base"))  # fmt: skip
    merge([str(models / t) for t in TASKS], "emr", tmp_path / "m", base=str(models / "base"))
    one, other = (tmp_path / f / "model.safetensors" for f in "um")
    assert one.read_bytes() == other.read_bytes()
    tuned, base = (load_file(models / f / "model.safetensors") for f in ("a", "base"))
    own = tuned["norm.weight"].float() - base["norm.weight"].float()
    kept = Mask.open(tmp_path / "emr" / "a.safetensors").keep("norm.weight", 0, 13)
    assert kept.tolist() == (own * delta["norm.weight"] > 0).tolist()
    assert list(done.files) == list(TASKS)
    numel = sum(info.numel for info in delta.base.infos.values())
    assert done.mask_bytes < numel / 8 + 8192


def test_the_toy_of_the_paper(tmp_path: Path) -> None:
    for name, values in (("base", [0.0] * 4), ("a", [4, -1, 2, 3]), ("b", [2, 3, -1, 1])):
        write_model(tmp_path / name, {"w": torch.tensor(values, dtype=torch.float32)})
    unify(plan_unify([str(tmp_path / t) for t in "ab"], base=str(tmp_path / "base")),
          tmp_path / "emr")  # fmt: skip
    assert Delta.open(tmp_path / "emr" / UNIFIED)["w"].tolist() == [4, 3, 2, 3]
    for task, rescaler, mask in (("a", 10 / 9, [1, 0, 1, 1]), ("b", 0.7, [1, 1, 0, 1])):
        found = UnifiedTask.open(tmp_path / "emr" / f"{task}.safetensors")
        assert found.rescalers == {"": pytest.approx(rescaler)}
        assert found.mask.keep("w", 0, 4).tolist() == mask


def test_equal_inputs_give_equal_files(models: Path, tmp_path: Path) -> None:
    one, two = unified(models, tmp_path / "1"), unified(models, tmp_path / "2")
    for file in (UNIFIED, *(f"{task}.safetensors" for task in TASKS)):
        assert (one / file).read_bytes() == (two / file).read_bytes()


def test_what_cannot_be_unified_leaves_nothing(models: Path, tmp_path: Path) -> None:
    here = str(models / "base")
    out = tmp_path / "emr"
    with pytest.raises(BadValue, match="the name of the unified delta"):
        unify(plan_unify([f"unified={models / 'a'}", str(models / "b")], base=here), out)
    broken = load_file(models / "a" / "model.safetensors")
    broken["norm.weight"][3] = float("nan")
    write_model(tmp_path / "broken", broken)
    with pytest.raises(NonFinite, match="NaN or infinite"):
        unify(plan_unify([str(tmp_path / "broken"), str(models / "b")], base=here), out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken"]
    unified(models, out)
    before = (out / UNIFIED).read_bytes()
    with pytest.raises(AlreadyThere):
        unified(models, out)
    assert (out / UNIFIED).read_bytes() == before


def held(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_only_a_folder_that_unify_wrote_is_replaced(models: Path, tmp_path: Path) -> None:
    plan = plan_unify([str(models / task) for task in TASKS], base=str(models / "base"))
    out = unified(models, tmp_path / "emr")
    (out / "c.safetensors").rename(out / "of an earlier task.safetensors")
    unify(plan, out, overwrite=True)
    assert set(held(out)) == {UNIFIED, *(f"{task}.safetensors" for task in TASKS)}

    (out / "thesis.txt").write_text("mine")
    with pytest.raises(AlreadyThere, match=r"unify did not write(.*\n)+ +got: +thesis\.txt"):
        unify(plan, out, overwrite=True)
    (out / "thesis.txt").unlink()
    shutil.copy(models / "a" / "model.safetensors", out)
    with pytest.raises(AlreadyThere, match=r"got: +model\.safetensors"):
        unify(plan, out, overwrite=True)

    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / UNIFIED).write_text("named so, but mine")
    for place in (tmp_path / "precious", tmp_path):
        with pytest.raises(AlreadyThere, match="not ours to replace"):
            unify(plan, place, overwrite=True)
    assert held(tmp_path / "precious") == {UNIFIED: b"named so, but mine"}


def test_an_input_and_a_store_are_never_replaced(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models, here := tmp_path / "models")
    store = Store.init(tmp_path)
    store.add_base("base", here / "base")
    store.add("a", "base", here / "a")
    unified(here, here / "emr")
    before = held(tmp_path)
    plan = plan_unify(["a", str(here / "b"), str(here / "emr" / "c.safetensors")], store=store)
    places = [here / "b", here / "base", here, here / "emr", tmp_path, store.folder]
    for place in [*places, store.folder / "tasks" / "a"]:
        with pytest.raises(BadValue, match=r"would replace an input|in the folder of a store"):
            unify(plan, place, overwrite=True)
    with pytest.raises(BadValue, match="in the folder of a store"):
        unify(plan, store.folder / "tasks" / "new")
    assert held(tmp_path) == before


def changed(path: Path, **metadata: str | None) -> None:
    """Write a file again with other metadata."""
    with safe_open(path, "pt") as file:
        found = {**file.metadata(), **metadata}
    kept = {key: value for key, value in found.items() if value is not None}
    save_file(load_file(path), path, metadata=kept)


@pytest.mark.parametrize(
    ("metadata", "error", "words"),
    [
        ({"unified": "0" * 64}, BadFile, "belongs to another unified delta"),
        ({"rescalers": '{"": -1.0}'}, BadFile, "no number from 0 on"),
        ({"rescalers": '{"": 1e999}'}, BadFile, "rescaler"),
        ({"rescalers": '{"": NaN}'}, BadFile, "malformed"),
        ({"rescalers": '{"norm.weight": 1.0}'}, BadFile, "no rescaler of 'empty'"),
        ({"rescalers": "[1]"}, BadFile, "malformed"),
        ({"rescalers": None}, BadFile, "lacks 'rescalers'"),
        ({"shapes": '{"norm.weight": [13]}'}, DeltakitError, "mask has no parameter"),
        ({"shapes": "{}"}, DeltakitError, "mask has no parameter"),
        ({"deltakit": "99"}, BadFile, "newer deltakit"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(
    models: Path, tmp_path: Path, metadata: dict[str, str | None], error: Any, words: str
) -> None:
    file = unified(models, tmp_path / "emr") / "a.safetensors"
    changed(file, **metadata)
    with pytest.raises(error, match=words):
        merge([str(file)], "task_arithmetic", tmp_path / "m", base=str(models / "base"))
    assert not (tmp_path / "m").exists()


def test_a_mask_is_bound_to_its_delta_and_to_the_base(models: Path, tmp_path: Path) -> None:
    emr, other = unified(models, tmp_path / "1"), unified(models, tmp_path / "2", weights=[1, 2, 3])
    path = str(emr / "a.safetensors")
    with pytest.raises(WrongBase, match=r"the values of 'layers\.0\.weight' differ"):
        merge([path], "task_arithmetic", tmp_path / "m", base=str(models / "b"))
    shutil.copy(other / UNIFIED, emr / UNIFIED)
    with pytest.raises(BadFile, match="belongs to another unified delta"):
        merge([path], "task_arithmetic", tmp_path / "m", base=str(models / "base"))
    (emr / UNIFIED).unlink()
    with pytest.raises(NotFound, match="missing"):
        merge([path], "task_arithmetic", tmp_path / "m", base=str(models / "base"))
    (emr / UNIFIED).symlink_to(other / UNIFIED)
    with pytest.raises(BadFile, match="a link leads out"):
        merge([path], "task_arithmetic", tmp_path / "m", base=str(models / "base"))


def test_the_command_says_how_a_task_comes_back(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["unify", *(str(models / t) for t in TASKS), "--base", str(models / "base")]
    done = CliRunner().invoke(build(), [*words, "--out", "emr"])
    assert done.exit_code == 0, done.output
    assert "emr/a.safetensors --base" in done.output.replace("\n", " ")
    told = CliRunner().invoke(build(), [*words, "--out", "again", "--json"])
    assert json.loads(told.output)["files"]["b"] == "b.safetensors"
    refused = CliRunner().invoke(build(), [*words, "--out", "emr"])
    assert refused.exit_code == 1
    assert "the output exists already" in refused.output
