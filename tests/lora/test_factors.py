"""Fusing factors and fusing products, by hand and by law."""

import pytest
import torch

from deltakit.errors import ShapeMismatch
from deltakit.lora.factors import (
    Factors,
    fuse_factors,
    fuse_products,
    nearest_of_rank,
    shortened,
    singular_values,
)


def factors(seed, rank=3, d_in=5, d_out=4):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, d_in, generator=generator, dtype=torch.float64)
    return Factors(a, torch.randn(d_out, rank, generator=generator, dtype=torch.float64))


def product(found):
    return found.b @ found.a


def test_rank_one_by_hand_factors_give_four_and_products_five():
    one, three = torch.ones(1, 1), torch.full((1, 1), 3.0)
    before, now, half = Factors(one, one), Factors(three, three), torch.tensor([0.5])
    assert product(fuse_factors(before, now, half)).item() == pytest.approx(4.0, abs=1e-6)
    assert product(fuse_products(before, now, half)).item() == pytest.approx(5.0, abs=1e-6)


@pytest.mark.parametrize("fuse", [fuse_factors, fuse_products])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_all_or_nothing_is_one_of_the_two(fuse, share):
    before, now = factors(1), factors(2)
    found = product(fuse(before, now, torch.full((3,), share, dtype=torch.float64)))
    torch.testing.assert_close(found, product(now if share else before))


def test_products_fuse_exactly_where_the_rank_allows():
    before, now = factors(1, rank=4), factors(2, rank=4)
    share = torch.tensor([0.1, 0.5, 0.7, 1.0], dtype=torch.float64)
    expected = (before.b * (1 - share)) @ before.a + (now.b * share) @ now.a
    torch.testing.assert_close(product(fuse_products(before, now, share)), expected)


def test_nearest_of_rank_is_the_truncated_svd_of_the_product():
    found = factors(3)
    u, sigma, v = torch.linalg.svd(product(found))
    expected = (u[:, :2] * sigma[:2]) @ v[:2]
    near = nearest_of_rank(found, 2)
    assert near.a.shape == (2, 5)
    torch.testing.assert_close(product(near), expected)


def test_shortened_factors_tell_all_singular_values_and_have_orthonormal_rows():
    found = factors(3)
    near, sigma = shortened(found, 2)
    expected = torch.linalg.svdvals(product(found))[: len(sigma)]
    torch.testing.assert_close(sigma, expected)
    torch.testing.assert_close(singular_values(found), expected)
    torch.testing.assert_close(near.a @ near.a.T, torch.eye(2, dtype=torch.float64))


def test_factors_of_another_shape_are_refused():
    with pytest.raises(ShapeMismatch, match="rank by rank"):
        fuse_factors(factors(1), factors(2, rank=2), torch.zeros(3))
