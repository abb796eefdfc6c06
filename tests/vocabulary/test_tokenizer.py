"""Tokens and ids are read from every kind of file, and what cannot be right is refused."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltakit.errors import BadFile, DeltakitError
from deltakit.vocabulary.ids import MOST_TOKENS
from deltakit.vocabulary.tokenizer import Tokenizer
from tests.vocabulary.worded import tokenizer_json, write_tokenizer


def opened(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        stem, _, suffix = name.rpartition("_")
        path = folder / f"{stem}.{suffix}"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return Tokenizer.open(folder)


def test_a_folder_without_a_tokenizer_has_none(tmp_path):
    assert opened(tmp_path, config_json={}, tokenizer_config_json={}) is None


def test_added_tokens_and_the_model_s_make_one_vocabulary(tmp_path):
    write_tokenizer(tmp_path, {"a": 0, "b": 1, "<x>": 2}, added=["<x>"])
    found = Tokenizer.open(tmp_path)
    assert found is not None
    assert (found.ids, found.kind, list(found.added)) == (
        {"a": 0, "b": 1, "<x>": 2},
        "WordLevel",
        ["<x>"],
    )


def test_ids_may_have_gaps(tmp_path):
    write_tokenizer(tmp_path, {"a": 0, "b": 7})
    found = Tokenizer.open(tmp_path)
    assert found is not None
    assert (found.ids, found.size) == ({"a": 0, "b": 7}, 8)


def test_the_older_files_tell_the_same(tmp_path):
    expected = {"a": 0, "b": 1, "<x>": 2}
    more = {"added_tokens_json": {"<x>": 2}}
    as_json = opened(tmp_path / "j", vocab_json={"a": 0, "b": 1}, **more)
    as_text = opened(tmp_path / "t", vocab_txt="a\nb\n", **more)
    piece = b"\n\x08\n\x01%b\x15\x00\x00\x00\x00"
    as_pieces = opened(tmp_path / "p", tokenizer_model=piece % b"a" + piece % b"b", **more)
    assert [f and f.ids for f in (as_json, as_text, as_pieces)] == [expected] * 3
    assert [f and f.kind for f in (as_json, as_text, as_pieces)] == ["BPE", "WordPiece", "Unigram"]


def test_unigram_ids_are_places(tmp_path):
    model = {"type": "Unigram", "vocab": [["a", 0.0], ["b", -1.5]]}
    found = opened(tmp_path, tokenizer_json={"model": model})
    assert found is not None
    assert found.ids == {"a": 0, "b": 1}


def test_tokens_that_only_the_settings_name_are_tokens(tmp_path):
    decoder = {"added_tokens_decoder": {"2": {"content": "<x>", "special": True}}}
    found = opened(tmp_path, tokenizer_json=tokenizer_json({"a": 0}), tokenizer_config_json=decoder)
    assert found is not None
    assert found.ids == {"a": 0, "<x>": 2}
    assert found.added["<x>"]["special"]


HOSTILE = [
    ("[1]", "not a JSON object"),
    ("{", "not valid JSON"),
    ("[" * 100_000, "not valid JSON"),
    (f'{{{",".join(f"{chr(34)}{n}{chr(34)}:1" for n in range(99_999))},"9":1}}', "stands twice"),
    ("{}", "no model"),
    ('{"model": {}}', "no vocabulary"),
    ('{"model": {"vocab": {}}}', "has no tokens"),
    ('{"model": {"vocab": {"a": -1}}}', "not a row"),
    ('{"model": {"vocab": {"a": true}}}', "not a row"),
    ('{"model": {"vocab": {"a": 1.0}}}', "not a row"),
    ('{"model": {"vocab": {"a": "1"}}}', "not a row"),
    (f'{{"model": {{"vocab": {{"a": {MOST_TOKENS}}}}}}}', "not a row"),
    (f'{{"model": {{"vocab": {{"a": {"9" * 5000}}}}}}}', "not valid JSON"),
    ('{"model": {"vocab": {"a": 1, "a": 2}}}', "stands twice"),
    ('{"model": {"vocab": {"a": 1, "b": 1}}}', "that of two tokens"),
    ('{"model": {"vocab": [["a", 0.0], ["a", 0.0]]}}', "has two ids"),
    ('{"model": {"vocab": [["a"]]}}', "no vocabulary"),
    ('{"model": {"vocab": [[1, 0.0]]}}', "not a row"),
    ('{"model": {"vocab": {"a": 0}}, "added_tokens": {}}', "no list of added"),
    ('{"model": {"vocab": {"a": 0}}, "added_tokens": [3]}', "no object"),
    ('{"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1}]}', "not a row"),
    ('{"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1, "content": "a"}]}', "two ids"),
    ('{"model": {"vocab": {"\\ud800": 0}}}', "not valid JSON"),
]


@pytest.mark.parametrize(("text", "words"), HOSTILE, ids=[words for _, words in HOSTILE])
def test_a_hostile_tokenizer_is_refused_with_its_path(text, words, tmp_path):
    with pytest.raises(BadFile, match=words) as caught:
        opened(tmp_path, tokenizer_json=text)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"vocab_txt": b"\xff\n"}, "not UTF-8"),
        ({"vocab_txt": "a\nb\na\n"}, "two ids"),
        ({"vocab_txt": "\n" * (MOST_TOKENS + 1)}, "over 16777216 tokens"),
        ({"vocab_json": {"a": None}}, "not a row"),
        ({"vocab_txt": "a\n", "added_tokens_json": {"b": 0}}, "that of two tokens"),
        ({"vocab_txt": "a\n", "tokenizer_config_json": {"added_tokens_decoder": []}}, "no object"),
        (
            {"vocab_txt": "a\n", "tokenizer_config_json": {"added_tokens_decoder": {"-1": {}}}},
            "no id",
        ),
        ({"tokenizer_model": b"not a model"}, "not a sentencepiece model"),
        ({"tokenizer_model": b""}, "not a sentencepiece model"),
        ({"tokenizer_model": b"\n\xff\xff\xff\xff\x0f"}, "not a sentencepiece model"),
    ],
)
def test_hostile_older_files_are_refused(files, words, tmp_path):
    with pytest.raises(BadFile, match=words):
        opened(tmp_path, **files)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    write_tokenizer(tmp_path / "other", {"a": 0})
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer.json").symlink_to(tmp_path / "other" / "tokenizer.json")
    with pytest.raises(BadFile, match="out of the model's folder"):
        Tokenizer.open(tmp_path / "model")


@given(st.binary(max_size=60))
def test_any_bytes_are_a_vocabulary_or_a_clear_error(data):
    import tempfile

    for name in ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model"):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / name).write_bytes(data)
            try:
                found = Tokenizer.open(Path(folder))
            except DeltakitError:
                continue
            assert found is not None
            assert found.ids
