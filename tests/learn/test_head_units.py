"""Scores of attention heads, captured and measured, against slices of the entries' scores."""

import json
from typing import Any

import pytest
import torch
import transformers

from deltakit.errors import BadValue, ShapeMismatch
from deltakit.importance import ImportanceMap
from deltakit.learn.head_units import Heads
from deltakit.learn.klf_importance import KlfImportance
from deltakit.learn.post_hoc import post_hoc
from deltakit.strategies import check_heads
from tests.learn import tiny


def grouped() -> Any:
    """A model of four query heads, two for each key-value head."""
    torch.manual_seed(0)
    config = {**tiny.LLAMA, "num_attention_heads": 4, "num_key_value_heads": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).eval()


def captured(make: Any, units: str, **settings: Any) -> ImportanceMap:
    model = make()
    capture = KlfImportance.attach(model, units=units, **settings)
    for seed in range(3):
        draw = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        capture.step()
    return capture.map("t")


def sliced(each: Any, block: str, parts: dict[str, int], heads: int) -> list[float]:
    """The mean over each head's entries: `parts` name the side of each parameter that is cut."""
    found = []
    for head in range(heads):
        taken = []
        for name, side in parts.items():
            values = each[f"{block}.{name}"]
            width = values.shape[side] // heads
            taken.append(values.narrow(side, head * width, width).reshape(-1).double())
        found.append(float(torch.cat(taken).mean()))
    return found


BERT = {
    **{f"self.{part}.{end}": 0 for part in ("query", "key", "value") for end in ("weight", "bias")},
    "output.dense.weight": 1,
}
LLAMA = {"q_proj.weight": 0, "k_proj.weight": 0, "v_proj.weight": 0, "o_proj.weight": 1}


@pytest.mark.parametrize(
    ("make", "block", "parts"),
    [
        (tiny.encoder, "encoder.layer.0.attention", BERT),
        (grouped, "model.layers.0.self_attn", LLAMA),
    ],
)
def test_a_head_s_score_is_the_mean_over_all_its_entries(
    make: Any, block: str, parts: dict[str, int]
) -> None:
    found, each, whole = (captured(make, units) for units in ("head", "element", "tensor"))
    expected = sliced(each, block, parts, 2)
    assert expected[0] != expected[1]
    for name in parts:
        scores = found[f"{block}.{name}"]
        assert scores.reshape(-1).tolist() == pytest.approx(expected, rel=1e-6)
    others = [name for name in whole if name.removeprefix(f"{block}.") not in parts]
    assert f"{block}.output.dense.bias" in others or make is grouped
    for name in others:
        assert found[name].shape == ()
        torch.testing.assert_close(found[name], whole[name])
    check_heads(found, {name: tuple(p.shape) for name, p in make().named_parameters()
                        if name in found})  # fmt: skip


@pytest.mark.parametrize("kind", ["klf-mixed", "fisher"])
def test_heads_are_measured_afterwards_too_and_come_back_from_the_file(
    tmp_path: Any, kind: str
) -> None:
    folder = tiny.save(tiny.encoder(), tmp_path / "m")
    data = tmp_path / "data.jsonl"
    rows = zip(tiny.TEXTS, ["person", "place", "good", "bad"], strict=True)
    data.write_text("".join(json.dumps({"text": t, "label": label}) + "\n" for t, label in rows))
    found = post_hoc(folder, data, task="t", kind=f"{kind}-head")
    found.save(tmp_path / "heads")
    again = ImportanceMap.open(tmp_path / "heads")
    assert again.units == "head"
    assert {n: s.tolist() for n, s in again.items()} == {n: s.tolist() for n, s in found.items()}
    each = post_hoc(folder, data, task="t", kind=f"{kind}-element")
    block = "encoder.layer.0.attention"
    got = found[f"{block}.output.dense.weight"]
    assert got.shape == (1, 2)
    assert got[0].tolist() == pytest.approx(sliced(each, block, BERT, 2), rel=1e-5)


def test_a_model_without_a_config_is_told_its_heads() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn = torch.nn.ModuleDict(
                {f"{part}_proj": torch.nn.Linear(4, 4, bias=False) for part in "qkvo"}
            )

    assert captured(Net, "head", heads=4)["self_attn.o_proj.weight"].shape == (1, 4)
    for heads in (None, 0, -1, True, 2.0):
        with pytest.raises(BadValue, match="number of attention heads is not known"):
            captured(Net, "head", heads=heads)
    with pytest.raises(ShapeMismatch, match="do not divide"):
        captured(Net, "head", heads=3)


def shapes(*modules: str, block: str = "h.0.attn") -> dict[str, tuple[int, ...]]:
    return {f"{block}.{module}.weight": (4, 4) for module in modules}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (shapes("c_attn", "c_proj"), "no parameter is known to hold attention heads"),
        (shapes("qkv_proj", "o_proj"), "has no q of its own"),
        (shapes("q_proj", "k_proj", "v_proj"), "has no o of its own"),
        (shapes("q_proj", "o_proj", "k_proj", "dense"), "has no v of its own"),
        ({**shapes("q_proj", "v_proj", "o_proj"), "h.0.attn.k_proj.bias": (4,)}, "has no k"),
    ],
)
def test_a_model_whose_heads_lie_elsewhere_is_refused(
    given: dict[str, tuple[int, ...]], words: str
) -> None:
    with pytest.raises(BadValue, match=words):
        Heads(given, 2)


def test_names_that_track_a_part_of_a_block_are_refused() -> None:
    names = ["encoder.layer.0.attention.self.query.weight"]
    with pytest.raises(BadValue, match="has no k of its own"):
        KlfImportance.attach(tiny.encoder(), units="head", names=names)
