import pytest

from deltakit.errors import BadValue, UnknownName
from deltakit.strategies import Strategy, find, get, names
from deltakit.strategies.ties import Ties


def test_a_strategy_is_found_by_the_name_of_its_file() -> None:
    for name in names():
        strategy = find(name)
        assert issubclass(strategy, Strategy)
        assert strategy.__module__ == f"deltakit.strategies.{name}"
        assert strategy.__name__ == name.title().replace("_", "")


def test_an_unknown_strategy_is_answered_with_the_nearest_and_with_all() -> None:
    with pytest.raises(UnknownName) as refusal:
        get("tise")
    assert "unknown strategy 'tise'" in str(refusal.value)
    assert "did you mean 'ties'?" in str(refusal.value)
    assert ", ".join(names()) in str(refusal.value)
    with pytest.raises(UnknownName, match="see: deltakit strategies"):
        get("qqqqqq")


@pytest.mark.parametrize("name", ["_stack", "ties.Ties", "", "../ties"])
def test_what_is_no_strategy_is_not_imported(name: str) -> None:
    with pytest.raises(UnknownName):
        find(name)


def test_the_nearest_setting_is_named() -> None:
    with pytest.raises(UnknownName, match="did you mean 'density'") as refusal:
        get("ties", {"densty": 0.3})
    assert "combine, density, divide, elect, scope" in str(refusal.value)
    with pytest.raises(UnknownName, match="no settings"):
        get("average", {"density": 0.3})


def test_text_becomes_what_the_setting_is() -> None:
    assert get("ties", {"density": "0.3", "scope": "global"}) == Ties(0.3, "global")
    assert get("sotu", {"p": "0.5"}) == get("sotu", {"p": 0.5})
    assert get("sotu", {"p": "auto"}) == get("sotu")


@pytest.mark.parametrize("text", ["0.5", ".5", "+.5", ".50", "5e-1", "50.e-2"])
def test_a_number_may_be_written_as_people_do(text: str) -> None:
    assert get("ties", {"density": text}) == Ties(density=0.5)
    assert get("sotu", {"p": text}) == get("sotu", {"p": 0.5})


@pytest.mark.parametrize("text", [".", "", "1,5", "0x1", "1_0", "½", ".5.", "- .5"])
def test_what_is_no_number_is_none(text: str) -> None:
    with pytest.raises(BadValue, match="cannot be"):
        get("ties", {"density": text})


def test_a_whole_number_becomes_a_fraction_so_that_equal_settings_are_written_alike() -> None:
    assert repr(Ties(density=1)) == repr(Ties(density=1.0))


def test_a_refusal_says_the_strategy_what_was_given_and_what_to_do() -> None:
    with pytest.raises(BadValue) as refusal:
        get("ties", {"density": 20})
    assert str(refusal.value).splitlines() == [
        "density is outside (0, 1]",
        "  where:    strategy ties",
        "  got:      20",
        "  remedy:   give a fraction, not a percentage",
    ]
    with pytest.raises(BadValue) as refusal:
        get("sotu", {"p": "atuo"})
    assert str(refusal.value).splitlines() == [
        "p cannot be 'atuo'",
        "  where:    strategy sotu",
        "  expected: a number or auto",
        "  remedy:   did you mean 'auto'?",
    ]


@pytest.mark.parametrize("name", ["dare", "dare_ties", "sotu"])
def test_a_drop_rate_of_one_is_refused(name: str) -> None:
    with pytest.raises(BadValue, match=r"p is outside \[0, 1\)"):
        get(name, {"p": 1.0})
