"""How low-rank the delta of a full fine-tune is: module by module, before anything is written."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence

from deltakit.delta_source import check_alike, merged_names
from deltakit.errors import BadValue
from deltakit.lora.adapter import Kind
from deltakit.lora.changed import ROWS, Changed, leading, left_out
from deltakit.lora.cut import Size, decompose
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.quantised import refuse_quantised, refuse_scaled
from deltakit.threads import one_torch_thread, run_all

THREADS = 2
DEFAULT_RANK = 16
SHOWN = (4, 8, 16, 32, 64, 128)  # ranks a survey can tell the quality of
_EMBEDDINGS = (  # whose names do not hold "emb"
    "shared",
    "wte",
    "wpe",
    "relative_attention_bias",
    "global_relative_attention_bias",
    "pe_k",
    "mask_tokens",
    "iou_token",
    "obj_score_token",
)
_HEAD = "embed_out"  # GPT-NeoX's, which is no embedding
_CONV1D = ("c_attn", "c_proj", "c_fc", "q_attn")  # GPT-2 holds these as (inputs, outputs)

Progress = Callable[[str, int], None]


def survey(
    base: Checkpoint,
    tuned: Checkpoint,
    wanted: Size,
    *,
    hold: int = 0,
    progress: Progress | None = None,
) -> tuple[list[Changed], list[str]]:
    """Return what a fine-tune changed, sorted by name, and notes; one tensor a thread in memory.

    wanted: how many singular values to look at, or the share of energy they are to hold. hold:
    bytes of factors to keep at most; others are found again. Raises what `check_alike` raises,
    BadValue where nothing differs, NonFinite for NaN or infinity.
    """
    notes = check_alike(base.infos, tuned.infos, tuned.label)
    names = merged_names(base.infos)
    refuse_scaled(base, base.infos)
    refuse_quantised(base, names)
    found: dict[str, Changed] = {}
    lock = threading.Lock()

    def look(name: str) -> None:
        nonlocal hold
        changed = _look(name, base, tuned, wanted)
        with lock:
            if changed is not None:
                hold -= sum(f.nbytes for f in changed.held or ())
                found[name] = changed if hold >= 0 else dataclasses.replace(changed, held=None)
        if progress:
            progress(name, 2 * base.infos[name].nbytes)

    with one_torch_thread():
        run_all(look, iter(names), THREADS)
    if not found:
        raise BadValue(
            "nothing to extract: the model equals the base",
            where=tuned.label,
            remedy="check that the model is a fine-tune of this base",
        )
    return [found[name] for name in sorted(found)], notes


def _look(name: str, base: Checkpoint, tuned: Checkpoint, wanted: Size) -> Changed | None:
    shape = base.infos[name].shape
    kind, turned = _kind(name, shape, base)
    rows, inputs = (shape[1], shape[:1]) if turned else (shape[0] if shape else 1, shape[1:])
    matrix = Changed(name, kind, rows, inputs, 0.0, turned=turned)
    delta = matrix.dense(base, tuned)
    total = float(sum(part.double().square().sum() for part in delta.split(ROWS)))
    matrix = dataclasses.replace(matrix, energy=total)
    if kind is None or total == 0.0:
        return matrix if total else None
    size = wanted if wanted.rank is None else Size(min(wanted.rank, matrix.most))
    spectrum = decompose(delta, size)[0]
    squares = tuple(spectrum.sigma[: size.rank].double().square().tolist())
    matrix = dataclasses.replace(matrix, squares=squares, wanted=size)
    rank = size.rank or _enough(matrix, size.energy or 1.0)
    factors = leading(spectrum, rank)
    return dataclasses.replace(matrix, rank=rank, left=left_out(delta, factors), held=factors)


def _kind(name: str, shape: Sequence[int], base: Checkpoint) -> tuple[Kind | None, bool]:
    """Return what kind of module holds a weight, and whether it is (inputs, outputs)."""
    module = name.removesuffix(".weight").rpartition(".")[2]
    if not name.endswith(".weight") or len(shape) < 2:
        return None, False
    if len(shape) > 2:
        return "conv", False
    if _embeds(name):
        return None, False
    turned = base.config().get("model_type") == "gpt2" and module in _CONV1D
    return "linear", turned


def _embeds(name: str) -> bool:
    """Tell whether a matrix is an embedding by its module's name, the number in a list left out.

    PEFT would look for its factors under other names. A linear layer called an embedding is kept
    whole too, which is right as well, and larger.
    """
    parts = name.removesuffix(".weight").split(".")
    module = next((part for part in reversed(parts) if not part.isdigit()), "")
    return module in _EMBEDDINGS or ("emb" in module and module != _HEAD)


def choose_ranks(
    changed: Sequence[Changed], size: Size, nbytes: int | None, itemsize: int
) -> Mapping[str, int]:
    """Return the rank of each module that gets one, by name.

    nbytes: the factors' size at most; the ranks that hold the most energy for their bytes are
    taken first, over all modules.
    """
    matrices = [found for found in changed if found.kind is not None]
    if size.energy is not None:
        return {found.name: _enough(found, size.energy) for found in matrices}
    if nbytes is None:
        rank = size.rank or DEFAULT_RANK
        return {found.name: min(rank, found.most) for found in matrices}
    units = sorted(
        (
            (-square / found.unit, found.name, found.unit)
            for found in matrices
            for square in found.squares
        ),
    )
    ranks = dict.fromkeys((found.name for found in matrices), 0)
    left = nbytes // itemsize
    for _, name, unit in units:
        if unit > left:
            break
        ranks[name] += 1
        left -= unit
    if not any(ranks.values()):
        raise BadValue("the size holds no rank of any module", got=f"{nbytes} bytes")
    return ranks


def _enough(found: Changed, energy: float) -> int:
    held = 0.0
    for rank, square in enumerate(found.squares, 1):
        held += square
        if held >= energy * found.energy * (1.0 - 1e-7):
            return rank
    return len(found.squares)
