"""The page on recipes shows one that is read, and names every key there is."""

import re
from pathlib import Path

from deltakit.recipe import ModelLayers, Recipe, Rule, Rules, Slice, Task, TokenRow
from deltakit.recipe.text import parse

PAGE = (Path(__file__).parent.parent / "docs" / "recipes.md").read_text()


def test_its_recipe_means_what_it_says():
    text, _ = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    recipe = Recipe.of(parse(text.encode(), is_yaml=True)).checked()
    names = [
        f"h.{n}.{part}.weight" for n in range(8) for part in ("mlp.up", "attn.v", "attn.q_proj")
    ]
    rules = Rules(recipe, [*names, "norm.weight"])
    assert not rules.merges("norm.weight")
    assert rules.effective("h.5.mlp.up.weight").method.strategy.density == 0.2
    assert rules.effective("h.5.attn.q_proj.weight").weights == (1.0, 2.0)
    assert rules.number("h.6.attn.q_proj.weight") == 3
    assert rules.effective("h.7.attn.v.weight").scale == 0.5


def test_it_names_every_key():
    for struct in (Recipe, Rule, Task, Slice, ModelLayers):
        for key in struct.__struct_fields__:
            assert f"`{key}`" in PAGE or f"{key}: " in PAGE, key


def test_the_page_on_vocabularies_names_every_key_of_a_token_s_row():
    page = (Path(__file__).parent.parent / "docs" / "vocabulary.md").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    tasks = {"base": "b", "tasks": [{"name": "chat", "path": "c"}], "strategy": "ties"}
    recipe = Recipe.of({**tasks, **parse(text.encode(), is_yaml=True)}).checked()
    assert recipe.tokens["<tool>"] == TokenRow(source="base", like="<|im_start|>")
    for key in TokenRow.__struct_fields__:
        assert f"| `{key}` |" in page
