"""One member of a package is read out of each kind of archive; nothing else is."""

import io
import shutil
import subprocess
import tarfile
import zipfile

import pytest

from benchmarks.archives import opened
from deltakit.errors import DeltakitError

PATH, BYTES = "data/rows.json", b'{"data": [0, 1]}'


def wheel(folder):
    with zipfile.ZipFile(folder / "a.whl", "w") as archive:
        archive.writestr(PATH, BYTES)
    return folder / "a.whl"


def tarball(folder):
    with tarfile.open(folder / "a.tgz", "w:gz") as archive:
        for name, held in (("data/other.json", b"other"), (PATH, BYTES)):
            info = tarfile.TarInfo(name)
            info.size = len(held)
            archive.addfile(info, io.BytesIO(held))
    return folder / "a.tgz"


def debian(folder):
    if not shutil.which("dpkg-deb"):
        pytest.skip("dpkg-deb is not installed")
    root = folder / "root"
    (root / "DEBIAN").mkdir(parents=True)
    control = "Package: a\nVersion: 1\nArchitecture: all\nMaintainer: a <a@a>\nDescription: a\n"
    (root / "DEBIAN" / "control").write_text(control)
    (root / "data").mkdir()
    (root / PATH).write_bytes(BYTES)
    command = ["dpkg-deb", "--build", root, folder / "a.deb"]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "a.deb"


@pytest.mark.parametrize("kind", [wheel, tarball, debian])
def test_a_member_is_read_by_its_path(tmp_path, kind):
    with opened(kind(tmp_path), PATH) as source:
        assert source.read() == BYTES


@pytest.mark.parametrize("kind", [tarball, debian])
def test_a_member_that_is_not_there_is_an_error(tmp_path, kind):
    with pytest.raises(DeltakitError, match="no such file"), opened(kind(tmp_path), "data/none"):
        pass
