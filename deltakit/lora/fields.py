"""The fields of a merged adapter's config: what all agree on, and the rest spelled out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deltakit.lora.kept import Kept
from deltakit.lora.union import Member

_TARGETS = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
_ORIGIN = ("auto_mapping", "base_model_name_or_path", "revision", "task_type")


def merged_fields(members: Sequence[Member], kept: Kept) -> tuple[dict[str, Any], list[str]]:
    """Return the config fields of the merged adapter beside its ranks, and notes on them.

    The choice of modules stays as it was written where all adapters agree on it, and becomes the
    list of all modules where they do not.
    """
    configs = [member.adapter.config for member in members]
    notes: list[str] = []
    fields: dict[str, Any] = {}
    for name in _ORIGIN:
        values = [config.fields.get(name) for config in configs]
        fields[name] = values[0] if all(value == values[0] for value in values) else None
        if fields[name] is None and name == "base_model_name_or_path" and any(values):
            told = ", ".join(dict.fromkeys(f"{value}" for value in values))
            notes.append(f"the adapters name different bases: {told}")
    fields |= _targets([config.fields for config in configs])
    fields["fan_in_fan_out"] = any(config.fan_in_fan_out for config in configs)
    biases = [config.bias for config in configs]
    fields["bias"] = next((b for b in ("all", "lora_only") if b in biases), "none")
    saved = {name for config in configs for name in config.modules_to_save or []}
    fields["modules_to_save"] = sorted(saved) or None
    fields["ensure_weight_tying"] = any(c.fields.get("ensure_weight_tying") for c in configs)
    if kept.rows:
        fields["trainable_token_indices"] = _indices(members, kept)
    return fields, notes


def _targets(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = {name: _ordered(tables[0].get(name)) for name in _TARGETS}
    listed = isinstance(first["target_modules"], list)
    same = all({n: _ordered(t.get(n)) for n in _TARGETS} == first for t in tables)
    return first if same and listed else {}


def _ordered(value: Any) -> Any:
    return (
        sorted(value)
        if isinstance(value, list) and all(isinstance(item, str) for item in value)
        else value
    )


def _indices(members: Sequence[Member], kept: Kept) -> list[int] | dict[str, list[int]]:
    given = [m.adapter.config.trainable_token_indices for m in members if m.adapter.rows]
    if len(kept.rows) == 1 and all(isinstance(value, list) for value in given):
        return list(next(iter(kept.rows.values())))
    return {name.removesuffix(".weight"): list(rows) for name, rows in kept.rows.items()}
