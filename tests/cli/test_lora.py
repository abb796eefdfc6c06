"""deltakit lora, as a user types it."""

import json

import pytest
import torch
from typer.testing import CliRunner

from deltakit.lora import open_adapter
from deltakit.tensors.checkpoint import Checkpoint
from deltakit_cli.main import build
from tests.lora.folders import delta, factors, write_folder
from tests.models import write_model

TENSORS = {"a": factors("q", 1), "b": factors("q", 2)}
BASE = {"q.weight": torch.ones(6, 5), "norm.weight": torch.ones(6)}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DELTAKIT_STORE", raising=False)
    write_model(tmp_path / "base", BASE, shards=2)
    for name, tensors in TENSORS.items():
        write_folder(tmp_path / name, tensors, r=2, lora_alpha=2)
    return tmp_path


def deltakit(*words):
    return CliRunner().invoke(build(["lora", "merge", "inspect"]), list(words))


def lora(*words):
    done = deltakit("lora", *words)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_merge_prints_its_self_check(here):
    printed = lora("merge", "a", "x=b", "--rank", "2", "--weights", "1,0.5", "-o", "m")
    assert printed.startswith("merged 2 adapters with svd into m: 1 module,")
    assert "rank 2 keeps" in printed
    assert "worst" in printed
    found = json.loads((here / "m" / "deltakit_lora.json").read_text())
    assert sorted(a["name"] for a in found["record"]["adapters"]) == ["a", "x"]


def test_merge_as_json_has_every_module(here):
    report = json.loads(lora("merge", "a", "b", "--mode", "cat", "-o", "m", "--json"))
    assert report["ranks"] == [4]
    assert report["modules"][0]["module"] == "q"
    assert report["summary"]["error"] < 1e-6


def test_settings_reach_the_mode(here):
    lora("merge", "a", "b", "-m", "ties", "--set", "density=0.5", "--energy", "0.9", "-o", "m")
    found = json.loads((here / "m" / "deltakit_lora.json").read_text())
    assert found["record"]["settings"]["density"] == 0.5
    assert found["record"]["energy"] == 0.9


def test_bake_keeps_the_bases_shards_and_adds_all_at_once(here):
    lora("bake", "a", "b", "--base", "base", "--weights", "1,-1", "-o", "m")
    found = Checkpoint.open(here / "m")
    expected = (
        BASE["q.weight"] + (delta(TENSORS["a"], "q", 1.0) - delta(TENSORS["b"], "q", 1.0)).float()
    )
    torch.testing.assert_close(found["q.weight"], expected)
    assert torch.equal(found["norm.weight"], BASE["norm.weight"])


def test_merge_takes_adapters_like_models(here):
    done = deltakit("merge", "./a", "./b", "--base", "base", "-s", "ties", "--out", "m")
    assert done.exit_code == 0, done.output
    assert "merged 2 tasks with ties" in done.stdout


def test_an_input_is_not_replaced(here):
    done = deltakit("merge", "./a", "--base", "base", "-s", "ties", "--out", "a", "--overwrite")
    assert done.exit_code == 1
    assert sorted(path.name for path in (here / "a").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_resize_tells_what_it_loses(here):
    assert "rank 1 keeps" in lora("resize", "a", "--rank", "1", "-o", "m")
    assert open_adapter(here / "m").parts["q"].rank == 1
    assert deltakit("lora", "resize", "a").exit_code == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--to", "kohya", "--base", "/nope", "-o", "k.safetensors"), "--base goes with"),
        (("--to", "peft", "--base", "/nope", "-o", "m"), "--base goes with"),
        (("--to", "peft", "--scope", "lora_te", "-o", "m"), "--scope goes with"),
        (("--to", "other", "-o", "m"), "expected peft or kohya"),
    ],
)
def test_convert_passes_over_no_option(here, words, told):
    done = deltakit("lora", "convert", "a", *words)
    assert done.exit_code == 2
    assert told in done.stderr


def test_convert_replaces_nothing(here):
    for words in (("--to", "peft", "-o", "b"), ("--to", "kohya", "-o", "b")):
        done = deltakit("lora", "convert", "a", *words)
        assert done.exit_code == 1
        assert "the output exists already" in done.stderr
        assert "--overwrite" not in done.stderr


def test_convert_there_and_back(here):
    lora("convert", "a", "--to", "kohya", "-o", "k.safetensors")
    lora("convert", "k.safetensors", "--to", "peft", "--base", "base", "-o", "m")
    found = open_adapter(here / "m").factors("q")
    torch.testing.assert_close((found.b @ found.a).double(), delta(TENSORS["a"], "q", 1.0))
    assert deltakit("lora", "convert", "k.safetensors", "--to", "peft", "-o", "n").exit_code == 2


def test_extract_shows_quality_by_size_before_it_writes(here):
    tuned = {**BASE, "q.weight": BASE["q.weight"] + delta(TENSORS["a"], "q", 1.0).float()}
    write_model(here / "tuned", tuned)
    both = ("--base", "base", "--model", "tuned")
    printed = lora("extract", *both, "--energy", "0.99", "--dry-run")
    assert "energy kept" in printed
    assert "nothing was written" in printed
    told = json.loads(lora("extract", *both, "--energy", "0.99", "--dry-run", "--json"))
    assert (told["modules"], told["kept_whole"]) == (1, 0)
    (worst,) = told["worst"]
    assert f"worst {worst['module']}: rank {worst['rank']} keeps {worst['kept']:.1%}" in printed
    assert "keeps 100.0%" in lora("extract", *both, "--size", "1kB", "-o", "m")
    found = open_adapter(here / "m").factors("q")
    wanted = delta(TENSORS["a"], "q", 1.0)
    torch.testing.assert_close((found.b @ found.a).double(), wanted, rtol=1e-5, atol=1e-5)
    assert deltakit("lora", "extract", *both, "--rest", "lose").exit_code == 2


def test_lint_fails_where_the_program_would(here):
    assert "nothing that peft" in lora("lint", "a", "--for", "peft")
    done = deltakit("lora", "lint", "a", "--for", "vllm", "--rank", "1")
    assert done.exit_code == 1
    assert "rank 2 is above 1" in done.stdout


def test_inspect_needs_no_base_for_adapters(here):
    done = deltakit("inspect", "a", "x=b")
    assert done.exit_code == 0, done.output
    assert "interference" in done.stdout
    assert "°" in done.stdout  # the smallest principal angle
    report = json.loads(deltakit("inspect", "a", "x=b", "--json").stdout)
    assert [found["name"] for found in report["adapters"]] == ["a", "x"]
    assert -1 <= report["pairs"][0]["cosine"] <= 1


def test_inspect_compares_an_adapter_with_a_model_on_their_base(here):
    write_model(here / "tuned", {**BASE, "q.weight": 2 * BASE["q.weight"]})
    done = deltakit("inspect", "./a", "./tuned", "--base", "base")
    assert done.exit_code == 0, done.output
    assert "cosine" in done.stdout


def test_masks_and_found_weights_stand_around_a_mode(here):
    words = ["merge", "a", "b", "-m", "ties", "--base", "base", "-o", "m"]
    lora(*words, "--mask", "random:density=0.5", "--weights", "auto:doge", "--lines", "0.2,0.8")
    found = json.loads((here / "m" / "deltakit_lora.json").read_text())["record"]
    assert [found[key] is not None for key in ("mask", "weighting", "lines")] == [True] * 3


def test_adapters_of_a_store_go_by_their_names(here):
    words = [["init"], ["add", "one", "--adapter", "a"], ["add", "two", "--adapter", "b"]]
    for verb in words:
        assert CliRunner().invoke(build(["init", "add"]), verb).exit_code == 0
    lora("merge", "one", "two", "--mode", "cat", "-o", "m")
    found = json.loads((here / "m" / "deltakit_lora.json").read_text())["record"]
    assert sorted(a["name"] for a in found["adapters"]) == ["one", "two"]
    lora("merge", "a", "b", "--mode", "cat", "-o", "n")
    one, other = (open_adapter(here / n).source.digests() for n in "mn")
    assert one == other
    lora("lint", "one", "--for", "peft")
    lora("bake", "one", "two", "--base", "base", "-o", "baked")
    lora("resize", "one", "--rank", "1", "-o", "small")
    lora("convert", "one", "--to", "kohya", "--out", "k.safetensors")
    assert (here / "small" / "adapter_model.safetensors").exists()
