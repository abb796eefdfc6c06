"""config.json of a stacked model: how many layers there are, and what is said of each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deltakit.errors import BadValue
from deltakit.stacking.stack import Level

_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
# Lists of the numbers of layers.
_NUMBERS = (
    "mlp_only_layers",
    "full_attn_idxs",
    "attn_layer_indices",
    "cross_attention_layers",
    "moe_layers",
    "hybrid_layer_ids",
)
# What a layer is by its number, of keys that count from the first: value, number -> kind.
_Kind = Callable[[int, int], bool]
_KINDS: dict[str, _Kind] = {
    "sliding_window_pattern": lambda every, n: (n + 1) % every == 0,
    "full_attention_interval": lambda every, n: (n + 1) % every == 0,
    "global_attn_every_n_layers": lambda every, n: n % every == 0,
    "no_rope_layer_interval": lambda every, n: (n + 1) % every == 0,
    "interleave_moe_layer_step": lambda every, n: (n + 1) % every == 0,
    "decoder_sparse_step": lambda every, n: (n + 1) % every == 0,
    "moe_layer_freq": lambda every, n: n % every == 0,
    "attn_layer_period": lambda every, n: n % every == 0,
    "expert_layer_period": lambda every, n: n % every == 0,
    "first_k_dense_replace": lambda first, n: n < first,
    "max_window_layers": lambda first, n: n >= first,
    "num_kv_shared_layers": lambda last, n: bool(last),
}
_SAID_BY = {  # where such a list is there, the key beside it decides nothing
    "sliding_window_pattern": "layer_types",
    "full_attention_interval": "layer_types",
    "max_window_layers": "layer_types",
    "no_rope_layer_interval": "no_rope_layers",
    "interleave_moe_layer_step": "moe_layers",
}
# What transformers takes where the config does not say.
_UNSAID = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4}

Config = Mapping[str, Any]


def stacked_config(
    config: Config, layers: int, levels: Sequence[Level], configs: Mapping[str, Config]
) -> dict[str, Any]:
    """Return the config of a stack on a base of so many layers.

    >>> levels = [Level(0, "base", n, {}) for n in (0, 1, 0, 1)]
    >>> stacked_config({"num_hidden_layers": 2, "layer_types": ["a", "b"]}, 2, levels, {})
    {'num_hidden_layers': 4, 'layer_types': ['a', 'b', 'a', 'b']}

    `configs` are those of the models that layers are taken from, or that are a slice's base. The
    number of layers and lists with an entry a layer follow the stack. Raises BadValue for a key by
    which a layer would be of another kind where it now stands.
    """
    made = copy.deepcopy(dict(config))
    part = _part(made, layers)
    each = {name: _part(dict(other), None) for name, other in configs.items()}
    own = dict(part)

    def of(level: Level) -> Config:
        return each.get(level.model, own)

    for key, value in own.items():
        if key in _COUNTS:
            part[key] = len(levels)
        elif key in _NUMBERS and isinstance(value, list):
            part[key] = [
                n for n, level in enumerate(levels) if level.layer in _list(of(level), key)
            ]
        elif isinstance(value, list) and len(value) == layers and _speaks_of_layers(key):
            part[key] = [_entry(of(level), key, level.layer) for level in levels]
    for key in _KINDS:
        _check_kind(key, own, levels, of)
    if own.get("max_window_layers") == layers:
        part["max_window_layers"] = len(levels)
    return made


def differences(base: Config, other: Config) -> list[str]:
    """Return the keys, of those both have, that two models' configs say otherwise of."""
    ours, theirs = _part(dict(base), None), _part(dict(other), None)
    plain = (key for key in sorted(set(ours) & set(theirs)) if not _may_differ(key))
    return [key for key in plain if ours[key] != theirs[key]]


def _may_differ(key: str) -> bool:
    """Tell whether a key says nothing of what a layer computes, or follows the stack."""
    return (
        key in (*_COUNTS, *_NUMBERS, *_KINDS)
        or key.startswith("_")
        or key.endswith(("dtype", "version", "_token_id"))
        or _speaks_of_layers(key)
        or key in ("architectures", "use_cache", "vocab_size", "tie_word_embeddings", "id2label")
        or key in ("label2id", "max_position_embeddings", "pad_token_id", "text_config")
    )


def _part(config: dict[str, Any], layers: int | None) -> dict[str, Any]:
    """Return the config, or the part of it, that gives the number of layers."""
    text = config.get("text_config")
    parts = [config, *([text] if isinstance(text, dict) else [])]
    for part in parts:
        if any(key in part and layers in (None, part[key]) for key in _COUNTS):
            return part
    if layers is None:
        return config
    raise BadValue(
        "config.json does not give the number of layers, which changes",
        expected=f"{_COUNTS[0]} {layers}, as many as there are",
        got=", ".join(f"{key} {config[key]}" for key in _COUNTS if key in config) or None,
        remedy="write it there, as the model has it",
    )


def _speaks_of_layers(key: str) -> bool:
    return any(word in key for word in ("layer", "block", "attn", "attention"))


def _list(config: Config, key: str) -> list[Any]:
    found = config.get(key)
    return found if isinstance(found, list) else []


def _entry(config: Config, key: str, layer: int) -> Any:
    found = _list(config, key)
    if layer >= len(found):
        raise BadValue(
            f"{key} of config.json has an entry for each layer of the base, and not of a model"
            " that layers are taken from",
            got=f"{len(found)} entries, and layer {layer} is taken",
            remedy=f"write {key} into that model's config.json",
        )
    return found[layer]


def _check_kind(
    key: str, own: Config, levels: Sequence[Level], of: Callable[[Level], Config]
) -> None:
    """Raise BadValue where a key would say another thing of some layer where it now stands."""
    for number, level in enumerate(levels):
        here = _is(key, own, number)
        if here != _is(key, of(level), level.layer):
            raise BadValue(
                f"{key} of config.json counts layers, and a layer that is moved would change",
                where=f"layer {number} of the output, {level.layer} of {level.model}",
                got=f"{key} {_value(key, own)}",
                remedy="move layers by a multiple of it, or merge without slices",
            )


def _is(key: str, config: Config, number: int) -> bool:
    value = _value(key, config)
    return bool(value) and _KINDS[key](value, number)


def _value(key: str, config: Config) -> int:
    """Return what a key says; 0 where it says nothing."""
    if config.get(_SAID_BY.get(key, "")) is not None:
        return 0
    if key == "max_window_layers" and not config.get("use_sliding_window"):
        return 0
    found = config.get(key)
    if found is None and key == "sliding_window_pattern":
        found = config.get(f"_{key}", _UNSAID.get(str(config.get("model_type")), 0))
    return found if type(found) is int and found > 0 else 0
