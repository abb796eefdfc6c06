"""A table goes between its marks, and nowhere else."""

import pytest

from benchmarks import page
from deltakit.errors import BadValue

TEXT = "before\n<!-- a -->\nold\n<!-- end of a -->\nafter\n<!-- b -->\n<!-- end of b -->\n"


def test_a_table_replaces_what_stands_between_its_marks_alone(tmp_path):
    file = tmp_path / "page.md"
    file.write_text(TEXT)
    page.write(file, "a", "new\n")
    once = file.read_text()
    assert once == TEXT.replace("old\n", "\n```\nnew\n```\n\n")
    page.write(file, "a", "new")
    assert file.read_text() == once


@pytest.mark.parametrize(
    "text", ["no marks", "<!-- a -->\n", "<!-- end of a -->\n<!-- a -->\n", TEXT + TEXT]
)
def test_a_page_without_just_one_place_is_refused_and_left(tmp_path, text):
    file = tmp_path / "page.md"
    file.write_text(text)
    with pytest.raises(BadValue, match="no place for the table"):
        page.write(file, "a", "new")
    assert file.read_text() == text
