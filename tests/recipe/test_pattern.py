"""Patterns over names: globs whose star takes dots, and expressions that cannot run for ever."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltakit.errors import BadValue
from deltakit.recipe.layers import layer_range
from deltakit.recipe.pattern import Regex, matcher, text

NAME = "model.layers.3.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("match", "matches"),
    [
        ("*", True),
        (NAME, True),
        ("*.mlp.*", True),
        ("*mlp", False),
        ("model.layers.?.mlp.up_proj.weight", True),
        ("*.{up,gate}_proj.*", True),
        ("*.{q,k}_proj.*", False),
        ("*.{mlp,attn}.{up,down}_proj.{weight,bias}", True),
        ("*.[0-2].*", False),
        ("*.[!0-2].*", True),
        (["*.bias", "*.up_proj.weight"], True),
        (Regex(r"model\.layers\.\d+\..*"), True),
        (Regex(r"layers"), False),
        (Regex(r".*\.(up|gate)_proj\.weight"), True),
        (["*.bias", Regex(".*attn.*")], False),
    ],
)
def test_a_pattern_is_about_the_whole_name(match, matches):
    assert matcher(match)(NAME) is matches


@given(st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=20))
def test_a_name_without_wildcards_matches_itself_and_nothing_else(name):
    if name and not set(name) & set("*?[]{}"):
        assert matcher(name)(name)
        assert not matcher(name)(name + "x")


@given(st.text("ab(|)*+?.[]{}\\12,^$", min_size=1, max_size=12))
def test_an_expression_is_refused_or_matches_as_python_does(regex):
    try:
        found = matcher(Regex(regex))("abababab1122")
    except BadValue:
        return
    assert found == bool(re.fullmatch(regex, "abababab1122"))


@pytest.mark.parametrize(
    "regex", ["(a+)+", "(a|aa)*", "(a*)*b", "((ab)+c)+", r"(.)+(\1+)+", "(?:a+){2,}", "(a?){30}"]
)
def test_an_expression_that_could_take_for_ever_is_refused(regex):
    with pytest.raises(BadValue, match="repeats what repeats"):
        matcher(Regex(regex))


@pytest.mark.parametrize(
    "regex", [".*a.*a.*ab", ".*.*.*(ab|ac|aad|aae)", "a?" * 22 + "a" * 22, "(?:aa|aab)" * 22 + "c"]
)
def test_the_slowest_expressions_that_are_taken_end(regex):
    assert not matcher(Regex(regex))("a" * 200 + "!")


@pytest.mark.parametrize(
    "regex",
    [
        r".*\.layers\.\d+\.(self_attn|mlp)\..*(q|k|v|o|up)_proj\.weight",
        r"(.*\.a\..*|.*\.b\..*)\.weight",
        "(?=.*layers)(?=.*mlp)(?=.*up)(?=.*proj)(?=.*weight).*",
        r"model\.layers\.(\d|1\d|2[0-3])\.(mlp|self_attn)\.(up|gate|down|q|k|v|o)_proj\..*",
    ],
)
def test_expressions_as_one_writes_them_are_taken(regex):
    matcher(Regex(regex))


@pytest.mark.parametrize(
    ("match", "message"),
    [
        ("", "empty"),
        ("x" * 501, "very long"),
        (Regex("(a"), "not a regular expression"),
        (Regex(".*a" * 4), "so many ways"),
        (Regex("a?" * 30 + "a" * 30), "so many ways"),
        (Regex("(a|ab)" * 25), "so many ways"),
        ("*.{up,gate", "a brace alone"),
        ("{a,b}" * 7, "stand for too much"),
    ],
)
def test_what_is_no_pattern_is_refused(match, message):
    with pytest.raises(BadValue, match=message):
        matcher(match)


def test_a_match_is_told_in_one_line():
    assert text(["*.bias", Regex("a.*")]) == "*.bias or /a.*/"


@pytest.mark.parametrize(
    ("layers", "ends"),
    [
        (0, (0, 0)),
        ("7", (7, 7)),
        ("0-11", (0, 11)),
        ("8-", (8, 11)),
        ([2, 5], (2, 5)),
        ([11, 11], (11, 11)),
    ],
)
def test_both_ends_of_a_range_are_in_it(layers, ends):
    assert layer_range(layers, 11) == ends


@pytest.mark.parametrize(
    "layers", ["0-12", 12, "5-4", [5, 4], "-", "-3", "a-b", "", [1], [1, 2, 3], -1]
)
def test_a_range_that_is_none_or_not_in_the_model_is_refused(layers):
    with pytest.raises(BadValue, match="range of layers"):
        layer_range(layers, 11)
