"""Names of tasks and bases are data, and never a way out of the store."""

import pytest

from deltakit.errors import BadValue
from deltakit.store.names import check_name
from tests.store.conftest import Project, content

BAD = [
    "", ".", "..", "a/b", "/a", "a\\b", "a\0b", "a\nb", "a\x1b[2J", "-rf", ".hidden", "a" * 201,
    "é" * 101, "e\u0301", "\ud800", " a", "a ", "a\u202eb", "a\u2028b", "a=b", "a.safetensors",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_a_bad_name_is_refused_everywhere_and_nothing_is_written(project: Project, name: str):
    store, before = project.store, content(project.folder)
    for call in (store.task, store.remove, store.log, store.base):
        with pytest.raises(BadValue, match="this cannot name a"):
            call(name)
    with pytest.raises(BadValue, match="this cannot name a task"):
        store.add(name, "tiny", project.models / "a")
    with pytest.raises(BadValue, match="this cannot name a base"):
        store.add_base(name, project.models / "a")
    assert content(project.folder) == before


@pytest.mark.parametrize("name", ["trec", "a.b-c_d", "é", "日本", "a b", "x" * 200, "1", "~"])
def test_other_names_are_names(name: str):
    assert check_name(name, "task") == name


def test_the_longest_name_fits_the_file_system(project: Project):
    name = "é" * 100
    project.store.add_base(name, project.models / "base")
    project.store.add(name, name, project.models / "a")
    project.store.remove(name)
    assert project.store.gc(0).deleted
