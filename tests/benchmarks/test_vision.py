"""Weights out of an ONNX file, and tasks of images, on a made-up file and a tiny model."""

import struct

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from benchmarks import table, vision_model
from benchmarks.vision_data import ImageTask, _idx


def varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def test_float_tensors_are_read_from_an_onnx_file_and_nothing_else(tmp_path):
    values = np.arange(6, dtype=np.float32)
    tensor = field(1, 2) + field(1, 3) + field(2, 1) + field(8, b"w") + field(9, values.tobytes())
    whole = field(1, 1) + field(2, 7) + field(8, b"n") + field(9, struct.pack("<q", 1))
    node = field(1, field(1, b"w") + field(4, b"MatMul"))
    graph = field(5, tensor) + node + field(5, whole)
    (tmp_path / "m.onnx").write_bytes(field(1, 8) + field(2, b"x" * 300) + field(7, graph))
    ((name, found),) = vision_model._initialisers(tmp_path / "m.onnx")
    assert name == "w"
    assert found.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


@pytest.fixture
def base(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    model = Dinov2Model(Dinov2Config(image_size=56, patch_size=14, **sizes))
    vision_model.save(model, tmp_path / "base")
    return tmp_path / "base"


def rows(count):
    draws = np.random.default_rng(0)
    labels = [i % vision_model.CLASSES for i in range(count)]
    shades = [draws.integers(0, 20, 64) + 25 * label for label in labels]
    return [(shade.astype(np.uint8).tobytes(), x) for shade, x in zip(shades, labels, strict=True)]


def test_an_image_task_is_scored_by_a_probe_of_the_base_and_its_loss_reaches_all_weights(base):
    few = rows(40)
    head = vision_model.probe(base, few)
    task = ImageTask("t", tuple("0123456789"), "accuracy", tuple(few), tuple(few), head)
    scorer = task.open(base)
    images, labels = zip(*few, strict=True)
    assert task.score(scorer.predict(images, task.answers)) > 30
    scorer.loss(images, task.answers, labels).backward()
    grads = {n: p.grad for n, p in scorer.encoder.named_parameters() if "mask_token" not in n}
    assert all(g is not None and g.any() for n, g in grads.items() if "k_proj.bias" not in n)
    assert (
        task.digest()
        != ImageTask(*list(vars(task).values())[:5], head._replace(images=head.images[1:])).digest()
    )


def test_rows_of_idx_files_are_their_images_in_order():
    images = bytes(16) + b"a" * 784 + b"b" * 784
    assert _idx(images, bytes(8) + b"\x03\x01") == [(b"a" * 784, 3), (b"b" * 784, 1)]


def test_a_table_of_two_groups_shows_dashes_where_a_row_has_no_score():
    text = table.render([("m", {"a": 50.0, "c": 80.0})], ["a", "b"], ["c"])
    assert text.splitlines()[0].split() == ["a", "b", "mean", "c", "mean"]
    assert text.splitlines()[1].split() == ["m", "50.0", "-", "-", "80.0", "80.0"]
