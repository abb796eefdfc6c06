"""A gradient: the first value at depth 0, the last at depth 1, straight lines between."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltakit.errors import BadValue
from deltakit.recipe.gradient import at, check_gradient

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8)


@given(NUMBERS)
def test_its_ends_are_its_first_and_last_value_exactly(values):
    assert at(values, 0.0) == values[0]
    assert at(values, 1.0) == values[-1]


@given(NUMBERS, st.floats(0, 1))
def test_it_stays_between_its_values(values, depth):
    assert min(values) - 1e-6 <= at(values, depth) <= max(values) + 1e-6


def test_its_values_lie_at_even_steps():
    assert [at([0.0, 8.0, 4.0], depth) for depth in (0.25, 0.5, 0.75)] == [4.0, 8.0, 6.0]


@pytest.mark.parametrize("value", ["tensor", 0.5, 3, True, None])
def test_what_is_no_list_is_the_same_everywhere(value):
    assert at(value, 0.3) is value


@pytest.mark.parametrize(
    "value", [[], ["a"], [0.1, "0.2"], [float("nan")], [True], [[0.1]], [None]]
)
def test_a_list_of_other_than_numbers_is_refused(value):
    with pytest.raises(BadValue, match="density is a list of other than numbers"):
        check_gradient("density", value)
