"""The store's verbs, as a user types them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from deltakit.importance import ImportanceMap
from deltakit.mask import Mask
from deltakit.store import Store
from deltakit.tensors.reader import SafetensorsFile
from deltakit_cli.main import build
from tests.lora.folders import factors, write_folder
from tests.models import some_tensors, write_model


def deltakit(*words: str | Path) -> Result:
    return CliRunner().invoke(build(), [str(word) for word in words])


def printed(*words: str | Path) -> str:
    done = deltakit(*words)
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*words: str | Path) -> str:
    done = deltakit(*words)
    assert done.exit_code == 1, done.output
    assert not done.stdout
    return done.stderr


def misused(*words: str | Path) -> str:
    done = deltakit(*words)
    assert done.exit_code == 2, done.output
    return " ".join(done.stderr.replace("│", " ").split())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a store with the base "tiny", and models a and b."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DELTAKIT_STORE", raising=False)
    write_model(tmp_path / "base", some_tensors())
    for seed, name in enumerate("ab", 1):
        floats = {n: t for n, t in some_tensors(seed).items() if t.is_floating_point()}
        write_model(tmp_path / name, some_tensors() | floats, shards=seed)
    Store.init(tmp_path).add_base("tiny", tmp_path / "base")
    return tmp_path


def test_from_nothing_to_a_restored_model(
    tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "fresh").mkdir()
    monkeypatch.chdir(tmp_path / "fresh")
    assert ".deltakit" in printed("init")
    assert "registered tiny: 7 tensors" in printed("base", "add", "tiny", here / "base")
    assert str(here / "base") in printed("base", "ls")
    added = printed("add", "trec", "--base", "tiny", "--model", here / "b", "--lossless")
    assert "replace (lossless" in added
    restored = printed("restore", "trec", "--out", "out")
    for path in sorted((here / "b").iterdir()):
        assert (Path("out") / path.name).read_bytes() == path.read_bytes()
    digests = [line.split()[-1] for line in restored.splitlines() if "when added" in line]
    assert len(digests) == 3, "two files and the fingerprint"
    assert all(restored.count(digest) == 2 for digest in digests)
    assert printed("ls").splitlines()[1].split()[:3] == ["trec", "tiny", "replace"]


def test_add_tells_what_was_stored(here: Path):
    told = printed("add", "a", "--base", "tiny", "--model", "a", "--mask", "sotu", "--p", "0.9")
    lines = {line.split()[0]: line for line in told.splitlines()}
    assert set(lines) == {
        "task", "base", "role", "density", "values", "size", "importance", "time"
    }  # fmt: skip
    data = json.loads(
        printed("add", "b", "--base", "tiny", "--model", "b", "--mask", "magnitude",
                "--density", "0.5", "--json")
    )  # fmt: skip
    assert data["density"] == pytest.approx(0.5, abs=0.02)
    assert data["seconds"] > 0
    assert data["nbytes"] == Path(data["delta"]).stat().st_size


def test_p_and_density_are_two_ways_to_say_one_mask(here: Path):
    same = ["--base", "tiny", "--model", "a", "--mask", "sotu", "--seed", "4"]
    printed("add", "x", *same, "--p", "0.9")
    first = Store.open().task("x").delta_path.name
    printed("rm", "x")
    printed("add", "x", *same, "--density", "0.1")
    assert Store.open().task("x").delta_path.name == first
    assert Store.open().task("x").provenance["seed"] == "4"


@pytest.mark.parametrize("mask", ["nm", "rank:eps=0.2", "group:by=column", "outliers"])
def test_a_mask_may_be_any_that_a_merge_takes(here: Path, mask: str):
    printed("add", "x", "--base", "tiny", "--model", "a", "--mask", mask)
    made = Store.open().task("x").provenance
    assert made["mask"] == mask.partition(":")[0]
    assert ("seed" in made) == (mask not in ("nm", "outliers"))


@pytest.mark.parametrize(
    "mask",
    [
        ["sotu", "--p", "0.9"],
        ["sotu:p=0.9"],
        ["sotu:density=0.1"],
        ["random:density=0.1"],
        ["random", "--density", "0.1"],
    ],
)
def test_a_random_mask_is_the_same_however_it_is_written(here: Path, mask: list[str]):
    Path("sotu").mkdir()  # a folder of a mask's name is no mask
    printed("add", "x", "--base", "tiny", "--model", "a", "--mask", *mask, "--seed", "3")
    made = Store.open().task("x").provenance
    assert (made["mask"], made["density"], made["seed"]) == ("random", "0.1", "3")


def test_a_mask_that_needs_other_tasks_or_rescales_is_refused(here: Path):
    for mask, words in [
        ("disjoint", "depends on other tasks"),
        ("nm:taken=excluded", "depends on other tasks"),
        ("rank:rescale=inverse", "keeps its values as they are"),
        ("nn", "did you mean 'nm'"),
    ]:
        assert words in refused("add", "x", "--base", "tiny", "--model", "a", "--mask", mask)


def test_a_mask_may_be_a_file(here: Path):
    Mask.random(0.5, 7, "other").save(here / "mask.safetensors")
    printed("add", "x", "--base", "tiny", "--model", "a", "--mask", "mask.safetensors")
    assert Store.open().task("x").provenance["seed"] == "7"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--p", "0.9"], "--p goes with --mask NAME"),
        (["--p", "0.9", "--density", "0.1"], "--p and --density go with --mask NAME"),
        (["--seed", "7"], "--seed goes with --mask NAME"),
        (["--seed", "7", "--lossless"], "--seed goes with --mask NAME"),
        (["--mask", "nm", "--seed", "7"], "a mask that draws, and nm does not"),
        (["--mask", "magnitude:density=.1", "--density", ".5"], "density is given twice"),
        (["--mask", "sotu:p=.9", "--p", ".9"], "p is given twice"),
        (["--mask", "magnitude", "--density", ".1", "--p", ".9"], "--p goes with"),
        (["--mask", "magnitude"], "needs --density"),
        (["--mask", "sotu"], "needs either --p or --density"),
        (["--mask", "sotu", "--p", ".9", "--density", ".1"], "not both"),
    ],
)
def test_options_that_do_not_go_together_are_a_usage_error(
    here: Path, options: list[str], words: str
):
    assert words in misused("add", "x", "--base", "tiny", "--model", "a", *options)
    assert Store.open().tasks() == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mask", "sotu", "--p", "1"], "p is outside [0, 1)"),
        (["--mask", "sotu", "--density", "0"], "density is outside (0, 1]"),
        (["--mask", "magnitude", "--density", "1.5"], "density is outside (0, 1]"),
        (["--mask", "magnitud"], "did you mean 'magnitude'?"),
        (["--mask", "magnitude", "--density", "1", "--lossless"], "leave out --lossless"),
        (["--mask", "sotu:p=auto"], "give a number"),
        (["--mask", "random:density=.1,rescale=inverse"], "keeps the values as they are"),
        (["--mask", "sotu", "--p", "0.9", "--seed", "-1"], "the seed is not an integer"),
        (["--values-dtype", "int4"], "unknown dtype 'int4'"),
        (["--importance", "none.safetensors"], "none.safetensors"),
    ],
)
def test_values_out_of_range_are_refused(here: Path, options: list[str], words: str):
    assert words in refused("add", "x", "--base", "tiny", "--model", "a", *options)
    assert Store.open().tasks() == []


def test_an_adapter_is_refused_with_what_to_do(here: Path):
    (here / "lora").mkdir()
    (here / "lora" / "adapter_config.json").write_text("{}")
    told = refused("add", "x", "--base", "tiny", "--model", "lora")
    assert "deltakit add x --base tiny --adapter lora" in told


def test_a_damaged_manifest_is_refused_with_what_to_do(here: Path):
    printed("add", "x", "--base", "tiny", "--model", "a")
    for file, verb in (("tasks/x/task.json", ["ls"]), ("bases/tiny.json", ["base", "ls"])):
        path = here / ".deltakit" / file
        whole = path.read_bytes()
        for damaged in (b"{", whole.replace(b'"created"', b'"Created"'), whole + b" "):
            path.write_bytes(damaged)
            told = refused(*verb)
            assert file in told
            assert "deltakit verify" in told
        path.write_bytes(whole)


def test_a_task_that_exists_is_refused(here: Path):
    printed("add", "x", "--base", "tiny", "--model", "a")
    assert "deltakit rm x" in refused("add", "x", "--base", "tiny", "--model", "b")


def test_show_and_log_tell_the_same_in_both_forms(here: Path):
    scores = {"embed.weight": torch.tensor(2.0), "layer.0.bias": torch.tensor(3.0)}
    ImportanceMap(scores, task="x").save("map.safetensors")
    printed("add", "x", "--base", "tiny", "--model", "a", "--importance", "map.safetensors")
    data = json.loads(printed("show", "x", "--json"))
    text = printed("show", "x")
    assert data["importance_top"] == [["layer.0.bias", 3.0], ["embed.weight", 2.0]]
    assert text.index("layer.0.bias") < text.index("embed.weight")
    assert sum(data["codecs"].values()) == data["tensors_changed"] == 4
    assert f"4 of {data['tensors']} changed" in text
    for key in ("revision", "base", "role"):
        assert data[key] in text
    assert max(map(len, text.splitlines())) <= 80 or "/" in text
    assert data["revision"] in printed("log", "x")
    assert [r["revision"] for r in json.loads(printed("log", "x", "--json"))] == [data["revision"]]


def test_ls_of_an_empty_store_says_how_to_begin(here: Path):
    assert "deltakit add" in printed("ls")
    assert json.loads(printed("ls", "--json")) == []


def test_a_task_removed_meanwhile_is_not_listed(here: Path, monkeypatch: pytest.MonkeyPatch):
    store = Store.open()
    for task in "ab":
        store.add(task, "tiny", here / task)
    listed = Store.tasks

    def racing(self: Store) -> list[str]:
        found = listed(self)
        store.remove("a")
        return found

    monkeypatch.setattr(Store, "tasks", racing)
    assert [line.split()[0] for line in printed("ls").splitlines()] == ["task", "b"]


def test_ls_keeps_to_80_columns(here: Path):
    printed("add", "x", "--base", "tiny", "--model", "a")
    assert max(map(len, printed("ls").splitlines())) <= 80


def test_rm_then_gc_frees_the_space(here: Path):
    printed("add", "x", "--base", "tiny", "--model", "a")
    path = Store.open().task("x").delta_path
    assert "gc" in printed("rm", "x")
    assert "left 1 file" in printed("gc")
    assert str(path) in printed("gc", "--grace", "0", "--dry-run")
    assert path.exists()
    assert "deleted 1 file" in printed("gc", "--grace", "0")
    assert not path.exists()


def test_verify_exits_with_1_and_names_the_tensor(here: Path):
    printed("add", "x", "--base", "tiny", "--model", "a")
    assert "sound" in printed("verify", "--read-data")
    path = Store.open().task("x").delta_path
    file = SafetensorsFile(path)
    last = max(file.header.offsets, key=lambda name: file.header.offsets[name])
    file.close()
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    assert "sound in structure" in printed("verify")
    done = deltakit("verify", "--read-data")
    assert done.exit_code == 1
    assert f"tensor {last!r}" in done.stdout
    data = json.loads(deltakit("verify", "--read-data", "--json").stdout)
    assert not data["sound"]
    assert last in {finding["tensor"] for finding in data["findings"]}


def test_verify_of_a_damaged_manifest_reports_and_others_refuse(here: Path):
    printed("add", "x", "--base", "tiny", "--model", "a")
    (here / ".deltakit" / "tasks" / "x" / "task.json").write_text("{")
    assert deltakit("verify", "--read-data").exit_code == 1
    assert "task.json" in refused("ls")


def test_a_base_that_is_hashed_again_says_how_it_is_not_every_time(here: Path):
    for task in "ab":
        printed("add", task, "--base", "tiny", "--model", task)
    os.utime(here / "base" / "model.safetensors", ns=(1, 1))
    again = f"deltakit base add tiny {here / 'base'}"
    for words in (
        ["inspect", "a", "b"],
        ["merge", "a", "b", "--strategy", "average", "--out", "1"],
        ["unify", "a", "b", "--out", "2"],
        ["importance", "a"],
    ):
        done = deltakit(*words)
        assert done.exit_code == 0, done.output
        assert again in " ".join(done.stderr.split())
    printed(*again.split()[1:])
    assert again not in deltakit("inspect", "a", "b").stderr


def test_a_store_of_a_newer_format_is_refused(here: Path):
    (here / ".deltakit" / "format.json").write_text('{"format":2,"digest":""}')
    for verb in (["ls"], ["verify"], ["show", "x"], ["gc"]):
        assert "upgrade deltakit" in refused(*verb)


def test_the_store_may_be_named(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir("/")
    assert "deltakit init" in refused("ls")
    assert printed("ls", "--store", here)
    assert printed("ls", "--store", here / ".deltakit")
    monkeypatch.setenv("DELTAKIT_STORE", os.fspath(here))
    assert printed("ls")


def test_importance_of_a_task_comes_from_its_delta(here: Path):
    printed("add", "x", "--base", "tiny", "--model", "a")
    told = printed("importance", "x")
    record = Store.open().task("x")
    assert record.importance_path is not None
    assert record.revision in told
    found = ImportanceMap.open(record.importance_path)
    delta = some_tensors(1)["layer.0.weight"] - some_tensors()["layer.0.weight"]
    assert float(found["layer.0.weight"]) == pytest.approx(float(delta.abs().mean()))
    assert (found.score, found.base) == ("delta", record.base_fingerprint)


def test_importance_as_json_tells_what_the_table_does(here: Path):
    printed("add", "x", "--base", "tiny", "--model", "a")
    of_path = ("./a", "--base", "base", "--out")
    table = printed("importance", *of_path, "one.safetensors").splitlines()
    rows = [line.split()[0] for line in table[2:]]
    for words in (("x",), (*of_path, "two.safetensors")):
        told = json.loads(printed("importance", *words, "--json"))
        assert told["kind"] == "delta"
        assert [name for name, _ in told["importance_top"]] == rows


def test_show_tells_names_of_files_whole(here: Path):
    printed("add", "x", "--base", "tiny", "--model", "a")
    told = printed("show", "x")
    assert all(name in told for name in json.loads(printed("show", "x", "--json"))["files"])


def test_importance_of_a_path_is_a_file(here: Path):
    printed("importance", "./a", "--base", "base", "--out", "a.safetensors")
    found = ImportanceMap.open("a.safetensors")
    assert found.task == "a"
    assert found.base == Store.open().base("tiny").fingerprint
    printed("add", "x", "--base", "tiny", "--model", "a", "--importance", "a.safetensors")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["./a", "--base", "base"], "needs --out"),
        (["./a", "--out", "x"], "needs --base"),
        (["x", "--out", "y"], "go with a PATH"),
        (["x", "--kind", "fisher"], "needs --data"),
        (["x", "--kind", "delta", "--data", "y"], "takes no --data"),
        (["x", "--data", "y"], "needs --model"),
        (["x", "--model", "./nowhere"], "--model goes with --data"),
        (["./a", "--base", "base", "--out", "y", "--store", "."], "--store goes with a TASK"),
        (["x", "--kind", "delta", "--units", "row"], "--units goes with --kind first"),
        (["x", "--kind", "delta", "--window", "all"], "--window goes with --kind first"),
    ],
)
def test_importance_says_what_is_missing(here: Path, options: list[str], words: str):
    printed("add", "x", "--base", "tiny", "--model", "a")
    assert words in misused("importance", *options)


@pytest.mark.parametrize(
    ("out", "words"), [("there", "exists already"), ("no/map", "no such folder")]
)
def test_where_a_map_goes_is_checked_before_it_is_measured(here: Path, out: str, words: str):
    Path("there").write_text("mine")
    told = refused("importance", "./a", "--data", "unread.jsonl", "--out", out)
    assert words in told
    assert "remedy" in told
    assert Path("there").read_text() == "mine"


def test_the_store_of_the_environment_is_no_option(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DELTAKIT_STORE", os.fspath(here))
    printed("importance", "./a", "--base", "base", "--out", "a.safetensors")


def test_an_unknown_kind_of_importance_is_refused(here: Path):
    assert "did you mean 'fisher'?" in refused("importance", "x", "--kind", "fishr")


def test_an_adapter_is_kept_shown_and_given_back(here: Path):
    info = some_tensors()
    name = next(n for n, tensor in sorted(info.items()) if tensor.dim() == 2)
    rows, columns = info[name].shape
    parts = factors(name.removesuffix(".weight"), 1, outputs=rows, inputs=columns)
    write_folder(here / "lora", parts, r=2, lora_alpha=6)
    printed("add", "style", "--base", "tiny", "--adapter", "lora")
    printed("add", "free", "--adapter", "lora")
    rows_of_ls = [line.split()[:4] for line in printed("ls").splitlines()[1:]]
    assert rows_of_ls == [["free", "-", "adapter", "-"], ["style", "tiny", "adapter", "-"]]
    shown = printed("show", "style")
    assert "1 of rank 2, scaling 3" in shown
    assert "byte for byte" in shown
    told = json.loads(printed("show", "style", "--json"))
    assert (told["role"], told["ranks"], told["density"]) == ("adapter", [2], None)
    assert json.loads(printed("show", "free", "--json"))["base"] is None
    printed("restore", "style", "--out", "back")
    for file in (here / "lora").iterdir():
        assert (here / "back" / file.name).read_bytes() == file.read_bytes()
    assert "norm" in printed("inspect", "style", "f=lora")
    assert "adapter" in printed("inspect", "style", "--fast")
    assert "without its base" in refused("importance", "free")


@pytest.mark.parametrize("words", [["--model", "a"], ["--lossless"], ["--seed", "0"]])
def test_an_adapter_is_kept_as_it_is_or_not_at_all(here: Path, words: list[str]):
    assert "as it is" in misused("add", "x", "--adapter", "a", *words)


def test_a_task_needs_a_model_or_an_adapter(here: Path):
    assert "--base NAME is missing" in misused("add", "x")
    assert "--model PATH is missing" in misused("add", "x", "--base", "tiny")
