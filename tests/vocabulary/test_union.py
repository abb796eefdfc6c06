"""The union holds every token once, and the library reads from its file the ids we gave."""

import json

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers

from deltakit.errors import BadFile, BadValue
from deltakit.vocabulary.tokenizer import Tokenizer
from deltakit.vocabulary.union import tokenizer_json, union
from tests.vocabulary.worded import numbered, write_tokenizer

TEXT = ["the quick brown fox jumps over the lazy dog", "hello world how are you"] * 9
MORE = [*TEXT, *["covid vaccination merging models"] * 9]


def bpe(corpus):
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        corpus, trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False)
    )
    return made


def unigram(corpus):
    made = tokenizers.Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    options = {"unk_token": "<unk>", "special_tokens": ["<unk>"], "show_progress": False}
    made.train_from_iterator(corpus, trainers.UnigramTrainer(vocab_size=90, **options))
    return made


def wordpiece(corpus):
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    options = {"special_tokens": ["[UNK]"], "show_progress": False}
    made.train_from_iterator(corpus, trainers.WordPieceTrainer(**options))
    return made


def saved(folder, made, *added):
    """Write a library's tokenizer, with added tokens, and open it."""
    made.add_special_tokens(list(added))
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    found = Tokenizer.open(folder)
    assert found is not None
    assert dict(found.ids) == made.get_vocab()
    return found


@pytest.mark.parametrize("make", [bpe, unigram, wordpiece])
def test_the_library_gives_each_token_of_the_union_its_id_and_uses_the_new_ones(make, tmp_path):
    base = saved(tmp_path / "base", make(TEXT), "<pad>")
    expert = saved(tmp_path / "expert", make(MORE), "<|im_start|>")
    found = union(base, [expert])
    assert base.ids.items() <= found.ids.items()
    assert set(found.ids) == {*base.ids, *expert.ids}
    assert sorted(found.ids.values()) == list(range(len(found.ids)))
    library = tokenizers.Tokenizer.from_str(tokenizer_json(found.table).decode())
    assert library.get_vocab() == dict(found.ids)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "expert" / "tokenizer.json"))
    for text in ("covid vaccination", "merging models"):
        assert len(library.encode(text).ids) <= len(theirs.encode(text).ids)
        assert library.encode(f"{text}<|im_start|><pad>").tokens[-2:] == ["<|im_start|>", "<pad>"]


def test_a_union_without_new_tokens_is_the_base_itself(tmp_path):
    base = saved(tmp_path / "base", bpe(TEXT))
    assert union(base, [base, Tokenizer.of({"the": 0, "q": 1})]) is base


words = st.lists(st.sampled_from("abcdefghij"), unique=True, min_size=1)


@given(words, st.lists(words, max_size=3))
def test_every_token_once_the_base_s_first_then_in_order(base, others):
    table = {"added_tokens": [], "model": {"type": "WordLevel", "vocab": numbered(base)}}
    start = Tokenizer("base", numbered(base), "WordLevel", {}, table)
    rest = [
        Tokenizer("x", numbered(other), "WordLevel", {word: {} for word in other}, None)
        for other in others
    ]
    found = union(start, rest)
    expected = dict.fromkeys([*base, *(word for other in others for word in other)])
    assert dict(found.ids) == numbered(list(expected))


def test_what_is_said_of_an_added_token_goes_with_it(tmp_path):
    base = saved(tmp_path / "base", wordpiece(TEXT))
    made = wordpiece(TEXT)
    made.add_tokens([tokenizers.AddedToken("<x>", lstrip=True, special=False)])
    found = union(base, [saved(tmp_path / "expert", made)])
    entry = found.table["added_tokens"][-1]
    assert (entry["content"], entry["lstrip"], entry["special"]) == ("<x>", True, False)


def test_merges_follow_the_base_s_in_the_base_s_form(tmp_path):
    def tokenizer(merges, *tokens):
        vocab = numbered([*"abc", *tokens])
        table = {"model": {"type": "BPE", "vocab": vocab, "merges": merges}}
        return Tokenizer("t", vocab, "BPE", {}, table)

    base = tokenizer(["a b"], "ab")
    # (b, c) makes what the base lacks; (a, b) is there; (a, c) makes nothing that is a token.
    other = tokenizer([["a", "b"], ["b", "c"], ["a", "c"]], "bc", "ab")
    assert union(base, [other]).table["model"]["merges"] == ["a b", "b c"]
    spaced = tokenizer([["a", " "]], " ", "a ")
    assert union(base, [spaced]).table["model"]["merges"] == [["a", "b"], ["a", " "]]
    for wrong in ("abc", ["a"], 3, ["a", 3]):
        with pytest.raises(BadFile, match="a merge is not a pair"):
            union(base, [tokenizer([wrong], "bc")])


def test_tokens_of_another_kind_of_tokenizer_are_refused(tmp_path):
    base = saved(tmp_path / "base", wordpiece(TEXT))
    expert = saved(tmp_path / "expert", bpe(MORE))
    with pytest.raises(BadValue, match="another kind") as caught:
        union(base, [expert])
    for word in ("WordPiece", "BPE", "--tokenizer base"):
        assert word in str(caught.value)


def test_a_unigram_with_a_gap_takes_no_tokens(tmp_path):
    table = {"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}
    base = Tokenizer("base", {"a": 0, "<x>": 4}, "Unigram", {"<x>": {}}, table)
    with pytest.raises(BadValue, match="gap"):
        union(base, [Tokenizer("b", {"<y>": 0}, "Unigram", {"<y>": {}}, None)])


def test_without_a_tokenizer_json_there_is_nothing_to_add_to(tmp_path):
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    base = Tokenizer.open(tmp_path)
    write_tokenizer(tmp_path / "x", {"a": 0, "<x>": 1}, added=["<x>"])
    with pytest.raises(BadValue, match="save_pretrained"):
        union(base, [Tokenizer.open(tmp_path / "x")])
    assert json.loads(tokenizer_json({"a": "é"})) == {"a": "é"}
