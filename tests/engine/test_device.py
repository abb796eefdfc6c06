"""A device sums and rounds as the processor does, and is sent nothing it has no formula for."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from deltakit.combination import Combination
from deltakit.engine.device import Device, add_and_round_on, check_methods
from deltakit.engine.rounding import add_and_round
from deltakit.errors import BadValue
from deltakit.formula import Formula
from deltakit.lazy import LazyDelta, LazyDeltas
from deltakit.strategies import Method, get
from tests.kernels import room_for, without_kernels

N = 5000
THERE = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
FORMULAS = {
    "sum": Formula([0.3, 0.7]),
    "mean": Formula([1.0, 2.0], divisor=3.0, factors=(0.7, 1.3)),
    "chain": Formula([1.0, 0.25], carries=[0.0, 0.75]),
    "elected": Formula([1.0, 2.0], votes=[1.0, 2.0], divisors=[1.0, 2.0]),
    "counted": Formula([1.0, 2.0], votes=[1.0, 1.0], by_count=True),
}


def made(dtype: torch.dtype) -> tuple[LazyDelta, LazyDeltas]:
    """Return a base, and a trimmed and a dropped delta to it."""
    generator = torch.Generator().manual_seed(0)
    base, *tuned = torch.randn(3, N, generator=generator).to(dtype)
    base[::9] = -0.0
    tuned[0][::3] = base[::3]
    kept = torch.rand(N, generator=generator) < 0.3
    each = [
        LazyDelta(tuned[0], base, threshold=0.5, ties=100),
        LazyDelta(tuned[1], base, kept=kept, divisor=0.3),
    ]
    return LazyDelta(base), LazyDeltas(each, (N,), "F32")


@pytest.mark.parametrize("device", THERE, ids=str)
@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_device_gives_the_bytes_of_the_processor(
    dtype: torch.dtype, formula: Formula, device: torch.device
) -> None:
    base, deltas = made(dtype)
    here, there = room_for(N, dtype), torch.empty(N, dtype=dtype)
    combination = Combination(deltas, formula)
    expected = add_and_round(base, combination, deltas, here)
    with without_kernels():  # a processor that stands in for a device has none
        found = add_and_round_on(device, base, combination, deltas, there)
    assert torch.equal(here.tensor.view(torch.uint8), there.view(torch.uint8))
    assert (found.finite, found.changed) == (expected.finite, expected.changed)


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
def test_nothing_is_computed_beside_the_device(formula: Formula) -> None:
    base, deltas = made(torch.bfloat16)
    meta = torch.device("meta")

    def moved(delta: LazyDelta) -> LazyDelta:
        parts = {
            name: None if found is None else found.to(meta)
            for name in ("stored", "base", "kept")
            if isinstance(found := getattr(delta, name), torch.Tensor | None)
        }
        return dataclasses.replace(delta, **parts)

    lazy = LazyDeltas([moved(delta) for delta in deltas.each], deltas.shape, deltas.dtype)
    assert Combination(lazy, formula).tensor.device == meta
    assert moved(base).tensor.device == meta


def test_strategies_without_a_formula_are_refused_by_name() -> None:
    check_methods("cuda", [Method(get("ties")), Method(get("klf")), Method(get("dare"))])
    with pytest.raises(BadValue, match="processor only: Magmax"):
        check_methods("cuda", [Method(get("average")), Method(get("magmax"))])


@pytest.mark.parametrize("name", ["cuda:abc", "cuda:", "cuda:-1", "cuda:99"])
def test_a_number_that_no_device_has_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(BadValue, match=rf"cuda, cuda:0, cuda:1[\s\S]*{name}"):
        Device(name, [])


@pytest.mark.parametrize(("name", "message"), [("tpu", "no such device"), ("cuda", "no cuda")])
def test_a_device_that_is_not_here_is_refused(
    name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadValue, match=message):
        Device(name, [])
