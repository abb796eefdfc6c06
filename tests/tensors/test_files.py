"""New files and folders: all there under their name, or nothing, at whatever call it fails."""

import os
import stat
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from deltakit.errors import AlreadyThere, BadFile, BadValue, NotFound
from deltakit.tensors.files import LOCAL, Files, read_whole
from deltakit.tensors.new_file import NewFile, is_temporary, temporary_name, write_whole
from deltakit.tensors.new_folder import new_folder
from tests.failing import FailingFiles


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def names(folder: Path | str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def every_failure(work: Callable[[Files], None], *, late: bool = False) -> int:
    """Run `work` with a failure at call 1, 2, ... until it succeeds; return how often it failed."""
    for number in count(1):
        try:
            work(FailingFiles(number, late=late))
        except OSError as error:
            if "fails" not in str(error):
                raise
        else:
            return number - 1
    raise AssertionError


def test_a_new_file_is_written_synced_and_then_renamed(tmp_path: Path):
    files = FailingFiles()
    with NewFile(tmp_path / "x", 2, files=files) as file:
        file.write(b"b", 1)
        file.write(b"a", 0)
        assert not (tmp_path / "x").exists()
    order = [call for call in files.calls if call not in ("exists", "write")]
    assert order == ["create", "fsync", "close", "rename", "sync_folder"]
    assert tree(tmp_path) == {"x": b"ab"}


@pytest.mark.parametrize("replace", [False, True])
def test_a_file_is_old_or_new_and_alone_at_whatever_call_it_fails(tmp_path: Path, replace: bool):
    old = {"x": b"old"} if replace else {}

    def work(files: Files) -> None:
        for path in tmp_path.iterdir():
            path.unlink()
        for name, data in old.items():
            (tmp_path / name).write_bytes(data)
        try:
            write_whole(tmp_path / "x", b"new", replace=replace, files=files)
        except OSError:
            # Complete is right only where what failed is what came after the rename.
            done = files.calls[-1] == "sync_folder"
            assert tree(tmp_path) == ({"x": b"new"} if done else old)
            raise
        assert tree(tmp_path) == {"x": b"new"}

    assert every_failure(work) >= 6


def test_only_what_is_not_there_is_absent(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "broken").symlink_to("nowhere")
    assert [LOCAL.exists(tmp_path / name) for name in ("file", "broken")] == [True, True]
    for absent in ("x", "x/y", "file/x", "x\0"):
        assert not LOCAL.exists(tmp_path / absent)
    with pytest.raises(OSError, match="too long"):
        LOCAL.exists(tmp_path / ("x" * 300))


def write_and_stop(file: NewFile) -> None:
    file.write(b"12", 0)
    raise KeyboardInterrupt


def test_an_exception_in_the_block_leaves_nothing(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), NewFile(tmp_path / "x", 5) as file:
        write_and_stop(file)
    assert tree(tmp_path) == {}


def test_a_new_file_leaves_no_descriptor_open(tmp_path: Path):
    before = len(names("/proc/self/fd"))
    every_failure(lambda files: write_whole(tmp_path / "x", b"new", replace=True, files=files))
    assert len(names("/proc/self/fd")) == before


def test_an_existing_file_is_refused_unless_it_is_to_be_replaced(tmp_path: Path):
    write_whole(tmp_path / "x", b"one")
    with pytest.raises(AlreadyThere, match="exists already"):
        write_whole(tmp_path / "x", b"two")
    assert tree(tmp_path) == {"x": b"one"}
    write_whole(tmp_path / "x", b"two", replace=True)
    assert tree(tmp_path) == {"x": b"two"}


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path):
    with pytest.raises(AlreadyThere, match="appeared"), NewFile(tmp_path / "x", 1):
        (tmp_path / "x").write_bytes(b"theirs")
    assert tree(tmp_path) == {"x": b"theirs"}


def test_a_dangling_link_counts_as_there(tmp_path: Path):
    (tmp_path / "x").symlink_to("nowhere")
    with pytest.raises(AlreadyThere):
        write_whole(tmp_path / "x", b"new")


def test_a_replaced_link_does_not_write_through(tmp_path: Path):
    (tmp_path / "target").write_bytes(b"mine")
    (tmp_path / "x").symlink_to("target")
    write_whole(tmp_path / "x", b"new", replace=True)
    assert tree(tmp_path) == {"target": b"mine", "x": b"new"}
    assert not (tmp_path / "x").is_symlink()


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(NotFound) as caught:
        write_whole(tmp_path / "none" / "x", b"")
    assert caught.value.where == str(tmp_path / "none")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_mode_honours_the_umask(tmp_path: Path, umask: int, mode: int):
    old = os.umask(umask)
    try:
        write_whole(tmp_path / "x", b"")
        with new_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~umask


def test_a_file_has_its_size_from_the_start(tmp_path: Path):
    with NewFile(tmp_path / "x", 10_000) as file:
        file.write(b"1", 9_999)
    assert (tmp_path / "x").read_bytes() == bytes(9_999) + b"1"


def test_short_writes_are_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    true = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: true(fd, data[:3], at))
    write_whole(tmp_path / "x", b"0123456789")
    assert tree(tmp_path) == {"x": b"0123456789"}


@pytest.mark.parametrize("name", ["x", "a" * 255, "é" * 127, "🦙" * 63, ".hidden"])
def test_a_temporary_name_is_legal_beside_any_legal_name_and_is_known_again(
    tmp_path: Path, name: str
):
    temporary = temporary_name(tmp_path / name)
    assert temporary.parent == tmp_path
    assert is_temporary(temporary)
    assert temporary_name(tmp_path / name) != temporary
    write_whole(tmp_path / name, b"1")
    assert tree(tmp_path) == {name: b"1"}


@pytest.mark.parametrize("name", ["x.tmp", ".x.tmp", ".tmp", "x.0123456789abcdef.tmp", ".vimrc"])
def test_other_peoples_files_are_not_temporary(name: str):
    assert not is_temporary(Path(name))


def fill(path: Path, files: Files, *, replace: bool = False) -> None:
    with new_folder(path, replace=replace, files=files) as folder:
        write_whole(folder / "a", b"new a", files=files)
        files.make_folder(folder / "sub")
        write_whole(folder / "sub" / "b", b"new b", files=files)


NEW = {"out/a": b"new a", "out/sub/b": b"new b"}


def remove(path: Path) -> None:
    for child in path.iterdir():
        if child.is_dir() and not child.is_symlink():
            LOCAL.delete_folder(child)
        else:
            child.unlink()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_is_old_or_new_and_alone_at_whatever_call_it_fails(
    tmp_path: Path, replace: bool, late: bool
):
    old = {"out/a": b"old", "out/only": b"old"} if replace else {}

    def work(files: Files) -> None:
        remove(tmp_path)
        if replace:
            (tmp_path / "out").mkdir()
            for name, data in old.items():
                (tmp_path / name).write_bytes(data)
        try:
            fill(tmp_path / "out", files, replace=replace)
        except OSError:
            found = tree(tmp_path)
            if files.calls[files.fail_at - 1] in ("exists", "delete_folder"):
                # Tidying up failed: then only what is left under a temporary name may be too much.
                found = {n: data for n, data in found.items() if n.startswith("out/")}
            assert found in (old, NEW)
            raise
        assert tree(tmp_path) == NEW

    assert every_failure(work, late=late) > 12


def test_a_folder_appears_when_all_of_it_is_synced(tmp_path: Path):
    files = FailingFiles()
    fill(tmp_path / "out", files)
    assert files.calls[-3:] == ["rename", "sync_folder", "exists"]
    assert files.calls.count("fsync") == 2


def test_an_existing_folder_is_refused_unless_it_is_to_be_replaced(tmp_path: Path):
    fill(tmp_path / "out", LOCAL)
    (tmp_path / "out" / "mine").write_bytes(b"mine")
    before = tree(tmp_path)
    with pytest.raises(AlreadyThere, match="--overwrite"), new_folder(tmp_path / "out"):
        pytest.fail("the block runs")
    assert tree(tmp_path) == before
    fill(tmp_path / "out", LOCAL, replace=True)
    assert tree(tmp_path) == NEW
    assert names(tmp_path) == ["out"]


def test_a_folder_that_appears_meanwhile_is_not_replaced(tmp_path: Path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "x").write_bytes(b"1")
    with pytest.raises(AlreadyThere), new_folder(tmp_path / "out"):
        LOCAL.rename(tmp_path / "theirs", tmp_path / "out")
    assert tree(tmp_path) == {"out/x": b"1"}
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_only_a_folder_is_replaced_by_a_folder(tmp_path: Path, kind: str):
    (tmp_path / "real").mkdir()
    if kind == "file":
        (tmp_path / "out").write_bytes(b"mine")
    else:
        (tmp_path / "out").symlink_to("real")
    with pytest.raises(BadValue, match="not a folder"):
        fill(tmp_path / "out", LOCAL, replace=True)
    assert (names(tmp_path)) == ["out", "real"]


def test_an_exception_in_the_block_leaves_no_folder(tmp_path: Path):
    with (
        pytest.raises(KeyboardInterrupt),
        new_folder(tmp_path / "out") as folder,
        NewFile(folder / "a", 5) as file,
    ):
        write_and_stop(file)
    assert names(tmp_path) == []


def test_a_folder_may_be_named_relative_to_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    fill(Path("a/../out/"), LOCAL)
    assert tree(tmp_path) == NEW
    with pytest.raises(AlreadyThere):
        fill(Path(), LOCAL)


def test_read_whole_refuses_what_is_too_large(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"12345")
    assert read_whole(tmp_path / "x", most=5) == b"12345"
    with pytest.raises(BadFile, match="larger"):
        read_whole(tmp_path / "x", most=4)


def test_deleting_a_folder_follows_no_link(tmp_path: Path):
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "x").write_bytes(b"1")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "keep")
    LOCAL.delete_folder(tmp_path / "out")
    assert tree(tmp_path) == {"keep/x": b"1"}
