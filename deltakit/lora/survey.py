"""How low-rank the delta of a full fine-tune is: module by module, before anything is written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from deltakit.delta_source import check_alike, merged_names
from deltakit.engine.threads import one_torch_thread, run_all
from deltakit.errors import BadValue, NonFinite
from deltakit.lora.adapter import Kind
from deltakit.lora.cut import Size, decompose
from deltakit.lora.finite import all_finite
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.dtypes import working_dtype
from deltakit.tensors.quantised import refuse_quantised, refuse_scaled

if TYPE_CHECKING:
    from torch import Tensor

THREADS = 2
SHOWN = (4, 8, 16, 32, 64, 128)  # ranks a survey can tell the quality of
_EMBEDDINGS = (
    "embed_tokens",
    "wte",
    "wpe",
    "word_embeddings",
    "position_embeddings",
    "shared",
    "token_type_embeddings",
    "tok_embeddings",
    "embed_in",
)
_CONV1D = ("c_attn", "c_proj", "c_fc", "q_attn")  # GPT-2 holds these as (inputs, outputs)

Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Changed:
    """A parameter that the fine-tune changed: how much, and its leading singular values."""

    name: str
    kind: Kind | None  # None for what no LoRA can hold: norms, biases, embeddings
    outputs: int
    inputs: tuple[int, ...]
    energy: float  # squared norm of its delta
    squares: tuple[float, ...] = ()  # of the singular values, the largest first
    turned: bool = False

    @property
    def module(self) -> str:
        return self.name.removesuffix(".weight")

    @property
    def unit(self) -> int:
        """Numbers that one rank takes."""
        return self.outputs + prod(self.inputs)

    @property
    def most(self) -> int:
        return min(self.outputs, prod(self.inputs))

    def kept(self, rank: int) -> float:
        """Return the energy that a rank keeps, of those the survey looked at."""
        return sum(self.squares[:rank])

    def dense(self, base: Checkpoint, tuned: Checkpoint) -> Tensor:
        """Return the delta as a matrix (outputs, inputs)."""
        dtype = working_dtype(base.infos[self.name].dtype)
        delta = tuned[self.name].to(dtype).sub_(base[self.name].to(dtype))
        if not all_finite(delta):
            raise NonFinite("the delta holds NaN or infinity", where=self.name)
        delta = delta.reshape(delta.shape[0], -1)
        return delta.T.contiguous() if self.turned else delta


def survey(
    base: Checkpoint,
    tuned: Checkpoint,
    *,
    values: int = 0,
    energy: float | None = None,
    progress: Progress | None = None,
) -> tuple[list[Changed], list[str]]:
    """Return what a fine-tune changed, sorted by name, and notes; one tensor a thread in memory.

    values: how many singular values to look at; energy: as many as hold this share. Raises what
    `check_alike` raises, BadValue where nothing differs, NonFinite for NaN or infinity.
    """
    notes = check_alike(base.infos, tuned.infos, tuned.label)
    names = merged_names(base.infos)
    refuse_scaled(base, base.infos)
    refuse_quantised(base, names)
    found: dict[str, Changed] = {}
    lock = threading.Lock()

    def look(name: str) -> None:
        changed = _look(name, base, tuned, values, energy)
        with lock:
            if changed is not None:
                found[name] = changed
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


def _look(
    name: str, base: Checkpoint, tuned: Checkpoint, values: int, energy: float | None
) -> Changed | None:
    shape = base.infos[name].shape
    kind, turned = _kind(name, shape, base)
    rows = shape[0] if shape else 1
    matrix = Changed(name, kind, rows, shape[1:], 0.0)
    if turned:
        matrix = Changed(name, kind, shape[1], (shape[0],), 0.0, turned=True)
    delta = matrix.dense(base, tuned) if shape else (tuned[name] - base[name]).reshape(1, 1)
    total = float(sum(part.double().square().sum() for part in delta.split(256)))
    if total == 0.0:
        return None
    squares: tuple[float, ...] = ()
    if kind is not None and (values or energy is not None):
        size = Size(energy=energy) if energy is not None else Size(rank=min(values, matrix.most))
        sigma = decompose(delta, size)[0].sigma.double().square().tolist()
        squares = tuple(sigma if energy is not None else sigma[:values])
    return Changed(name, kind, matrix.outputs, matrix.inputs, total, squares, turned)


def _kind(name: str, shape: Sequence[int], base: Checkpoint) -> tuple[Kind | None, bool]:
    """Return what kind of module holds a weight, and whether it is (inputs, outputs)."""
    module = name.removesuffix(".weight").rpartition(".")[2]
    if not name.endswith(".weight") or len(shape) < 2 or module in _EMBEDDINGS:
        return None, False
    if len(shape) > 2:
        return "conv", False
    turned = base.config().get("model_type") == "gpt2" and module in _CONV1D
    return "linear", turned


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
        rank = size.rank or 16
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
