"""Reading an adapter's folder as PEFT writes it."""

from __future__ import annotations

from pathlib import Path

from deltakit.errors import BadFile, DeltakitError, NotFound, some
from deltakit.lora.adapter import Adapter, Kind, Part, Rows
from deltakit.lora.config import AdapterConfig
from deltakit.lora.layout import FLOATS, TENSORS_NAME, Role, parse_key
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.files import LOCAL, Files
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.index import check_link
from deltakit.tensors.reader import SafetensorsFile
from deltakit.tensors.sidecars import ADAPTER_CONFIG


def is_peft_folder(path: Path) -> bool:
    return (path / ADAPTER_CONFIG).exists()


def open_peft(folder: Path, files: Files = LOCAL) -> Adapter:
    """Open an adapter's folder; reads the config and the header.

    Raises NotFound, and BadFile naming the field or tensor for whatever is not understood, for a
    rank that the config and the tensors do not agree on, and for factors that do not fit.
    """
    config = AdapterConfig.read(folder, files)
    file = folder / TENSORS_NAME
    if not file.exists():
        _refuse_other_weights(folder)
    file = check_link(file, folder)
    source = Checkpoint(file, [SafetensorsFile(file, files)], files)
    try:
        return read_adapter(folder, source, config)
    except DeltakitError as error:
        source.close()
        raise error.at(str(file)) from None


def _refuse_other_weights(folder: Path) -> None:
    pickle = folder / "adapter_model.bin"
    if pickle.exists():
        raise BadFile(
            "adapter_model.bin is a pickle, which can run code when it is read",
            where=str(folder),
            expected=TENSORS_NAME,
            remedy="convert it: load the adapter with peft and save_pretrained it again",
        )
    raise NotFound("the adapter has no weights", where=str(folder), expected=TENSORS_NAME)


def read_adapter(path: Path, source: Checkpoint, config: AdapterConfig) -> Adapter:
    """Return the adapter that tensors named as PEFT does make up."""
    found: dict[str, dict[Role, str]] = {}
    whole: dict[str, str] = {}
    rows: dict[str, Rows] = {}
    for name, info in source.infos.items():
        if info.dtype not in FLOATS:
            raise BadFile(f"the tensor {name!r} is {info.dtype}", expected=some(FLOATS))
        role, target = parse_key(name)
        if role == "whole":
            if target in whole:
                raise BadFile(f"the parameter {target!r} is kept twice")
            whole[target] = name
        elif role == "rows":
            rows[f"{target}.weight"] = Rows(name, _indices(config, target, info))
        else:
            found.setdefault(target, {})[role] = name
    parts = {module: _part(module, found[module], source, config) for module in sorted(found)}
    if not parts and not whole and not rows:
        raise BadFile("the adapter holds no tensors")
    return Adapter(path, source, config, parts, whole, rows)


def _part(module: str, names: dict[Role, str], source: Checkpoint, config: AdapterConfig) -> Part:
    embedding = "embedding_a" in names or "embedding_b" in names
    a, b = (
        names.get("embedding_a" if embedding else "a"),
        names.get("embedding_b" if embedding else "b"),
    )
    if a is None or b is None or (embedding and {"a", "b", "bias"} & set(names)):
        raise BadFile(f"the adapter of {module!r} is not a pair of factors", got=some(names))
    shape_a, shape_b = source.infos[a].shape, source.infos[b].shape
    check_factors(module, shape_a, shape_b)
    rank = shape_a[0]
    if rank != config.rank(module):
        raise BadFile(
            f"{ADAPTER_CONFIG} and the tensors of {module!r} do not agree on the rank",
            expected=f"{config.rank(module)}, as in {ADAPTER_CONFIG}",
            got=f"{rank}",
            remedy="give the config that was saved with these tensors",
        )
    for role, flag in (("bias", config.lora_bias), ("magnitude", config.use_dora)):
        tensor = names.get(role)  # type: ignore[call-overload]
        if (tensor is None) == flag and not (flag and embedding and role == "bias"):
            field = "lora_bias" if role == "bias" else "use_dora"
            raise BadFile(f"{field} is {flag}, and {module!r} has {'no' if flag else 'a'} {role}")
        if tensor is not None and source.infos[tensor].numel != shape_b[0]:
            raise BadFile(
                f"the {role} of {module!r} does not fit its outputs",
                expected=f"{shape_b[0]} numbers",
                got=f"{list(source.infos[tensor].shape)}",
            )
    kind: Kind = "embedding" if embedding else "linear" if len(shape_a) == 2 else "conv"
    return Part(
        module,
        kind,
        rank,
        config.scaling(module),
        shape_b[0],
        shape_a[1:],
        a,
        b,
        names.get("bias"),
        names.get("magnitude"),
    )


def check_factors(module: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    """Raise BadFile unless A (r, ...) and B (out, r[, 1, 1]) are the factors of one delta."""
    ones = set(b[2:]) <= {1}
    if len(a) < 2 or len(a) != len(b) or 0 in a or 0 in b or not ones:
        raise BadFile(
            f"the factors of {module!r} have impossible shapes",
            expected="A (r, inputs), B (outputs, r)",
            got=f"A {list(a)}, B {list(b)}",
            remedy="a flat or empty factor was saved from a sharded model: gather it, save again",
        )
    if a[0] != b[1]:
        grouped = len(a) > 2 and a[0] % b[1] == 0
        raise BadFile(
            f"{module!r} is a grouped convolution, which is not supported"
            if grouped
            else f"the factors of {module!r} have different ranks",
            got=f"A {list(a)}, B {list(b)}",
        )


def _indices(config: AdapterConfig, module: str, info: TensorInfo) -> tuple[int, ...]:
    given = config.trainable_token_indices
    if isinstance(given, dict):
        ends = [key for key in given if module == key or module.endswith(f".{key}")]
        given = given[ends[0]] if len(ends) == 1 else None
    if given is None or len(info.shape) != 2 or info.shape[0] != len(given):
        raise BadFile(
            f"trainable_token_indices does not fit the rows kept of {module!r}",
            expected=f"{info.shape[0] if info.shape else 0} indices",
            got="none" if given is None else f"{len(given)}",
        )
    if len(set(given)) != len(given) or min(given, default=0) < 0:
        raise BadFile("trainable_token_indices names a row twice, or a negative one")
    return tuple(given)
