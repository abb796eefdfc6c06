"""Masks and strategies that do not go together."""

import pytest
import torch

from deltakit.errors import BadValue
from deltakit.strategies import Method, PerTask, Stack, get, masks

DROPPING = ["dare", "dare_ties", "sotu", "della", "della_ties"]


@pytest.mark.parametrize("name", DROPPING)
@pytest.mark.parametrize("mask", ["random", "dynamic", "importance", "rank"])
def test_a_strategy_that_drops_by_the_numbers_of_the_mask_is_refused(name: str, mask: str) -> None:
    found = masks.get(mask)
    for one in (found, PerTask(masks.get("magnitude"), (("b", found),))):
        with pytest.raises(BadValue, match=f"the mask and {name} drop at random by") as error:
            Method(get(name), one)
        assert "leave out --mask" in str(error.value)
        assert "\\n" not in str(error.value)


@pytest.mark.parametrize("mask", ["disjoint", "group"])
def test_masks_that_draw_numbers_of_their_own_keep_the_mean_of_what_dare_rescales(
    mask: str,
) -> None:
    method = Method(get("dare", {"p": 0.5}), masks.get(mask, {"rescale": "inverse"}))
    merged = method.merge(Stack(torch.ones(2, 4000, 5)))
    assert float(merged.mean()) == pytest.approx(2.0, rel=0.1)


def test_other_masks_go_before_any_that_drops() -> None:
    for name in DROPPING:
        for mask in ("magnitude", "nm", "outliers", "disjoint", "group"):
            Method(get(name), masks.get(mask))
