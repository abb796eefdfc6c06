"""Which files beside the weights make a folder a model."""

from pathlib import Path

import pytest

from deltakit.errors import BadFile, NotFound
from deltakit.tensors.sidecars import sidecars

KEPT = [
    "1_Pooling/config.json", "LICENSE", "chat_template.jinja", "config.json", "merges.txt",
    "modeling_x.py", "tokenizer.json", "tokenizer.model", "vocab.txt",
]  # fmt: skip
LEFT = [
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin.index.json",
    "pytorch_model.bin", ".gitattributes", ".cache/x.json", "checkpoint-10/config.json",
    "trainer_state.json", "training_args.json", "deltakit_recipe.json", "optimizer.pt",
    "a/b/c/deep.json", "README.md",
]  # fmt: skip


def write(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def test_config_and_tokenizer_are_kept_and_weights_and_training_state_are_not(tmp_path: Path):
    write(tmp_path, KEPT + LEFT)
    assert [str(path) for path in sidecars(tmp_path)] == KEPT


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path):
    write(tmp_path, ["secret.txt", "m/config.json"])
    (tmp_path / "m" / "vocab.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(BadFile, match="leads out"):
        sidecars(tmp_path / "m")


def test_a_dangling_link_is_not_skipped_in_silence(tmp_path: Path):
    (tmp_path / "vocab.txt").symlink_to("nowhere")
    with pytest.raises(NotFound, match=r"vocab\.txt"):
        sidecars(tmp_path)


def test_a_linked_folder_is_not_entered(tmp_path: Path):
    write(tmp_path, ["other/config.json", "m/config.json"])
    (tmp_path / "m" / "sub").symlink_to(tmp_path / "other")
    assert sidecars(tmp_path / "m") == [Path("config.json")]
