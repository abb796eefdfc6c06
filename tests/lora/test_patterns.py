"""Patterns of ranks: PEFT's meaning, and no pattern that takes long."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltakit.errors import BadFile
from deltakit.lora.automaton import Automaton
from deltakit.lora.config import AdapterConfig
from deltakit.lora.patterns import Patterns

ATOMS = ["a", "b", ".", r"\.", "[ab]", "[^a]", "[a-c1]", r"\d", r"\w", r"[\D.]", "_", "^a", "a$"]
PIECES = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map("({0[0]}|{0[1]})".format),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "*?", "{,2}"])).map(
            "(?:{0[0]}){0[1]}".format
        ),
    ),
    max_leaves=6,
)
LINES = st.text("ab1._", max_size=8)


@given(PIECES, LINES)
def test_an_automaton_finds_what_re_finds(pattern, line):
    whole = rf"(.*\.)?({pattern})$"
    assert Automaton(whole).matches(line) == (re.match(whole, line) is not None)
    assert Automaton(pattern).matches(line) == (re.match(pattern, line) is not None)


@given(st.lists(st.text("ab.", max_size=4), unique=True, max_size=5), LINES)
def test_plain_names_mean_what_they_mean_to_peft(names, module):
    table = {name: number for number, name in enumerate(names)}
    wanted = next((n for p, n in table.items() if re.match(rf"(.*\.)?({p})$", module)), None)
    assert Patterns(table).get(module, None) == wanted


@given(st.lists(PIECES | st.text("ab.", max_size=4), unique=True, max_size=4), LINES)
def test_the_first_that_fits_counts_among_names_and_patterns(patterns, module):
    table = {pattern: number for number, pattern in enumerate(patterns)}
    wanted = next((n for p, n in table.items() if re.match(rf"(.*\.)?({p})$", module)), None)
    assert Patterns(table).get(module, None) == wanted


SLOW = ["(a+)+", "(a|a)*", "(a|aa)+", "(.*a){20}", "(a*)*b", "([a-z]+)*[0-9]", "((a*)*)*x"]


@pytest.mark.parametrize("pattern", SLOW)
def test_a_pattern_made_to_be_slow_takes_a_step_a_character(pattern):
    automaton = Automaton(rf"(.*\.)?({pattern})$")
    before = automaton.steps
    automaton.matches("a" * 5000 + "!")
    assert automaton.steps - before < 300_000


def test_a_config_with_such_a_pattern_is_read_at_once():
    config = AdapterConfig.of({"peft_type": "LORA", "r": 8, "rank_pattern": {"(a+)+": 2}})
    assert config.rank("a" * 1000 + "!") == 8
    assert config.rank("m." + "a" * 1000) == 2


REFUSED = {
    "(?=a)b": "assert",
    "(?!a)b": "assert not",
    r"(a)\3": "groupref",
    r"\bq": "boundary",
    "(?>a)b": "atomic group",
    "a++": "possessive repeat",
    "(?i:q)": "flags",
    "((a{50}){50}){50}": "so many repetitions",
    "(a{9999}){9999}": "so many repetitions",
    "(": "no regular expression",
    "(" * 4000 + ")" * 4000: "no regular expression",
    "a" * 20_000 + "+": "so many characters",
    "a{2,1}": "no regular expression",
    "[b-a]": "no regular expression",
}


@pytest.mark.parametrize(("pattern", "words"), REFUSED.items(), ids=range(len(REFUSED)))
def test_what_an_automaton_does_not_follow_is_refused(pattern, words):
    with pytest.raises(BadFile, match=words):
        AdapterConfig.of({"peft_type": "LORA", "alpha_pattern": {pattern: 2}})


def test_what_python_warns_of_is_read_as_python_reads_it():
    assert Automaton("[[a]$").matches("[")


def test_an_error_tells_which_field_the_pattern_is_of():
    with pytest.raises(BadFile, match=r"^'\(' is no regular(.|\n)*alpha_pattern"):
        AdapterConfig.of({"peft_type": "LORA", "alpha_pattern": {"(": 2}})


def test_work_without_end_is_refused(monkeypatch):
    monkeypatch.setattr("deltakit.lora.patterns.MOST_STEPS", 100_000)
    ranks = Patterns({f"[{letter}]+x": 1 for letter in string.ascii_lowercase})
    assert ranks.get("a" * 1000 + "x", 0) == 1
    with pytest.raises(BadFile, match="longer to match"):
        ranks.get("z" * 200_000, 0)


def test_an_adapter_that_lists_every_module_is_looked_up():
    modules = [f"model.layers.{i}.experts.{j}.up_proj" for i in range(30) for j in range(100)]
    ranks = Patterns({module: number for number, module in enumerate(modules, 1)})
    assert [ranks.get(module, 0) for module in modules] == list(range(1, len(modules) + 1))
    assert ranks.get("base.model.layers.3.experts.5.up_proj", 0) == 306
    assert ranks.get("xmodel.layers.3.experts.5.up_proj", 0) == 0


def test_a_line_break_in_a_name_is_refused():
    with pytest.raises(BadFile, match="line break"):
        Patterns({"q": 2}).get("q\n", 8)
