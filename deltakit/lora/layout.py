"""The names of an adapter's tensors, as PEFT writes them."""

from __future__ import annotations

from typing import Literal, NamedTuple

from deltakit.errors import BadFile

PREFIX = "base_model.model."
TENSORS_NAME = "adapter_model.safetensors"
FLOATS = ("F64", "F32", "F16", "BF16")  # what an adapter's tensors may be

Role = Literal["a", "b", "bias", "embedding_a", "embedding_b", "magnitude", "rows", "whole"]

_ROLES: dict[str, Role] = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_B.bias": "bias",
    ".lora_embedding_A": "embedding_a",
    ".lora_embedding_B": "embedding_b",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",  # as older versions wrote it
    ".token_adapter.trainable_tokens_delta": "rows",
}
_ENDS: dict[Role, str] = {role: end for end, role in reversed(_ROLES.items())}
_STRANGE = (".lora_", ".hada_", ".lokr_", ".modules_to_save.", ".original_module.", ".base_layer.")


class Key(NamedTuple):
    """What a tensor's name says: its role, and the module (for "whole": the parameter)."""

    role: Role
    target: str


def parse_key(name: str) -> Key:
    """Return what a tensor of an adapter is.

    >>> parse_key("base_model.model.lm_head.lora_A.weight")
    Key(role='a', target='lm_head')
    >>> parse_key("base_model.model.model.embed_tokens.base_layer.weight")
    Key(role='whole', target='model.embed_tokens.weight')

    A plain name is a parameter kept whole (modules_to_save, bias). Raises BadFile for a name
    that is neither.
    """
    if not name.startswith(PREFIX):
        raise BadFile(f"the tensor {name!r} is not named as PEFT does", expected=f"{PREFIX}...")
    rest = name[len(PREFIX) :]
    for end, role in _ROLES.items():
        if rest.endswith(end):
            return Key(role, rest[: -len(end)])
    module, _, parameter = rest.rpartition(".")
    if module.endswith(".base_layer"):  # PEFT keeps biases, and adapted embeddings, in there
        rest = f"{module.removesuffix('.base_layer')}.{parameter}"
    if any(word in f".{rest}" for word in _STRANGE):
        raise BadFile(
            f"the tensor {name!r} is of no kind that PEFT writes for a LoRA",
            remedy="save the adapter with save_pretrained of peft",
        )
    return Key("whole", rest)


def key_of(role: Role, target: str) -> str:
    """Return the name of a tensor.

    >>> key_of("embedding_b", "model.embed_tokens")
    'base_model.model.model.embed_tokens.lora_embedding_B'
    """
    return PREFIX + target + _ENDS.get(role, "")
