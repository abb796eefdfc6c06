"""The shape of mergekit's configuration, and how it finds the value of a parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from deltakit.errors import BadFile

Parameters = dict[str, Any]


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model of a merge, or some of its layers: from the first up to but not with the last."""

    model: Any
    layer_range: tuple[int, int] | None = None
    parameters: Parameters | None = None


class Slice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Layers of the output, and what they are made of."""

    sources: list[Source]
    base_model: Any = None
    residual_weight: float | None = None
    parameters: Parameters | None = None


class Module(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of the parts that a model is made of, which most have one of."""

    slices: list[Slice] | None = None
    models: list[Source] | None = None
    parameters: Parameters | None = None


class ZeroEmbedding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token's row of zeros."""

    kind: str


class ModelToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The row of some token of a model."""

    kind: str
    model: Any
    token_id: int | None = None
    token: str | None = None


class TokenEmbedding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose row a token has, in the models that lack it or in all."""

    source: Any = None
    force: bool = False


class Tokenizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the output's tokens come from."""

    source: Any = "union"
    tokens: dict[str, TokenEmbedding] | None = None
    pad_to_multiple_of: int | None = None


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mergekit configuration."""

    merge_method: str
    models: list[Source] | None = None
    slices: list[Slice] | None = None
    modules: dict[str, Module] | None = None
    base_model: Any = None
    parameters: Parameters | None = None
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer_source: Any = None
    tokenizer: Tokenizer | None = None
    chat_template: str | None = None

    @property
    def shared(self) -> list[Parameters | None]:
        """The parameters of all slices, the nearest first."""
        return [*(part.parameters for part in (self.modules or {}).values()), self.parameters]

    def in_one_module(self) -> Config:
        """Return the configuration with the slices or models of its one module as its own.

        Several that say the same of models are one: the whole model.
        """
        if self.modules is None:
            return self
        only, *more = self.modules.values() or [Module()]
        if any(other != only or other.slices is not None for other in more):
            raise BadFile(
                "modules: a model of several parts cannot be merged otherwise part by part",
                got=", ".join(self.modules),
                remedy="merge it whole, with models; filters, or rules of a recipe, give a part"
                " other settings",
            )
        if (only.slices is None) == (only.models is None):
            raise BadFile("modules: exactly one of models and slices is to be in one")
        return msgspec.structs.replace(self, slices=only.slices, models=only.models)


def is_mergekit(data: Any) -> bool:
    """Tell whether plain data is a mergekit configuration.

    >>> is_mergekit({"merge_method": "ties"}), is_mergekit({"strategy": "ties"})
    (True, False)
    """
    return isinstance(data, dict) and "merge_method" in data


def filters(setting: Any) -> list[str]:
    """Return the filters that a parameter's value depends on.

    >>> filters([{"filter": "mlp", "value": 0.5}, {"value": 1}])
    ['mlp']
    """
    each = setting if isinstance(setting, list) else [setting]
    named = [part["filter"] for part in each if isinstance(part, dict) and part.get("filter")]
    return [text for text in named if text != "*"]


def value_of(key: str, scopes: Sequence[Parameters | None], matched: frozenset[str]) -> Any:
    """Return a parameter's value where these filters match, from the first scope that has one.

    A list of numbers stays one: a gradient. None where no scope says anything.
    """
    for scope in scopes:
        if scope is not None and key in scope:
            found = _chosen(key, scope[key], matched)
            if found is not None:
                return found
    return None


def _chosen(key: str, setting: Any, matched: frozenset[str]) -> Any:
    parts = setting if isinstance(setting, list) else [setting]
    if not any(isinstance(part, dict) for part in parts):
        return _plain(key, setting)
    for part in parts:
        if not isinstance(part, dict) or "value" not in part or set(part) - {"value", "filter"}:
            raise BadFile(f"{key} mixes values with filters", expected="{filter: .., value: ..}")
        if part.get("filter") in (None, "", "*") or part["filter"] in matched:
            return _plain(key, part["value"])
    return None


def _plain(key: str, value: Any) -> Any:
    """Return a value as YAML 1.2 has it, an empty list as none."""
    if isinstance(value, list):
        if not all(type(entry) in (int, float) for entry in value):
            raise BadFile(f"{key} runs over depth by other than numbers", got=f"{value}"[:80])
        return [float(entry) for entry in value] or None
    return value
