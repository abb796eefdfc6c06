"""What an artifact says of itself: checked when read, never trusted to be small or true."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltakit.errors import BadFile, WrongBase
from deltakit.provenance import FORMAT, ModelTable, check_kind, parse, render
from deltakit.tensors.header import TensorInfo

HEX = "ab" * 32
TABLE = ModelTable(
    {"b": TensorInfo("F32", (2, 3)), "a": TensorInfo("I64", ())}, {"b": HEX, "a": "cd" * 32}
)


def test_a_table_is_parsed_back_and_rendered_in_one_order():
    text = TABLE.render()
    assert text == f'{{"a":["I64",[],"{"cd" * 32}"],"b":["F32",[2,3],"{HEX}"]}}'
    found = ModelTable.parse({"t": text}, "t")
    assert found == TABLE
    assert found.fingerprint == TABLE.fingerprint


GOOD = ["F32", [2], HEX]
MALFORMED = {
    "not JSON": "{",
    "a list": "[]",
    "null": "null",
    "a name twice as deep": "[" * 100_000,
    "too few fields": json.dumps({"x": ["F32", [2]]}),
    "too many fields": json.dumps({"x": [*GOOD, 1]}),
    "unknown dtype": json.dumps({"x": ["F128", [2], HEX]}),
    "negative size": json.dumps({"x": ["F32", [-2], HEX]}),
    "float size": json.dumps({"x": ["F32", [2.5], HEX]}),
    "string size": json.dumps({"x": ["F32", ["2"], HEX]}),
    "bool size": json.dumps({"x": ["F32", [True], HEX]}),
    "huge size": json.dumps({"x": ["F32", [1 << 41], HEX]}),
    "a number of 5000 digits": '{"x":["F32",[' + "9" * 5000 + f'],"{HEX}"]}}',
    "a number over 64 bits": json.dumps({"x": ["F32", [1 << 70], HEX]}),
    "overflowing product": json.dumps({"x": ["F32", [1 << 40] * 4, HEX]}),
    "zero hides a product": json.dumps({"x": ["F32", [0, 1 << 40, 1 << 40], HEX]}),
    "half a surrogate": r'{"\ud800":["F32",[2],"a"]}',
    "digest a number": json.dumps({"x": ["F32", [2], 3]}),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_table_is_a_bad_file(case: str):
    with pytest.raises(BadFile):
        ModelTable.parse({"base_tensors": MALFORMED[case]}, "base_tensors")


def test_what_is_wrong_in_a_table_is_named():
    with pytest.raises(BadFile, match="tensor 'wrong' of base_tensors"):
        ModelTable.parse({"base_tensors": json.dumps({"wrong": ["F", [2], HEX]})}, "base_tensors")
    with pytest.raises(BadFile, match="lacks 'base_tensors'"):
        ModelTable.parse({}, "base_tensors")


def test_a_table_of_very_many_huge_sizes_is_refused_unmultiplied():
    text = json.dumps({"x": ["F32", [1 << 40] * 300_000, HEX]})
    with pytest.raises(BadFile, match="dimensions"):
        ModelTable.parse({"t": text}, "t")


@given(st.text(max_size=60))
@settings(max_examples=200)
def test_any_text_is_parsed_or_a_bad_file(text: str):
    for kind in (dict[str, str], dict[str, list[int]]):
        try:
            parse({"k": text}, "k", kind)
        except BadFile as error:
            if "'k'" not in str(error):
                raise


def test_equal_values_give_equal_strings():
    assert render({"b": 1, "a": [2]}) == render({"a": [2], "b": 1}) == '{"a":[2],"b":1}'


def good() -> dict[str, str]:
    return {"deltakit": str(FORMAT), "kind": "delta"}


def test_a_kind_is_checked():
    check_kind(good(), "delta")
    with pytest.raises(BadFile, match="another kind"):
        check_kind(good(), "mask")
    with pytest.raises(BadFile, match="another kind"):
        check_kind({"deltakit": "1"}, "delta")


def test_a_file_of_another_program_is_not_an_artifact():
    with pytest.raises(BadFile, match="not a deltakit artifact"):
        check_kind({"format": "pt"}, "delta")


def test_a_newer_format_is_refused_with_what_to_do():
    with pytest.raises(BadFile, match="upgrade deltakit"):
        check_kind({**good(), "deltakit": str(FORMAT + 1)}, "delta")


@pytest.mark.parametrize("version", ["", "-1", "1.0", "one", "9" * 5000, "²"])
def test_an_unreadable_format_is_refused(version: str):
    with pytest.raises(BadFile, match="unreadable format"):
        check_kind({**good(), "deltakit": version}, "delta")


def other(**changes: tuple[TensorInfo, str] | None) -> ModelTable:
    rows = {name: (TABLE.infos[name], TABLE.digests[name]) for name in TABLE.infos}
    rows |= {name: row for name, row in changes.items() if row}
    kept = {name: row for name, row in rows.items() if changes.get(name, row) is not None}
    return ModelTable({n: r[0] for n, r in kept.items()}, {n: r[1] for n, r in kept.items()})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"a": (TensorInfo("I64", ()), HEX)}, ["values of 'a'", "cdcd", "abab"]),
        ({"b": (TensorInfo("F16", (2, 3)), HEX)}, ["'b' differs", "F32 [2, 3]", "F16 [2, 3]"]),
        ({"b": (TensorInfo("F32", (3, 2)), HEX)}, ["'b' differs", "F32 [2, 3]", "F32 [3, 2]"]),
        ({"b": None}, ["'b' differs", "no such tensor"]),
        ({"aa": (TensorInfo("U8", ()), HEX)}, ["'aa' differs", "no such tensor"]),
        ({"a": None, "b": (TensorInfo("F16", ()), "")}, ["'a' differs"]),
    ],
)
def test_the_first_tensor_that_differs_is_named(
    changed: dict[str, tuple[TensorInfo, str] | None], words: list[str]
):
    with pytest.raises(WrongBase) as caught:
        TABLE.check_same(other(**changed), "the delta", "./model")
    for word in [*words, "the delta", "./model"]:
        assert word in str(caught.value)


def test_the_same_table_passes():
    TABLE.check_same(other(), "the delta", "./model")
