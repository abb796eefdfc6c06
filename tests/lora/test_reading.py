"""An adapter's folder: what is read of it, and what is refused, naming it."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from deltakit.errors import BadFile, NonFinite, NotFound, UnknownName
from deltakit.lora import is_adapter, open_adapter
from tests.lora.folders import delta, factors, write_folder


def test_factors_hold_the_scaling(tmp_path):
    tensors = factors("q", 1)
    adapter = open_adapter(write_folder(tmp_path / "a", tensors, r=2, lora_alpha=3))
    found = adapter.factors("q")
    torch.testing.assert_close((found.b @ found.a).double(), delta(tensors, "q", 1.5))
    assert (adapter.parts["q"].kind, adapter.dtypes) == ("linear", ["F32"])


def test_a_convolution_is_read_as_a_matrix(tmp_path):
    a, b = torch.randn(2, 3, 3, 3), torch.randn(4, 2, 1, 1)
    tensors = {"c.lora_A.weight": a, "c.lora_B.weight": b}
    found = open_adapter(write_folder(tmp_path / "a", tensors, r=2, lora_alpha=2)).factors("c")
    expected = torch.einsum("or,rikl->oikl", b[:, :, 0, 0], a)
    torch.testing.assert_close((found.b @ found.a).reshape(4, 3, 3, 3), expected)


PAIR = factors("q", 1)
A, B = PAIR["q.lora_A.weight"], PAIR["q.lora_B.weight"]
BAD = [
    ({"q.lora_A.weight": A}, {"r": 2}, "not a pair of factors"),
    (PAIR, {"r": 3}, "do not agree on the rank"),
    ({**PAIR, "q.lora_B.weight": torch.ones(6, 3)}, {"r": 2}, "different ranks"),
    ({**PAIR, "q.lora_A.weight": torch.ones(10)}, {"r": 2}, "impossible shapes"),
    ({**PAIR, "q.lora_C.weight": A + 1}, {"r": 2}, "of no kind"),
    ({"q.lora_A.default.weight": A}, {"r": 2}, "of no kind"),
    ({**PAIR, "q.lora_B.bias": torch.ones(6)}, {"r": 2}, "lora_bias is False"),
    (PAIR, {"r": 2, "lora_bias": True}, "lora_bias is True"),
    (PAIR, {"r": 2, "use_dora": True}, "use_dora is True"),
    ({**PAIR, "q.lora_magnitude_vector": torch.ones(5)}, {"r": 2, "use_dora": True}, "not fit"),
    ({**PAIR, "q.lora_A.weight": A.to(torch.int32)}, {"r": 2}, "is I32"),
    (
        {"e.token_adapter.trainable_tokens_delta": torch.ones(2, 4)},
        {"trainable_token_indices": [1]},
        "does not fit the rows",
    ),
    (
        {"g.lora_A.weight": torch.ones(2, 4, 3, 3), "g.lora_B.weight": torch.ones(8, 1, 1, 1)},
        {"r": 2},
        "grouped convolution",
    ),
]


@pytest.mark.parametrize(("tensors", "config", "words"), BAD)
def test_what_does_not_fit_together_is_refused(tmp_path, tensors, config, words):
    folder = write_folder(tmp_path / "a", tensors, **config)
    with pytest.raises(BadFile, match=words):
        open_adapter(folder)


def test_tensors_not_named_as_peft_does_are_refused(tmp_path):
    folder = write_folder(tmp_path / "a", PAIR, r=2)
    file = folder / "adapter_model.safetensors"
    save_file({name.removeprefix("base_model."): t for name, t in load_file(file).items()}, file)
    with pytest.raises(BadFile, match="not named as PEFT does"):
        open_adapter(folder)


def test_a_pickled_adapter_is_refused_with_how_to_convert_it(tmp_path):
    folder = write_folder(tmp_path / "a", PAIR, r=2)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(BadFile, match=r"pickle(.|\n)*save_pretrained"):
        open_adapter(folder)


def test_a_folder_without_weights_is_not_found(tmp_path):
    folder = write_folder(tmp_path / "a", PAIR, r=2)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(NotFound):
        open_adapter(folder)


def test_nan_is_refused_when_it_is_read_and_unknown_modules_with_the_nearest(tmp_path):
    broken = {**PAIR, "q.lora_A.weight": A * torch.nan}
    adapter = open_adapter(write_folder(tmp_path / "a", broken, r=2))
    with pytest.raises(NonFinite, match="NaN"):
        adapter.factors("q")
    with pytest.raises(UnknownName, match="did you mean 'q'"):
        adapter.factors("qq")


def test_what_is_an_adapter(tmp_path):
    folder = write_folder(tmp_path / "a", PAIR, r=2)
    assert is_adapter(folder)
    assert not is_adapter(tmp_path)
    assert not is_adapter(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("[1")
    with pytest.raises(BadFile, match="not valid JSON"):
        open_adapter(folder)
    (folder / "adapter_config.json").write_text(json.dumps([1]))
    with pytest.raises(BadFile, match="not a JSON object"):
        open_adapter(folder)
