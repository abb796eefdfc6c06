"""The option-scoring head: what a logit is, and that it comes from the weights of the moment."""

import pytest
import torch

from deltakit.errors import BadFile, BadValue
from deltakit.learn.option_scoring import OptionScorer, read_options, save_options
from tests.learn import tiny

OPTIONS = ["good film", "bad film", "a place"]


@pytest.fixture
def scorer(tmp_path) -> OptionScorer:
    return OptionScorer.open(tiny.save(tiny.encoder(), tmp_path / "m"), max_tokens=8)


def test_a_logit_is_the_scaled_cosine_of_two_masked_means(scorer):
    with torch.no_grad():
        found = scorer.logits(["who is this"], ["a place"])
        means = []
        for text in ("who is this", "a place"):  # one at a time: no padding at all
            ids = scorer.tokenizer(text, return_tensors="pt")
            means.append(scorer.encoder(**ids).last_hidden_state[0].mean(0))
        expected = 20 * torch.cosine_similarity(*means, dim=0)
    torch.testing.assert_close(found, expected.reshape(1, 1))


def test_padding_changes_nothing(scorer):
    with torch.no_grad():
        alone = scorer.encode(["good film"])
        padded = scorer.encode(["good film", "where is a good place this is"])[:1]
    torch.testing.assert_close(alone, padded)


def test_texts_are_cut_at_max_tokens(scorer):
    long = "good " * 12
    with torch.no_grad():
        torch.testing.assert_close(scorer.encode([long]), scorer.encode(["good " * 8]))


def test_loss_is_the_cross_entropy_of_the_logits_and_reaches_both_sides(scorer):
    loss = scorer.loss(tiny.TEXTS, OPTIONS, [0, 1, 2, 0])
    logits = scorer.logits(tiny.TEXTS, OPTIONS)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0]))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    words = scorer.encoder.embeddings.word_embeddings.weight.grad
    assert words[tiny.WORDS.index("who")].any()  # in a text only
    scorer.encoder.zero_grad()
    scorer.loss(["who is this"], ["blue", "red"], [0]).backward()
    assert words is not None
    grad = scorer.encoder.embeddings.word_embeddings.weight.grad
    assert grad[tiny.WORDS.index("blue")].any()  # in an option only


@pytest.mark.parametrize("autocast", [False, True])
def test_logits_change_when_weights_are_swapped(scorer, autocast):
    """Nothing is remembered of older weights, neither by us nor by autocast's cast cache."""

    def logits() -> torch.Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return scorer.logits(tiny.TEXTS, OPTIONS)

    first = logits()
    kept = {name: value.clone() for name, value in scorer.encoder.state_dict().items()}
    scorer.encoder.load_state_dict(tiny.encoder(seed=1).state_dict())
    assert not torch.allclose(logits(), first, atol=1e-2)
    scorer.encoder.load_state_dict(kept)
    assert torch.equal(logits(), first)


def test_predictions_come_back_in_the_order_of_the_texts(scorer):
    texts = [*tiny.TEXTS, "red", "blue place where is a person"]
    with torch.no_grad():
        expected = scorer.logits(texts, OPTIONS).argmax(-1).tolist()
    assert scorer.predict(texts, OPTIONS, batch=2) == expected
    assert len(set(expected)) > 1


def test_predicting_is_without_dropout_and_leaves_the_mode_as_it_was(scorer):
    scorer.encoder.train()
    assert scorer.predict(tiny.TEXTS, OPTIONS) == scorer.predict(tiny.TEXTS, OPTIONS)
    assert scorer.encoder.training


def test_option_texts_are_kept_with_the_model(tmp_path):
    assert read_options(tmp_path) is None
    save_options(tmp_path, OPTIONS)
    assert read_options(tmp_path) == OPTIONS


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"options": 5}', '{"options": ["a"]}'])
def test_option_texts_that_make_no_choice_are_refused(tmp_path, text):
    (tmp_path / "options.json").write_text(text)
    with pytest.raises((BadFile, BadValue), match=r"options\.json"):
        read_options(tmp_path)
