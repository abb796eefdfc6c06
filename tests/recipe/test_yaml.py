"""YAML is read strictly, as plain data that says what JSON says; hostile texts are refused."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deltakit.errors import BadFile, BadValue
from deltakit.recipe import Piece, Recipe, Regex, Rule, Task
from deltakit.recipe.text import parse, to_yaml
from deltakit.recipe.yaml_text import dump, load

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Co", "Cn"]), max_size=8)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False, width=32) | TEXT
    | st.sampled_from(["no", "yes", "1e-3", "0x10", "~", "null", "1:30", "2024-01-01", ".5"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(TEXT, PLAIN, max_size=4))
def test_what_is_written_is_read_back_here_and_by_other_readers(value):
    assert load(dump(value)) == value
    others = yaml.safe_load(dump(value)) if "=" not in dump(value) else value
    assert others == value


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        ("1e-3", 0.001),
        ("5.", 5.0),
        (".5", 0.5),
        ("+3", 3),
        ("9223372036854775807", 2**63 - 1),
        ("-0.25E+2", -25.0),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("0o17", "0o17"),
        ("1_000", "1_000"),
        ("TRUE", True),
        ("", None),
        ("'7'", "7"),
        ('"true"', "true"),
        ("<<", "<<"),
    ],
)
def test_a_plain_word_means_what_yaml_1_2_says(word, meaning):
    found = load(f"key: {word}")["key"]
    assert found == meaning
    assert type(found) is type(meaning)


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"

HOSTILE = [
    (BOMB, "anchors and aliases"),
    ("a: &x 1", "anchors and aliases"),
    ("a: *x", "anchors and aliases|undefined alias"),
    ("a: !!python/object/apply:os.system ['true']", "tags"),
    ("a: !include /etc/passwd", "tags"),
    ("a: !!str 1", "tags"),
    ("!!set {a, b}", "tags"),
    ("a: 1\nb: 2\na: 3", "'a' is there twice"),
    ("a: {x: 1, x: 1}", "'x' is there twice"),
    ("a: 1\n---\nb: 2", "more than one document"),
    ("? [a, b]\n: 1", "a key that is a list"),
    ("? {a: b}\n: 1", "a key that is a list"),
    ("[" * 50 + "]" * 50, "nested too deeply"),
    ("a: [" * 2000, "not YAML|nested"),
    ("a: 'open", "not YAML"),
    ("a:\n\t- b", "not YAML"),
    ("a: \x01", "not YAML"),
    ("%TAG ! tag:x,2000:\n---\na: !y 1", "tags"),
    ("x" * 1_000_001, "over 1000000 characters"),
]


@pytest.mark.parametrize(("text", "match"), HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_text_is_refused(text, match, tmp_path):
    with pytest.raises(BadFile, match=match):
        load(text)
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(BadFile) as caught:
        Recipe.read(tmp_path / "r.yaml")
    assert "r.yaml" in str(caught.value)


def test_a_line_is_named():
    with pytest.raises(BadFile) as caught:
        load("a: 1\nb: 2\na: 3")
    assert caught.value.where == "line 3"


@given(st.binary(max_size=80))
def test_any_bytes_are_plain_data_or_refused(raw):
    for is_yaml in (True, False):
        try:
            parse(raw, is_yaml=is_yaml)
        except BadFile:
            continue


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', '{"a": {"b": 1, "b": 1}}', '{"a": NaN}', '{"a": -Infinity}']
)
def test_json_is_read_as_strictly(text):
    with pytest.raises(BadFile, match="not a recipe"):
        parse(text.encode())


@pytest.mark.parametrize("text", [r'{"a": {"\ud800": 1}}', r'"\uDC00": 1', r'["\ud83d \ude00"]'])
def test_half_a_character_is_refused_and_a_whole_one_is_not(text):
    with pytest.raises(BadFile, match="half a character"):
        parse(text.encode())
    assert parse(rb'{"a": "\ud83d\ude00 \\ud"}') == {"a": "\U0001f600 \\ud"}


RECIPE = Recipe(
    base="b",
    tasks=[Task("a", "ft-a", weight=[0.5, 1.0]), Task("b=1", "ft-b", importance="i.safetensors")],
    strategy="ties",
    settings={"density": [0.1, 0.5], "scope": "tensor"},
    mask=Piece("magnitude", {"density": 0.5}),
    lines=(0.2, 0.8),
    scale=2.0,
    rules=[
        Rule(match="*.bias", exclude=True),
        Rule(match=["a.*", Regex(r"h\.\d+.*")], layers="0-3", mask=None, weights={"a": [1.0, 2.0]}),
        Rule(layers=[4, 5], strategy="dare", settings={"p": 0.5}, scale=[1.0, 2.0, 1.0]),
    ],
    heads=["classifier.*", Regex("score.*")],
    seed=7,
    dtype="BF16",
)


def test_yaml_and_json_of_a_recipe_are_one_recipe_before_and_after_checking(tmp_path):
    for name, recipe in (("given", RECIPE), ("checked", RECIPE.checked())):
        for kind in ("yaml", "json", "yml"):
            recipe.write(tmp_path / f"{name}.{kind}")
            found = Recipe.read(tmp_path / f"{name}.{kind}")
            assert found == recipe
            assert found.encode() == recipe.encode()
    assert Recipe.read(tmp_path / "given.yaml").checked().encode() == RECIPE.checked().encode()


def test_the_largest_seed_is_read_back(tmp_path):
    recipe = Recipe(base="b", tasks=[Task("a", "./a")], strategy="dare", seed=2**63 - 1)
    for name in ("r.yaml", "r.json"):
        recipe.write(tmp_path / name)
        assert Recipe.read(tmp_path / name).seed == recipe.seed


def test_what_the_name_does_not_tell_is_told_by_the_first_character(tmp_path):
    for text in (to_yaml(RECIPE).encode(), RECIPE.encode()):
        (tmp_path / "recipe").write_bytes(text)
        assert Recipe.read(tmp_path / "recipe") == RECIPE


def test_yaml_leaves_out_what_would_be_so_without():
    text = to_yaml(Recipe(base="b", tasks=[Task("a", "ft-a")], strategy="ties"))
    assert text == "base: b\ntasks:\n- {name: a, path: ft-a}\nstrategy: ties\n"


def test_a_file_that_exists_or_is_of_no_kind_is_not_written(tmp_path):
    RECIPE.write(tmp_path / "r.yaml")
    with pytest.raises(FileExistsError):
        RECIPE.write(tmp_path / "r.yaml")
    with pytest.raises(BadValue, match="neither YAML nor JSON"):
        RECIPE.write(tmp_path / "r.toml")


BASE = {"base": "b", "tasks": [{"name": "a", "path": "x"}], "strategy": "ties"}


@pytest.mark.parametrize(
    ("change", "fact", "where", "nearest"),
    [
        ({"sead": 1}, "unknown key 'sead'", None, "seed"),
        ({"rule": []}, "unknown key 'rule'", None, "rules"),
        ({"rules": [{}, {"mach": "*"}]}, "unknown key 'mach'", "rule 2", "match"),
        ({"rules": [{"match": {"regx": "*"}}]}, "unknown key 'regx'", "rule 1, match", "regex"),
        ({"rules": [{"match": [{"reg": "*"}]}]}, "unknown key 'reg'", "rule 1, match", "regex"),
        ({"rules": [{"mask": {"nme": "x"}}]}, "unknown key 'nme'", "rule 1, mask", "name"),
        ({"mask": {"name": "x", "setings": {}}}, "unknown key 'setings'", "mask", "settings"),
        ({"tasks": [{"name": "a", "weigth": 1}]}, "unknown key 'weigth'", "task 1", "weight"),
        ({"rules": [{"exclude": "yes"}]}, "expected `bool`", "rule 1, exclude", None),
        ({"scale": "big"}, "expected `float", "scale", None),
        ({"tasks": [{"path": "a"}]}, "required field `name`", "task 1", None),
        ({"rules": {"match": "*"}}, "expected `array`", "rules", None),
    ],
)
def test_an_unknown_key_or_another_type_is_refused_where_it_is(
    change, fact, where, nearest, tmp_path
):
    (tmp_path / "r.json").write_text(json.dumps({**BASE, **change}))
    with pytest.raises(BadFile, match=fact) as caught:
        Recipe.read(tmp_path / "r.json")
    expected = str(tmp_path / "r.json") + (f", {where}" if where else "")
    assert caught.value.where.startswith(expected)
    if nearest:
        assert f"did you mean {nearest!r}?" == caught.value.remedy
