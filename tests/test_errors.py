"""One message: fact, where, expected, got, remedy; and each error is a builtin too."""

import pytest

from deltakit import errors
from deltakit.errors import BadFile, DeltakitError, nearest, some


def test_a_message_has_every_part_in_one_order():
    error = DeltakitError("fact", remedy="do", got="b", expected="a", where="file")
    assert str(error) == "fact\n  where:    file\n  expected: a\n  got:      b\n  remedy:   do"


def test_lines_after_the_first_are_indented():
    assert str(DeltakitError("fact", got="1\n2")) == "fact\n  got:      1\n            2"


def test_a_name_can_neither_forge_a_line_nor_steer_a_terminal():
    error = DeltakitError("fact a\nerror: b", where="x\nerror: y", got="\x1b[2J")
    assert str(error).splitlines() == [
        r"fact a\nerror: b",
        r"  where:    x\nerror: y",
        r"  got:      \x1b[2J",
    ]
    assert some(["a\nerror: b"]) == r"a\nerror: b"


def test_an_outer_layer_puts_its_place_in_front():
    assert BadFile("fact").at("file").where == "file"
    assert BadFile("fact", where="tensor").at("file").where == "file, tensor"
    assert BadFile("fact", where="tensor").at("file").at("task").where == "task, file, tensor"


def test_a_place_is_said_once():
    assert BadFile("fact", where="file, tensor").at("file").where == "file, tensor"
    assert BadFile("fact", where="file").at("file").where == "file"


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("BadValue", ValueError),
        ("BadFile", ValueError),
        ("ShapeMismatch", ValueError),
        ("DtypeMismatch", TypeError),
        ("NamesDiffer", KeyError),
        ("WrongBase", ValueError),
        ("NonFinite", ArithmeticError),
        ("UnknownName", KeyError),
        ("NotFound", FileNotFoundError),
        ("AlreadyThere", FileExistsError),
        ("InputChanged", RuntimeError),
    ],
)
def test_each_error_is_also_the_builtin_a_caller_would_guess(name: str, builtin: type):
    error = getattr(errors, name)("fact", where="place")
    assert isinstance(error, DeltakitError)
    assert isinstance(error, builtin)
    assert str(error) == "fact\n  where:    place"


def test_the_nearest_name_is_found_or_none():
    assert nearest("tise", ["dare", "ties", "klf"]) == "ties"
    assert nearest("zzzz", ["dare", "ties", "klf"]) is None


def test_some_names_are_few_and_in_order():
    assert some({"b", "a"}) == "a, b"
    assert some([str(i) for i in range(9)], most=3) == "0, 1, 2 and 6 more"
    assert some([]) == ""
