"""The chat template is the one asked for, in every file that a tokenizer reads it from."""

import json

import pytest

from deltakit.engine import execute
from deltakit.errors import BadValue
from deltakit.merging import plan_recipe
from deltakit.recipe import Recipe, Slice, Task
from tests.engine.merging import tune, weights
from tests.vocabulary.worded import WORDS, base_tensors, numbered, write_worded

MINE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = base_tensors(5)
    for seed, name in enumerate(("base", "a", "b")):
        tensors = tune(base, seed) if seed else base
        write_worded(tmp_path / name, tensors, numbered(WORDS), num_hidden_layers=1)
    return tmp_path


def template(folder, text, *, jinja=False):
    if jinja:
        (folder / "chat_template.jinja").write_text(text)
    else:
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": text}))


def merged(out, choice, **more):
    tasks = [Task("a", "a"), Task("b", "b")]
    given = Recipe(base="base", tasks=tasks, strategy="average", chat_template=choice, **more)
    plan = plan_recipe(given)
    execute(plan, out)
    found = (
        (out / "chat_template.jinja").read_text()
        if (out / "chat_template.jinja").exists()
        else None
    )
    return found, plan.notes


def test_a_template_is_written_wherever_one_was(here):
    template(here / "base", [{"name": "default", "template": "old"}])
    (here / "base" / "chat_template.json").write_text("{}")
    assert merged(here / "m", MINE)[0] == MINE
    assert json.loads((here / "m" / "tokenizer_config.json").read_text()) == {"chat_template": MINE}
    assert not (here / "m" / "chat_template.json").exists()
    assert "<|im_start|>assistant" in merged(here / "n", "chatml")[0]


def test_without_the_key_the_bases_stays(here):
    template(here / "base", "the base's", jinja=True)
    assert merged(here / "m", None)[0] == "the base's"


def test_auto_is_the_template_most_models_have(here):
    template(here / "base", "one of the base")
    template(here / "a", [{"name": "default", "template": MINE}, {"name": "rag", "template": "x"}])
    template(here / "b", f"\n{MINE}\n", jinja=True)
    found, notes = merged(here / "m", "auto")
    assert found == MINE
    assert "chat_template: that of a, b" in notes
    (here / "b" / "chat_template.jinja").unlink()
    assert merged(here / "n", "auto")[0] == "one of the base", "of as many, the base's"
    for name in ("base", "a"):
        (here / name / "tokenizer_config.json").unlink()
    found, notes = merged(here / "o", "auto")
    assert (found, "chat_template: no model has one" in notes) == (None, True)


def test_it_goes_with_slices_and_with_a_union(here):
    (here / "base" / "tokenizer_config.json").write_text("{}")
    assert merged(here / "m", MINE, slices=[Slice(layers=0), Slice(layers=0)])[0] == MINE
    assert merged(here / "n", MINE, tokenizer="union")[0] == MINE


@pytest.mark.parametrize(
    "choice", ["", "chatlm", "a name that is quite long but no template", "{{x}}"]
)
def test_what_is_no_template_is_refused(here, choice):
    with pytest.raises(BadValue, match="not a chat template"):
        merged(here / "m", choice)


def test_a_template_without_a_tokenizer_is_refused(here):
    (here / "base" / "tokenizer.json").unlink()
    with pytest.raises(BadValue, match="needs a tokenizer"):
        merged(here / "m", MINE)


@pytest.mark.parametrize("choice", ["base", "union"])
def test_rows_are_rounded_up_with_the_mean_row_of_the_base(here, choice):
    merged(here / "m", None, tokenizer=choice, pad_to_multiple_of=4)
    found, base = weights(here / "m"), weights(here / "base")
    assert json.loads((here / "m" / "config.json").read_text())["vocab_size"] == 8
    for name in ("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"):
        mean = base[name].mean(dim=0)
        assert found[name].shape == (8, *base[name].shape[1:])
        assert all((row - mean).abs().max() < 1e-6 for row in found[name][5:])
    merged(here / "n", None, tokenizer=choice, pad_to_multiple_of=5)
    assert len(weights(here / "n")["lm_head.bias"]) == 5


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"pad_to_multiple_of": 8}, "goes with a tokenizer"),
        ({"pad_to_multiple_of": 0, "tokenizer": "base"}, "no number of rows"),
        ({"pad_to_multiple_of": 1 << 40, "tokenizer": "base"}, "no number of rows"),
    ],
)
def test_a_multiple_that_means_nothing_is_refused(here, more, match):
    with pytest.raises(BadValue, match=match):
        merged(here / "m", None, **more)
