"""A real pair: all-MiniLM-L6-v2 and copies of it with tokens added, merged and run."""

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import deltakit
from benchmarks.model import base_folder
from deltakit.learn.models import quiet
from deltakit.vocabulary.tokenizer import Tokenizer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def minilm():
    """The model's folder, fetched where it is missing."""
    return base_folder()


def fine_tune(base, folder, tokens, seed, special):
    with quiet():
        model, tokenizer = AutoModel.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(tokens, special_tokens=special)
    model.resize_token_embeddings(len(tokenizer))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for values in model.parameters():
            values.add_(torch.randn(values.shape, generator=generator) * 1e-3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def row(folder, token):
    with quiet():
        model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    return model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(token)]


def test_a_real_tokenizer_is_read_as_its_library_reads_it(minilm):
    import tokenizers

    found = Tokenizer.open(minilm)
    library = tokenizers.Tokenizer.from_file(str(minilm / "tokenizer.json"))
    assert dict(found.ids) == library.get_vocab(with_added_tokens=True)


def test_the_union_tokenizes_and_runs(minilm, tmp_path):
    a, b, out = (tmp_path / name for name in ("a", "b", "out"))
    fine_tune(minilm, a, ["<tool>", "covid"], 1, False)
    fine_tune(minilm, b, ["<think>", "<tool>"], 2, True)
    deltakit.merge([str(a), str(b)], "ties", out, base=str(minilm), tokenizer="union")
    with quiet():
        model, info = AutoModel.from_pretrained(out, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(out)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.vocab_size == len(tokenizer) == 30525
    words = tokenizer("the covid <tool> runs <think> hard", return_tensors="pt", padding=False)
    assert tokenizer.convert_ids_to_tokens(words.input_ids[0]) == [
        "[CLS]", "the", "covid", "<tool>", "runs", "<think>", "hard", "[SEP]"
    ]  # fmt: skip
    with torch.no_grad():
        assert model(**words).last_hidden_state.isfinite().all()
    assert torch.equal(row(out, "covid"), row(a, "covid"))
    assert torch.equal(row(out, "<think>"), row(b, "<think>"))
    mean = (row(a, "<tool>").double() + row(b, "<tool>").double()) / 2
    assert torch.equal(row(out, "<tool>"), mean.float())
