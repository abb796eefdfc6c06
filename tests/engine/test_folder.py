"""The output is a whole model folder or nothing."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from deltakit.engine import Expert, Limits, execute
from deltakit.errors import AlreadyThere, BadFile, BadValue
from deltakit.recipe import Recipe
from tests.engine.merging import merged, plan, write_models
from tests.failing import FailingFiles


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    (folder / "base" / "tokenizer.json").write_text("{}")
    (folder / "base" / "generation_config.json").write_text('{"max_length": 7}')
    (folder / "base" / "1_Pooling").mkdir()
    (folder / "base" / "1_Pooling" / "config.json").write_text('{"mean": true}')
    (folder / "base" / "README.md").write_text("the base's card")
    return folder


def listing(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_folder_is_complete(models):
    out = merged(models, "ties")
    assert set(listing(out)) == {
        "1_Pooling/config.json",
        "README.md",
        "config.json",
        "deltakit_recipe.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert "ties" in (out / "README.md").read_text()
    assert (out / "config.json").read_bytes() == (models / "base" / "config.json").read_bytes()


def test_the_recipe_beside_the_output_spells_out_every_setting(models):
    recipe = Recipe.read(merged(models, "ties") / "deltakit_recipe.json")
    assert recipe.settings["density"] == 0.2
    assert set(recipe.settings) == {"density", "scope", "elect", "divide", "combine"}


def test_the_config_names_the_output_dtype(models, tmp_path):
    shutil.copytree(models, tmp_path / "m")
    config = {"model_type": "bert", "dtype": "float32"}
    (tmp_path / "m" / "base" / "config.json").write_text(json.dumps(config))
    out = merged(tmp_path / "m", "average", dtype="BF16")
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_merged_transformers_model_loads_and_computes(tmp_path):
    import transformers

    config = transformers.BertConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        vocab_size=11,
    )
    for name in ("base", "a", "b", "c"):
        transformers.BertModel(config).save_pretrained(tmp_path / name)
    out = merged(tmp_path, "average", max_shard_size=2000)
    model, info = transformers.BertModel.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    tuned = [transformers.BertModel.from_pretrained(tmp_path / n) for n in ("a", "b", "c")]
    expected = sum(m.pooler.dense.weight for m in tuned) / 3
    torch.testing.assert_close(model.pooler.dense.weight, expected)


def test_a_file_that_cannot_be_copied_is_refused_before_the_first_byte(tmp_path):
    write_models(tmp_path)
    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "base" / "tokenizer.json").symlink_to(tmp_path / "secret.json")
    written = []
    with pytest.raises(BadFile, match="a link leads out of the model's folder"):
        execute(plan(tmp_path, "average"), tmp_path / "out", progress=lambda *a: written.append(a))
    assert not written
    (tmp_path / "base" / "tokenizer.json").unlink()
    with (tmp_path / "base" / "vocab.json").open("wb") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(BadFile, match=r"larger than[\s\S]*vocab\.json[\s\S]*move it out"):
        execute(plan(tmp_path, "average"), tmp_path / "out", progress=lambda *a: written.append(a))
    assert not written


def test_an_existing_output_is_refused_and_stays(models, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(AlreadyThere, match="--overwrite"):
        execute(plan(models, "average"), tmp_path / "out")
    with pytest.raises(AlreadyThere, match="not ours to replace"):
        execute(plan(models, "average"), tmp_path / "out", overwrite=True)
    assert listing(tmp_path / "out") == {"thesis.txt": b"mine"}


def test_an_earlier_merge_is_replaced_when_asked(models, tmp_path):
    execute(plan(models, "average"), tmp_path / "out")
    execute(plan(models, "ties"), tmp_path / "out", overwrite=True)
    assert Recipe.read(tmp_path / "out" / "deltakit_recipe.json").strategy == "ties"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("target", ["base", "a", "."])
def test_an_input_is_never_replaced(models, target):
    before = listing(models)
    with pytest.raises(BadValue, match="would replace an input"):
        execute(plan(models, "average"), models / target, overwrite=True)
    assert listing(models) == before


@pytest.mark.parametrize("late", [False, True])
def test_a_failure_at_any_call_leaves_the_old_folder_or_the_new(models, tmp_path, late):
    execute(plan(models, "average"), tmp_path / "old")
    execute(plan(models, "ties"), tmp_path / "new")
    old, new = listing(tmp_path / "old"), listing(tmp_path / "new")
    counter = FailingFiles()
    shutil.copytree(tmp_path / "old", tmp_path / "out")
    execute(plan(models, "ties", Limits(1)), tmp_path / "out", overwrite=True, files=counter)
    assert listing(tmp_path / "out") == new
    for number in range(1, len(counter.calls) + 1):
        shutil.rmtree(tmp_path / "out")
        shutil.copytree(tmp_path / "old", tmp_path / "out")
        files = FailingFiles(number, late=late)
        try:
            execute(plan(models, "ties", Limits(1)), tmp_path / "out", overwrite=True, files=files)
        except OSError:
            found = listing(tmp_path / "out")
            assert found in (old, new), f"call {number}, {counter.calls[number - 1]}"
        else:
            assert listing(tmp_path / "out") == new


def test_a_failure_at_any_call_leaves_nothing_where_nothing_was(models, tmp_path):
    counter = FailingFiles()
    execute(plan(models, "ties", Limits(1)), tmp_path / "whole", files=counter)
    for number in range(1, len(counter.calls) + 1):
        out = tmp_path / f"out-{number}"
        try:
            execute(plan(models, "ties", Limits(1)), out, files=FailingFiles(number))
        except OSError:
            # The rename is the commit: what fails after it (making the name durable) finds it done.
            assert not out.exists() or listing(out) == listing(tmp_path / "whole")


def test_an_importance_map_in_the_output_folder_is_never_replaced(models, tmp_path):
    made = plan(models, "average")
    execute(made, tmp_path / "out")
    inside = tmp_path / "out" / "map.safetensors"
    inside.write_text("")
    experts = [Expert(e.name, e.source, inside) for e in made.experts]
    with pytest.raises(BadValue, match="would replace an input"):
        execute(replace(made, experts=experts), tmp_path / "out", overwrite=True)
    assert inside.exists()
