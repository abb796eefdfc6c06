"""From mergekit's configuration to a recipe, and what is to be said about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deltakit.errors import BadFile, BadValue
from deltakit.mergekit import tokens
from deltakit.mergekit.config import Config
from deltakit.mergekit.layout import Layout, layout
from deltakit.mergekit.methods import method
from deltakit.mergekit.values import Values
from deltakit.recipe import Recipe, Rule, Task
from deltakit.recipe.checks import spelled_dtype
from deltakit.recipe.keys import convert
from deltakit.vocabulary import check_template


@dataclass(frozen=True)
class Translated:
    """A recipe, and where it is not to the letter what mergekit would do."""

    recipe: Recipe
    notes: list[str]


def translate(data: Any) -> Translated:
    """Return the recipe that means what a mergekit configuration means.

    Opens the models' headers, for their layers. Raises BadFile naming the key that has no
    counterpart.
    """
    given: Config = convert(data, Config)
    _refuse(given)
    config = given.in_one_module()
    found = layout(config)
    values = Values(config, found)
    own = values.own()
    notes = _notes(config, found, values)
    kind = config.out_dtype or config.dtype
    said = own or Rule(strategy="")
    tokenizer = tokens.tokenizer(config, found, notes)
    recipe = Recipe(
        base=found.base,
        tasks=[Task(name, path, said.weights.get(name, 1.0)) for name, path in found.tasks.items()],
        strategy=said.strategy or "",
        settings=said.settings,
        mask=said.mask or None,
        scale=1.0 if said.scale is None else said.scale,
        rules=_rules(values, own),
        slices=list(found.slices),
        models=dict(found.models),
        dtype=spelled_dtype(kind),
        tokenizer=tokenizer,
        tokens=tokens.rows(config, found, tokenizer),
        pad_to_multiple_of=tokens.multiple(config, tokenizer, notes),
        chat_template=config.chat_template,
    )
    return Translated(recipe, notes)


def _refuse(config: Config) -> None:
    """Raise BadFile for keys that are understood and cannot be done."""
    if sum(part is not None for part in (config.models, config.slices, config.modules)) != 1:
        raise BadFile("exactly one of models, slices and modules is to be there")
    template = config.chat_template
    if template is not None:
        try:
            check_template(template)
        except BadValue as error:
            raise BadFile(
                "chat_template: neither auto, a template, nor a name that is known here",
                expected=error.expected,
                got=error.got,
                remedy="write the template itself; mergekit's own are in its _data/chat_templates",
            ) from None
    if config.tokenizer is not None and config.tokenizer_source is not None:
        raise BadFile("tokenizer and tokenizer_source are both there", remedy="leave out one")


def _rules(values: Values, own: Rule | None) -> list[Rule]:
    """Return a rule for each kind of tensor of which not what the recipe says holds."""
    kinds = values.kinds()
    rules = []
    for kind in sorted(kinds, key=lambda kind: kind.order):
        rule = values.rule(kind, kinds[kind])
        if rule is not None and (kind.matched or own is None or not _same(rule, own)):
            rules.append(rule)
    return rules


def _same(rule: Rule, own: Rule) -> bool:
    fields = ("strategy", "settings", "mask", "scale", "weights", "factor")
    return all(getattr(rule, field) == getattr(own, field) for field in fields)


def _notes(config: Config, found: Layout, values: Values) -> list[str]:
    """Return where our reading is not to the letter mergekit's."""
    notes = list(method(config.merge_method).notes)
    if any(scope.get("int8_mask") for scope in values.scopes()):
        notes.append("int8_mask: makes no difference here, masks take no memory")
    if config.dtype is not None and not all(part.taken for part in found.parts):
        notes.append(
            f"dtype: {config.dtype} is what mergekit computes in; here arithmetic is float32,"
            f" rounded once to {config.out_dtype or config.dtype}"
        )
    if any(part.given.residual_weight is not None for part in found.parts):
        notes.append("residual_weight: without effect, as in mergekit, which reads it and no more")
    if len(config.modules or ()) > 1:
        notes.append("modules: they say the same, and the model is merged whole")
    if len(found.parts[0].ranges) < len(found.parts[-1].ranges):
        notes.append(
            "what comes after the layers is merged of all models of the last slice; mergekit leaves"
            " out some where the first slice has fewer"
        )
    if found.slices and config.base_model is None and (found.tasks or found.models):
        notes.append(
            "base_model is not given: config and tokenizer are those of the first slice's model,"
            f" {found.base}; mergekit takes them from any"
        )
    return notes
