"""What the tables about klf are made of: coarser maps, and controls of any units."""

import torch

from benchmarks.klf_options import OPTIONS, cases
from benchmarks.klf_units import UNITS, averaged, dealt
from deltakit.importance import ImportanceMap
from deltakit.learn.head_units import Heads
from deltakit.strategies import check_heads, get

SHAPES = {**{f"h.0.attn.{part}_proj.weight": (4, 4) for part in "qkvo"}, "norm.weight": (4,)}
HEADS = Heads(SHAPES, 2)


def entries() -> ImportanceMap:
    draw = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(shape, generator=draw) for name, shape in SHAPES.items()}
    return ImportanceMap(scores, task="t", units="element")


def test_every_option_stands_beside_its_shuffled_map_and_averaging() -> None:
    for neither in ("half", "running_mean"):
        labels = [case.label for case in cases(neither)]
        assert labels[0] in ("half/half", "running average")
        assert {f"{label}, shuffled" for label in OPTIONS} <= set(labels)
        for case in cases(neither):
            get("klf", case.settings)


def test_a_coarser_map_is_the_mean_of_its_entries_and_a_dealt_one_keeps_its_scores() -> None:
    for units in UNITS:
        coarse = averaged(entries(), units, HEADS)
        norm = entries()["norm.weight"]
        own = norm if units in ("row", "element") else norm.mean()
        torch.testing.assert_close(coarse["norm.weight"], own)
        mixed = dealt(coarse, HEADS, seed=1)
        if units == "head":
            check_heads(mixed, SHAPES)
        names = ["h.0.attn.q_proj.weight", "norm.weight"] if units == "head" else list(SHAPES)
        before, after = (
            sorted(torch.cat([found[n].reshape(-1) for n in names]).tolist())
            for found in (coarse, mixed)
        )
        assert before == after
        assert any(not torch.equal(coarse[n], mixed[n]) for n in names)
