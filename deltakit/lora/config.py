"""adapter_config.json: read strictly, so that nothing that changes the weights is passed over."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from deltakit.errors import BadFile, some
from deltakit.lora.known_fields import DEFAULTS, UNDERSTOOD, WITHOUT_EFFECT
from deltakit.lora.patterns import Patterns
from deltakit.tensors.files import LOCAL, Files
from deltakit.tensors.index import read_json
from deltakit.tensors.sidecars import ADAPTER_CONFIG

_MOST_BYTES = 10_000_000

# Initialisations that leave the base as it is; all others were trained on a changed base.
_PLAIN_INIT = (True, False, None, "gaussian", "eva", "orthogonal", "mica")


class AdapterConfig(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The fields of a PEFT LoRA config that say what its tensors mean.

    >>> config = AdapterConfig.of({"peft_type": "LORA", "r": 4, "lora_alpha": 8})
    >>> config.rank("model.q_proj"), config.scaling("model.q_proj")
    (4, 2.0)

    `fields` holds the whole table as it was read. Raises BadFile, naming the field, for every one
    that is not understood and not at its default.
    """

    r: int = 8
    lora_alpha: float = 8
    use_rslora: bool = False
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}
    fan_in_fan_out: bool = False
    bias: str = "none"
    lora_bias: bool = False
    use_dora: bool = False
    modules_to_save: list[str] | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None
    fields: dict[str, Any] = {}

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> AdapterConfig:
        """Return the config that a table of fields holds."""
        if table.get("peft_type") != "LORA":
            raise BadFile(
                "not a LoRA adapter",
                expected='"peft_type": "LORA"',
                got=f"{table.get('peft_type')!r}"[:80],
                remedy="only LoRA (rsLoRA, DoRA) is read; merge others into their base with peft",
            )
        _refuse_unsupported(table)
        chosen = {k: v for k, v in table.items() if k in cls.__struct_fields__ and v is not None}
        try:
            config = msgspec.convert({**chosen, "fields": dict(table)}, cls)
        except msgspec.ValidationError as error:
            raise BadFile(f"a field has an impossible value: {error}") from None
        ranks, alphas = config.rank_pattern.values(), config.alpha_pattern.values()
        if config.r < 1 or any(rank < 1 for rank in ranks):
            raise BadFile("a rank is not above 0", got=f"r {config.r}, {some(map(str, ranks))}")
        if not all(map(math.isfinite, (config.lora_alpha, *alphas))):
            raise BadFile("a lora_alpha is not a finite number")
        for name in ("rank", "alpha"):
            try:
                getattr(config, f"_{name}s")
            except BadFile as error:
                raise error.at(f"{name}_pattern") from None
        if config.bias not in ("none", "all", "lora_only"):
            raise BadFile(f"unknown bias {config.bias!r}", expected="none, all or lora_only")
        return config

    @classmethod
    def read(cls, folder: Path, files: Files = LOCAL) -> AdapterConfig:
        """Return the config of an adapter's folder."""
        path = folder / ADAPTER_CONFIG
        table = read_json(path, files, _MOST_BYTES)
        if not isinstance(table, dict):
            raise BadFile(f"{ADAPTER_CONFIG} is not a JSON object", where=str(path))
        try:
            return cls.of(table)
        except BadFile as error:
            raise error.at(str(path)) from None

    def rank(self, module: str) -> int:
        """Return the rank of a module: that of the first pattern that matches, else `r`."""
        return self._ranks.get(module, self.r)

    def alpha(self, module: str) -> float:
        return self._alphas.get(module, self.lora_alpha)

    @cached_property
    def _ranks(self) -> Patterns[int]:
        return Patterns(self.rank_pattern)

    @cached_property
    def _alphas(self) -> Patterns[float]:
        return Patterns(self.alpha_pattern)

    def scaling(self, module: str) -> float:
        """Return what B A is multiplied by: alpha / r, or alpha / sqrt(r) with rsLoRA."""
        rank = self.rank(module)
        return self.alpha(module) / (math.sqrt(rank) if self.use_rslora else rank)


def config_bytes(changed: Mapping[str, Any]) -> bytes:
    """Return adapter_config.json as PEFT writes it, with these fields and all others at default."""
    return json.dumps({**DEFAULTS, **changed}, indent=2, sort_keys=True).encode()


def _refuse_unsupported(table: Mapping[str, Any]) -> None:
    for name, value in sorted(table.items()):
        if name == "init_lora_weights" and not any(value is known for known in _PLAIN_INIT[:3]):
            _check_init(value)
        if name in UNDERSTOOD or name in WITHOUT_EFFECT:
            continue
        if value not in (None, False, {}, [], DEFAULTS.get(name)):
            known = name in DEFAULTS
            raise BadFile(
                f"{name} is set, which deltakit does not support"
                if known
                else f"unknown field {name!r}, which may change what the weights mean",
                expected=f"{json.dumps(DEFAULTS[name])}" if known else "its absence, or null",
                got=json.dumps(value)[:80],
                remedy="merge this adapter into its base with peft (merge_and_unload),"
                " and use the model",
            )


def _check_init(value: Any) -> None:
    if value in _PLAIN_INIT:
        return
    raise BadFile(
        f"init_lora_weights {str(value)[:40]!r} changed the base model at initialisation",
        expected="an adapter to the original base",
        remedy="save it converted: peft save_pretrained(..., "
        "path_initial_model_for_weight_conversion=...)",
    )
