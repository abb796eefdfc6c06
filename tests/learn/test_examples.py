"""Labelled text is read strictly: a bad line is an error that names it."""

import pytest

from deltakit.errors import BadFile, NotFound
from deltakit.learn.examples import Example, read_examples

GOOD = '{"text": "who?", "label": "person"}'


def test_lines_become_examples_in_order(tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text(f'{GOOD}\n{{"text": "a \\u2028 b", "label": 3}}\n\n', encoding="utf-8")
    assert read_examples(file) == [Example("who?", "person", 1), Example("a \u2028 b", 3, 2)]


@pytest.mark.parametrize(
    ("line", "fact"),
    [
        ("{text: 1}", "no JSON"),
        ("", "no JSON"),
        ('["who?", "person"]', "no labelled text"),
        ('{"text": "who?"}', "no labelled text"),
        ('{"text": "who?", "label": "x", "lable": "y"}', "no labelled text"),
        ('{"text": 5, "label": "x"}', "text is not"),
        ('{"text": "", "label": "x"}', "text is not"),
        ('{"text": "who?", "label": null}', "label is neither"),
        ('{"text": "who?", "label": true}', "label is neither"),
        ('{"text": "who?", "label": 1.0}', "label is neither"),
    ],
)
def test_a_bad_line_is_an_error_with_its_number(tmp_path, line, fact):
    file = tmp_path / "data.jsonl"
    file.write_text(f"{GOOD}\n{line}\n{GOOD}\n", encoding="utf-8")
    with pytest.raises(BadFile, match=fact) as caught:
        read_examples(file)
    assert caught.value.where == f"{file} line 2"
    assert caught.value.expected == '{"text": "...", "label": "..."}'
    assert caught.value.got is not None


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "data.jsonl").write_text("\n\n")
    with pytest.raises(BadFile, match="has no example"):
        read_examples(tmp_path / "data.jsonl")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "data.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadFile, match="not UTF-8"):
        read_examples(tmp_path / "data.jsonl")


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="no such data file"):
        read_examples(tmp_path / "data.jsonl")
