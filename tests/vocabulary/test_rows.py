"""Rows are matched by token, and runs of them tile every range."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from deltakit.vocabulary.rows import NONE, Rows
from deltakit.vocabulary.tokenizer import Tokenizer

words = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 11), max_size=8).map(
    lambda found: {word: number for number, word in {n: w for w, n in found.items()}.items()}
)


def test_rows_by_hand():
    output = Tokenizer.of({"a": 0, "b": 1, "x": 2, "y": 3})
    base = Tokenizer.of({"b": 0, "a": 1, "z": 4})
    expert = Tokenizer.of({"a": 0, "x": 1, "b": 5})
    rows = Rows.of(output, 6, base, 6, [(expert, 3)])
    # z is no token of the output, and row 5 is padding in both.
    assert rows.base.tolist() == [1, 0, NONE, NONE, NONE, 5]
    assert rows.experts[0].tolist() == [0, NONE, 1, NONE, NONE, NONE]
    assert rows.made.tolist() == [2, 3, 4]


@given(words, words, words, st.integers(0, 12))
def test_a_row_is_its_token_s_in_every_model(output, base, expert, count):
    rows = Rows.of(Tokenizer.of(output), count, Tokenizer.of(base), 9, [(Tokenizer.of(expert), 5)])
    for word, number in output.items():
        if number < count:
            ours, theirs = base.get(word, NONE), expert.get(word, NONE)
            assert rows.base[number] == (ours if ours < 9 else NONE)
            assert rows.experts[0][number] == (theirs if theirs < 5 else NONE)
    for number in set(range(count)) - set(output.values()):
        padding = number < 9 and number not in base.values()
        assert rows.base[number] == (number if padding else NONE)
        assert rows.experts[0][number] == NONE


@given(words, words, st.integers(1, 12), st.integers(1, 4), st.data())
def test_pieces_tile_a_range_and_each_is_a_run_in_every_model(output, base, count, width, data):
    rows = Rows.of(Tokenizer.of(output), count, Tokenizer.of(base), 12, [(Tokenizer.of(base), 12)])
    start = data.draw(st.integers(0, count * width))
    stop = data.draw(st.integers(start, count * width))
    at = start
    for low, high, row, offset in rows.pieces(start, stop, width):
        assert low == at < high
        assert row * width + offset == low
        for found in (rows.base, *rows.experts):
            for number in range(row, -(-high // width)):
                expected = NONE if found[row] == NONE else found[row] + number - row
                assert found[number] == expected
        at = high
    assert at == stop
    for expert, found in ((None, rows.base), (0, rows.experts[0])):
        expected = {
            entry: int(found[entry // width]) * width + entry % width
            for entry in range(start, stop)
            if rows.base[entry // width] != NONE and found[entry // width] != NONE
        }
        places = list(rows.places(start, stop, width, expert))
        assert expected == {
            entry: at + entry - low for low, high, at in places for entry in range(low, high)
        }
        for (start, high, at), (low, _, then) in pairwise(places):
            assert (low, then) != (high, at + high - start)  # what goes on is one place
