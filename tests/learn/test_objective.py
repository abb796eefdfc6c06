"""Which loss a checkpoint gets, by what its config.json says it is."""

import json

import pytest
import torch

from deltakit.errors import BadFile, BadValue, NotFound
from deltakit.learn.examples import Example
from deltakit.learn.objective import objective
from deltakit.learn.option_scoring import OptionScorer, save_options
from tests.learn import tiny

FILMS = [Example("what a good film", "good", 1), Example("a bad film", "bad", 2)]


def test_a_classifier_gets_cross_entropy_with_its_own_head(tmp_path):
    model = tiny.classifier()
    folder = tiny.save(model, tmp_path / "m")
    live, loss = objective(folder, FILMS, source="data")
    with torch.no_grad():
        logits = model(input_ids=_ids(live, folder, [e.text for e in FILMS])).logits
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor([1, 0]))
        torch.testing.assert_close(loss(FILMS), expected, rtol=1e-4, atol=1e-5)


def test_a_classifier_takes_labels_by_name_or_by_index(tmp_path):
    folder = tiny.save(tiny.classifier(), tmp_path / "m")
    by_index = [Example(FILMS[0].text, 1, 1), Example(FILMS[1].text, 0, 2)]
    losses = [objective(folder, rows, source="data")[1](rows) for rows in (FILMS, by_index)]
    assert torch.equal(*losses)


@pytest.mark.parametrize("label", ["great", 2, -1, "1"])
def test_a_label_the_classifier_does_not_have_is_named_with_its_line(tmp_path, label):
    folder = tiny.save(tiny.classifier(), tmp_path / "m")
    with pytest.raises(BadFile, match="label does not fit") as caught:
        objective(folder, [FILMS[0], Example("a film", label, 7)], source="films.jsonl")
    assert caught.value.where == "films.jsonl line 7"
    assert caught.value.expected == "bad, good, or an index below 2"
    assert caught.value.got == repr(label)


def test_a_causal_model_gets_the_next_token_loss_of_text_and_label_joined(tmp_path):
    model = tiny.causal()
    folder = tiny.save(model, tmp_path / "m")
    rows = [Example("who is", " this person", 1)]
    live, loss = objective(folder, rows, source="data")
    ids = _ids(live, folder, ["who is this person"])
    with torch.no_grad():
        expected = model(input_ids=ids, labels=ids).loss
        torch.testing.assert_close(loss(rows), expected)


def test_padding_does_not_enter_a_causal_loss(tmp_path):
    folder = tiny.save(tiny.causal(), tmp_path / "m")
    rows = [Example("who is", " this person", 1), Example("a", " film", 2)]
    _, loss = objective(folder, rows, source="data")
    with torch.no_grad():
        both, one, other = loss(rows), loss(rows[:1]), loss(rows[1:])
    torch.testing.assert_close(both, (3 * one + 1 * other) / 4)  # four predicted tokens


def test_a_causal_example_of_one_token_is_refused_by_its_line(tmp_path):
    folder = tiny.save(tiny.causal(), tmp_path / "m")
    rows = [Example("good", "film", 3)]  # one unknown word
    _, loss = objective(folder, rows, source="data")
    with pytest.raises(BadFile, match="no next token") as caught:
        loss(rows)
    assert caught.value.where == "data line 3"


def test_any_other_text_model_is_an_encoder_scored_by_options(tmp_path):
    folder = tiny.save(tiny.encoder(), tmp_path / "m")
    live, loss = objective(folder, FILMS, source="data", max_tokens=8)
    assert type(live).__name__ == "BertModel"
    scorer = OptionScorer.open(folder, max_tokens=8)
    with torch.no_grad():  # options: the labels, sorted
        expected = scorer.loss([e.text for e in FILMS], ["bad", "good"], [1, 0])
        torch.testing.assert_close(loss(FILMS), expected)


def test_an_encoder_prefers_the_option_texts_kept_with_it(tmp_path):
    folder = tiny.save(tiny.encoder(), tmp_path / "m")
    save_options(folder, ["good", "bad", "place"])
    with torch.no_grad():
        found = objective(folder, FILMS, source="data")[1](FILMS)
        given = ["good", "bad", "place"]
        assert torch.equal(found, objective(folder, FILMS, source="d", options=given)[1](FILMS))
    with pytest.raises(BadFile, match="one of the options: bad, good, place"):
        objective(folder, [Example("a", "red", 1)], source="data")


def test_one_label_is_no_choice(tmp_path):
    folder = tiny.save(tiny.encoder(), tmp_path / "m")
    with pytest.raises(BadValue, match=r"the labels of films\.jsonl"):
        objective(folder, FILMS[:1], source="films.jsonl")


def test_a_model_with_another_head_is_refused(tmp_path):
    folder = tiny.save(tiny.encoder(), tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["BertForQuestionAnswering"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadValue, match="no objective over labelled text"):
        objective(folder, FILMS, source="data")


def test_a_regression_head_is_refused(tmp_path):
    model = tiny.classifier(problem_type="regression")
    with pytest.raises(BadValue, match="does not choose one label"):
        objective(tiny.save(model, tmp_path / "m"), FILMS, source="data")


def test_a_folder_without_a_model_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="not a model folder"):
        objective(tmp_path, FILMS, source="data")


def _ids(live, folder, texts):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    batch = tokenizer(texts, padding=len(texts) > 1, return_tensors="pt")
    return batch["input_ids"]
