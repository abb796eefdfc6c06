"""What lies beside the weights names the tokens of the output."""

import json

import pytest

import deltakit
from deltakit.errors import BadValue, NotFound
from tests.engine.merging import tune
from tests.vocabulary.worded import WORDS, base_tensors, numbered, write_worded

IDS = numbered(WORDS)


def merged(folder, tokenizer, **options):
    deltakit.merge(
        [str(folder / "a")],
        "ties",
        folder / "out",
        base=str(folder / "base"),
        tokenizer=tokenizer,
        **options,
    )
    return folder / "out"


def table(path):
    return json.loads(path.read_text())


@pytest.fixture
def models(tmp_path):
    """A base, and a task with one more token whose tokenizer counts from the other end."""
    write_worded(tmp_path / "base", base_tensors(5), IDS, pad_token_id=4)
    words = ["<x>", *reversed(WORDS)]
    write_worded(tmp_path / "a", tune(base_tensors(6), 1), numbered(words), added=["<x>"])
    return tmp_path


def test_the_size_follows_in_the_part_of_the_config_that_tells_it(models):
    text = {"vocab_size": 5, "eos_token_id": 0}
    write = (models / "base" / "config.json").write_text
    write(json.dumps({"text_config": text, "vision_config": {"vocab_size": 9}}))
    found = table(merged(models, "union") / "config.json")
    assert found["text_config"] == {**text, "vocab_size": 6}
    assert found["vision_config"] == {"vocab_size": 9}


def test_a_config_without_a_size_is_refused_where_it_changes(models):
    (models / "base" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(BadValue, match="does not give the vocabulary's size"):
        merged(models, "union")
    assert not (models / "out").exists()


def test_dtype_and_size_both_reach_the_config(models):
    config = {"vocab_size": 5, "dtype": "float32"}
    (models / "base" / "config.json").write_text(json.dumps(config))
    found = table(merged(models, "union", dtype="bfloat16") / "config.json")
    assert found == {"vocab_size": 6, "dtype": "bfloat16"}


def test_older_files_of_the_base_do_not_stand_beside_the_union(models):
    for name in ("vocab.txt", "special_tokens_map.json", "chat_template.jinja"):
        (models / "base" / name).write_text("{}")
    decoder = {"0": {"content": "[unk]", "special": True}}
    config = {"added_tokens_decoder": decoder, "padding_side": "left"}
    (models / "base" / "tokenizer_config.json").write_text(json.dumps(config))
    out = merged(models, "union")
    assert not (out / "vocab.txt").exists()
    assert (out / "chat_template.jinja").read_text() == "{}"
    found = table(out / "tokenizer_config.json")
    assert found["padding_side"] == "left"
    assert found["added_tokens_decoder"]["0"] == decoder["0"]
    assert found["added_tokens_decoder"]["5"]["content"] == "<x>"


def test_special_ids_become_those_of_the_same_tokens_in_another_tokenizer(models):
    generation = {"eos_token_id": [0, 4], "max_length": 9, "pad_token_id": None}
    (models / "base" / "generation_config.json").write_text(json.dumps(generation))
    (models / "base" / "vocab.txt").write_text("stale")
    (models / "a" / "chat_template.jinja").write_text("theirs")
    out = merged(models, str(models / "a"))
    config = table(out / "config.json")
    assert (config["eos_token_id"], config["pad_token_id"], config["vocab_size"]) == (5, 1, 6)
    assert table(out / "generation_config.json") == {**generation, "eos_token_id": [5, 1]}
    assert (out / "tokenizer.json").read_bytes() == (models / "a" / "tokenizer.json").read_bytes()
    assert (out / "chat_template.jinja").read_text() == "theirs"
    assert not (out / "vocab.txt").exists()


def test_a_special_token_the_tokenizer_lacks_is_its_folder_s_own_or_refused(models):
    words = ["<end>", *WORDS[1:]]
    write_worded(models / "t", base_tensors(5), numbered(words), eos_token_id=3)
    assert table(merged(models, str(models / "t")) / "config.json")["eos_token_id"] == 3
    (models / "t" / "config.json").unlink()
    with pytest.raises(BadValue, match=r"eos_token_id of config\.json"):
        merged(models, str(models / "t"), overwrite=True)


def test_a_special_id_that_is_no_row_is_noted(models):
    (models / "base" / "generation_config.json").write_text('{"eos_token_id": 70}')
    out = models / "out"
    report = deltakit.merge(
        [str(models / "a")], "ties", out, base=str(models / "base"), tokenizer="base"
    )
    assert "generation_config.json: no row of the vocabulary: eos_token_id 70" in report.notes


def test_a_path_s_model_tells_how_many_rows_its_tokenizer_has(models):
    config = {"vocab_size": 8, "eos_token_id": 0}
    (models / "a" / "config.json").write_text(json.dumps(config))
    found = table(merged(models, str(models / "a" / "tokenizer.json")) / "config.json")
    assert found["vocab_size"] == 8


@pytest.mark.parametrize("path", ["nowhere", "./base.safetensors", ""])
def test_a_tokenizer_that_is_not_there_is_refused_with_the_choices(models, path):
    with pytest.raises(NotFound, match=r"(.|\n)*base, union, or the path"):
        merged(models, path)
    with pytest.raises(NotFound, match=r"(.|\n)*did you mean 'union'"):
        merged(models, "unoin")


def test_the_folder_of_the_tokenizer_is_not_replaced(models):
    write_worded(models / "out", base_tensors(5), IDS)
    (models / "out" / "deltakit_recipe.json").write_text("{}")
    with pytest.raises(BadValue, match="would replace an input"):
        merged(models, str(models / "out"), overwrite=True)
