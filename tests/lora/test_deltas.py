"""A module's deltas are the same in memory and formed anew, and so are the facts about them."""

import dataclasses

import pytest
import torch

from deltakit.lora.factors import Factors
from deltakit.lora.modes import _deltas, find
from deltakit.lora.modes._deltas import Deltas
from deltakit.lora.modes._mode import Pack


def pack(rows=700, columns=900, turned=False):
    draws = torch.Generator().manual_seed(1)
    products = [
        Factors(
            torch.randn(rank, columns, generator=draws), torch.randn(rows, rank, generator=draws)
        )
        for rank in (3, 5, 0)
    ]
    shape = (columns, rows) if turned else (rows, columns)
    names = ["a", "b", "c"]
    return Pack(products, [1.0, 0.5, 0.25], [1.0] * 3, names, "q.weight", shape, turned)


@pytest.mark.parametrize("turned", [False, True])
def test_they_are_the_products(turned):
    given = pack(turned=turned)
    (stack,) = Deltas(given).stacks(whole=True)
    for found, product in zip(stack.deltas, given.products, strict=True):
        wanted = product.b @ product.a
        wanted = (wanted.T if turned else wanted).reshape(-1)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("turned", [False, True])
def test_blocks_have_the_bits_of_the_whole(monkeypatch, turned):
    (whole,) = Deltas(pack(turned=turned)).stacks(whole=True)
    for held in (_deltas.MOST_HELD, 0):
        monkeypatch.setattr(_deltas, "MOST_HELD", held)
        count = 0
        for stack in Deltas(pack(turned=turned)).stacks():
            stop = stack.start + stack.deltas.shape[1]
            assert torch.equal(stack.deltas, whole.deltas[:, stack.start : stop])
            count += 1
        assert count == 3


@pytest.mark.parametrize("held", [_deltas.MOST_HELD, 0])
@pytest.mark.parametrize("expert", [0, 1])
def test_a_cut_keeps_the_largest(monkeypatch, held, expert):
    monkeypatch.setattr(_deltas, "MOST_HELD", held)
    deltas = Deltas(pack())
    (whole,) = Deltas(pack()).stacks(whole=True)
    values = whole.deltas[expert].abs()
    cut = deltas.whole.cut(expert, 0.25)
    assert cut.threshold == float(values.sort(descending=True).values[len(values) // 4 - 1])


@pytest.mark.parametrize("mode", ["ties", "dare", "della", "sotu", "magmax"])
def test_a_mode_makes_the_same_bits_of_both(monkeypatch, mode):
    chosen = find(mode)
    weights = [1.0, 1.0, 1.0]
    given = dataclasses.replace(pack(), weights=weights)
    held = chosen.merge(given)
    monkeypatch.setattr(_deltas, "MOST_HELD", 0)
    assert torch.equal(chosen.merge(given), held)
