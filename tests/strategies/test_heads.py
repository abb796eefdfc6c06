"""Head units: where heads lie, what their scores must fit, and how klf fuses them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from deltakit.errors import BadValue, DeltakitError, ShapeMismatch
from deltakit.importance import ImportanceMap
from deltakit.strategies import Stack, attention_blocks, check_heads, get, head_shape, masks
from deltakit.strategies._scores import entry_scores

BLOCK = "layers.0.self_attn."
SHAPES: dict[str, tuple[int, ...]] = {
    f"{BLOCK}q_proj.weight": (8, 3),
    f"{BLOCK}q_proj.bias": (8,),
    f"{BLOCK}k_proj.weight": (4, 3),  # grouped queries: two heads of keys, each of four query rows
    f"{BLOCK}v_proj.weight": (4, 3),
    f"{BLOCK}o_proj.weight": (3, 8),
    f"{BLOCK}o_proj.bias": (3,),
    "layers.0.mlp.weight": (3, 3),
    "norm.weight": (3,),
    "embed.weight": (5, 3),
}


def head_map(heads: list[float], *others: float, task: str = "t") -> ImportanceMap:
    """A map of two heads and of the parameters that have none, in their order."""
    scores, rest = {}, iter(others)
    for name, shape in SHAPES.items():
        grid = head_shape(name, shape, len(heads))
        scores[name] = (
            torch.tensor(next(rest)) if grid is None else torch.tensor(heads).reshape(grid)
        )
    return ImportanceMap(scores, task=task, units="head")


def test_where_heads_lie() -> None:
    found = {name: head_shape(name, shape, 2) for name, shape in SHAPES.items()}
    assert [found[name] for name in SHAPES] == [
        (2, 1), (2,), (2, 1), (2, 1), (1, 2), None, None, None, None,
    ]  # fmt: skip
    assert head_shape(f"{BLOCK}q_proj.weight", (), 2) is None
    assert head_shape(f"{BLOCK}q_norm.weight", (8,), 2) is None
    for heads in (3, 0, -2):
        with pytest.raises(ShapeMismatch, match="do not divide a parameter evenly"):
            head_shape(f"{BLOCK}q_proj.weight", (8, 3), heads)


@pytest.mark.parametrize(
    ("query", "output"),
    [
        ("layers.0.self_attn.q_proj", "layers.0.self_attn.o_proj"),
        ("encoder.layer.0.attention.self.query", "encoder.layer.0.attention.output.dense"),
        ("vit.layer.0.attention.attention.query", "vit.layer.0.attention.output.dense"),
        ("h.0.attn.attention.q_proj", "h.0.attn.attention.out_proj"),
        ("transformer.layer.0.attention.q_lin", "transformer.layer.0.attention.out_lin"),
        ("encoder.block.0.layer.0.SelfAttention.q", "encoder.block.0.layer.0.SelfAttention.o"),
        ("decoder.block.0.layer.1.EncDecAttention.q", "decoder.block.0.layer.1.EncDecAttention.o"),
    ],
)  # fmt: skip
def test_queries_and_output_of_a_layer_are_one_block_in_every_layout(
    query: str, output: str
) -> None:
    names = [f"{query}.weight", f"{output}.weight"]
    assert list(attention_blocks([*names, f"{output}.bias"]).values()) == [names]
    assert head_shape(names[0], (8, 6), 2) == (2, 1)
    assert head_shape(names[1], (6, 8), 2) == (1, 2)
    group = masks.get("group", {"by": "head", "heads": 4})
    q, o = (group.apply(Stack(torch.ones(1, 12, 12), name=name))[0] for name in names)
    assert torch.equal(q.T, o)


@pytest.mark.parametrize(("start", "stop"), [(0, 24), (5, 17), (23, 24)])
def test_scores_of_heads_reach_their_rows_or_columns(start: int, stop: int) -> None:
    for shape, scores, expected in (
        ((8, 3), torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 2.0]).repeat_interleave(12)),
        ((3, 8), torch.tensor([[1.0, 2.0]]), torch.tensor([1.0] * 4 + [2.0] * 4).repeat(3)),
        ((24,), torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0]).repeat_interleave(12)),
    ):
        stack = Stack(torch.zeros(1, stop - start), start=start, shape=shape, scores=(scores,))
        assert torch.equal(entry_scores(stack, torch.float32)[0], expected[start:stop])


def test_scores_that_divide_no_parameter_are_refused() -> None:
    for scores in (torch.ones(3, 1), torch.ones(1, 1, 2), torch.ones(0, 1), torch.ones(16, 1)):
        with pytest.raises(ShapeMismatch, match="has another shape"):
            entry_scores(Stack(torch.zeros(1, 8, 3), scores=(scores,)), torch.float32)


def test_a_map_of_heads_fits_its_model() -> None:
    check_heads(head_map([1.0, 2.0], 0.1, 0.2, 0.3, 0.4), SHAPES)


def changed(**scores: torch.Tensor) -> ImportanceMap:
    found = dict(head_map([1.0, 2.0], 0.1, 0.2, 0.3, 0.4))
    for name, values in scores.items():
        (full,) = (n for n in SHAPES if n.endswith(f"{name}.weight"))
        found[full] = values
    return ImportanceMap(found, task="t", units="head")


@pytest.mark.parametrize(
    ("scores", "error", "words"),
    [
        ({"o_proj": torch.tensor([[1.0, 2.1]])}, BadValue, "one score, the same for all"),
        ({"o_proj": torch.tensor([[1.0], [2.0]])}, ShapeMismatch, "do not fit"),
        ({"o_proj": torch.tensor(1.0)}, BadValue, "one score, the same for all"),
        ({"q_proj": torch.ones(8)}, ShapeMismatch, "do not fit"),
        ({"q_proj": torch.ones(8, 3)}, ShapeMismatch, "do not divide"),
        ({"q_proj": torch.ones(3, 1)}, ShapeMismatch, "do not divide"),
        ({"q_proj": torch.ones(0, 1)}, ShapeMismatch, "do not divide"),
        ({"k_proj": torch.ones(4, 1)}, BadValue, "one score, the same for all"),
        ({"mlp": torch.ones(3)}, ShapeMismatch, "do not fit"),
        ({"norm": torch.ones(1)}, ShapeMismatch, "do not fit"),
    ],
)
def test_a_map_of_heads_that_contradicts_itself_is_refused(
    scores: Mapping[str, Any], error: type[DeltakitError], words: str
) -> None:
    with pytest.raises(error, match=words):
        check_heads(changed(**scores), SHAPES)


def fused(maps: list[ImportanceMap], **settings: Any) -> dict[str, torch.Tensor]:
    """Two tasks whose deltas are 0 and 1 everywhere: the second's share of every entry."""
    strategy = get("klf", settings)
    facts = strategy.prepare(maps, SHAPES)
    found = {}
    for name, shape in SHAPES.items():
        deltas = torch.stack([torch.zeros(shape), torch.ones(shape)])
        scores = tuple(task[name] for task in maps)
        stack = Stack(deltas, name=name, fact=facts[name], scores=scores)
        found[name] = strategy.merge(stack)
        flat = deltas.reshape(2, -1)
        parts = [
            dataclasses.replace(stack, deltas=flat[:, a:b], start=a, shape=shape)
            for a, b in ((0, 2), (2, flat.shape[1]))
        ]
        cut = torch.cat([strategy.merge(part) for part in parts])
        assert torch.equal(cut, found[name].reshape(-1))
    return found


def test_a_head_is_one_unit_of_several_parameters_by_hand() -> None:
    # Six units: the quantile .8 of each map is its second largest score, so one unit is
    # important to each. Were a head counted with each of its five parameters, none were.
    before = head_map([0.1, 0.0], 0.2, 0.9, 1.0, 0.3)
    now = head_map([0.9, 1.0], 0.1, 0.2, 0.3, 0.0)
    got = fused([before, now])
    rows = torch.tensor([[0.5], [1.0]])
    assert torch.equal(got[f"{BLOCK}q_proj.weight"], rows.repeat_interleave(4, 0).expand(8, 3))
    assert torch.equal(got[f"{BLOCK}k_proj.weight"], rows.repeat_interleave(2, 0).expand(4, 3))
    assert torch.equal(got[f"{BLOCK}q_proj.bias"], rows[:, 0].repeat_interleave(4))
    assert torch.equal(got[f"{BLOCK}o_proj.weight"], rows[:, 0].repeat_interleave(4).expand(3, 8))
    assert got[f"{BLOCK}o_proj.bias"].tolist() == [0.5] * 3
    assert got["norm.weight"].tolist() == [0.0] * 3
    assert got["embed.weight"].unique().tolist() == [0.5]


def test_the_size_of_a_head_is_that_of_all_its_parameters() -> None:
    # A head has 12 + 4 + 6 + 6 + 12 = 40 entries, the others 3 + 9 + 3 + 15 = 30, of 110. A fifth
    # from the top, at 87.2 of the scores in order, lies in the head of 1.0 if it is ranked last.
    flat = head_map([0.0, 0.0], 0.0, 0.0, 0.0, 0.0)
    got = fused([flat, head_map([0.1, 1.0], 0.2, 0.3, 0.4, 0.5)], share="parameters")
    assert all(values.unique().tolist() == [0.5] for values in got.values())
    got = fused([flat, head_map([0.1, 0.6], 0.2, 0.3, 0.7, 1.0)], share="parameters")
    important = {name for name, values in got.items() if values.unique().tolist() == [1.0]}
    assert important == {"norm.weight", "embed.weight"}


@pytest.mark.parametrize("settings", [{"order": "joint"}, {"within": "kind"}, {"contrast": True}])
def test_a_head_has_one_share_with_every_setting(settings: dict[str, Any]) -> None:
    draws = np.random.default_rng(0)
    maps = [head_map(*[list(draws.random(2)), *draws.random(4)]) for _ in range(2)]
    for fusion in ("static", "adaptive"):
        got = fused(maps, fusion=fusion, **settings)
        q = got[f"{BLOCK}q_proj.weight"][:, 0]
        assert torch.equal(q, got[f"{BLOCK}o_proj.weight"][0])
        assert torch.equal(q[::2], got[f"{BLOCK}v_proj.weight"][:, 0])


def test_by_tensor_a_map_of_heads_is_its_means() -> None:
    heads = [head_map([1.0, 3.0], 0.1, 0.2, 0.3, 0.4), head_map([3.0, 1.0], 0.4, 0.3, 0.2, 0.1)]
    tensors = [{name: scores.mean() for name, scores in found.items()} for found in heads]
    by_tensor = get("klf", {"units": "tensor"}).prepare(heads, SHAPES)
    assert by_tensor == get("klf").prepare(tensors, SHAPES)


def test_a_single_head_is_one_unit_too_and_keeps_no_state() -> None:
    maps = [head_map([0.5], 0.1, 0.2, 0.3, 0.0), head_map([1.0], 0.1, 0.2, 0.9, 0.0)]
    got = fused(maps)
    assert got[f"{BLOCK}q_proj.weight"].unique().tolist() == pytest.approx([0.3])
    facts = get("klf").prepare(maps, SHAPES)
    assert facts[f"{BLOCK}q_proj.weight"] is facts[f"{BLOCK}o_proj.weight"]
