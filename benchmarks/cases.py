"""The merges whose speed is measured, and what each of them reads."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import synthetic
from benchmarks.command import Command
from deltakit.importance import ImportanceMap
from deltakit.store import Store
from deltakit.strategies import Method, get, names

DENSITIES = ("0.5", "0.1", "0.02", "0.001")
MASKS = {
    **{f"random_{part}": f"--mask sotu --p {1 - float(part):g} --seed 0" for part in DENSITIES},
    **{f"magnitude_{part}": f"--mask magnitude --density {part}" for part in DENSITIES},
}


@dataclass(frozen=True)
class Case:
    """A merge: the strategy with its settings, and where its deltas come from."""

    name: str
    strategy: str
    settings: str = ""
    mask: str | None = None  # of the stored deltas; without, the fine-tuned models are read
    importance: bool = False
    torch: bool = False  # whether it computes in torch, and so loads it
    experts: int | None = None  # where the strategy takes just so many

    @property
    def loads(self) -> str:
        """What `runner.py` is told to load before the clock starts."""
        return "--torch" if self.torch else ""

    @property
    def known(self) -> bool:
        """Whether this deltakit has the strategy."""
        return self.strategy in names()

    def words(self, inputs: Inputs) -> list[str]:
        """Return the words of the command, all but --out."""
        words = ["merge", *self._tasks(inputs), "--strategy", self.strategy]
        words += [word for setting in self.settings.split() for word in ("--set", setting)]
        if self.mask is None:
            words += ["--base", str(inputs.base)]
        else:
            words += ["--store", str(inputs.store)]
        for path in inputs.maps() if self.importance else ():
            words += ["--importance", str(path)]
        return words

    def files(self, inputs: Inputs) -> list[Path]:
        """Return the weight files that the merge has to read; makes those not there yet."""
        if self.mask is None:
            folders = [inputs.base, *inputs.experts[: self.experts]]
            return [path for folder in folders for path in _weights(folder)]
        tasks = self._tasks(inputs)
        store = Store.open(inputs.store)
        return [*_weights(inputs.base), *(store.task(task).delta_path for task in tasks)]

    def _tasks(self, inputs: Inputs) -> list[str]:
        if self.mask is None:
            return [str(path) for path in inputs.experts[: self.experts]]
        return inputs.tasks(self.mask)[: self.experts]


CASES = (
    Case("average", "average"),
    Case("task_arithmetic", "task_arithmetic"),
    Case("slerp", "slerp", experts=2),
    Case("sotu", "sotu", "p=0.9"),
    Case("dare", "dare", "p=0.9"),
    Case("dare_ties", "dare_ties", "p=0.9"),
    Case("ties", "ties", "density=0.2"),
    Case("klf", "klf", torch=True, importance=True),
    # A stored mask is drawn or trimmed already: the first only adds, the second keeps all it finds.
    Case("sotu_stored", "task_arithmetic", mask="random_0.1"),
    Case("ties_stored", "ties", "density=0.1", mask="magnitude_0.1"),
)


def of_every_density() -> list[Case]:
    """Return sums of whole models and of deltas stored under each mask, dense to sparse."""
    return [
        Case("dense", "task_arithmetic"),
        *(Case(mask, "task_arithmetic", mask=mask) for mask in MASKS),
    ]


def of_every_strategy() -> list[Case]:
    """Return a merge by each strategy that works on blocks and needs no importance map."""
    named = {case.name: case for case in CASES}
    found = []
    for name in names():
        strategy = get(name)
        if strategy.unit != "tensor" and not strategy.needs_importance:
            computes = not Method(strategy).takes_stored()
            found.append(named.get(name) or Case(name, name, torch=computes, experts=strategy.most))
    return found


@dataclass(frozen=True)
class Inputs:
    """A base and fine-tunes of it, and what is made of them on first use, beside them."""

    shape: synthetic.Shape
    base: Path
    experts: Sequence[Path]

    @classmethod
    def of(cls, shape: synthetic.Shape, experts: int, cache: Path) -> Inputs:
        """Return the models, made when they are not in the cache."""
        return cls(shape, *synthetic.models(shape, experts, cache))

    @property
    def store(self) -> Path:
        """The store beside the models."""
        return self.base.parent / ".deltakit"

    @property
    def size(self) -> int:
        """Bytes of one model's weight files."""
        return sum(path.stat().st_size for path in _weights(self.base))

    def tasks(self, mask: str) -> list[str]:
        """Return the names of the stored, masked deltas, each added once."""
        deltakit = Command(self.base.parent)
        if not self.store.exists():
            deltakit("init", silent=True)
        store = Store.open(self.store)
        if "base" not in store.bases():
            deltakit("base", "add", "base", "base", silent=True)
        found = [f"{path.name}-{mask}" for path in self.experts]
        for name, path in zip(found, self.experts, strict=True):
            if name not in store.tasks():
                words = ["--base", "base", "--model", path.name, *shlex.split(MASKS[mask])]
                deltakit("add", name, *words, silent=True)
        return found

    def maps(self) -> list[Path]:
        """Return an importance map of each fine-tune: seeded scores, one a tensor."""
        paths = [path.with_name(f"importance-{path.name}.safetensors") for path in self.experts]
        for seed, path in enumerate(paths):
            if not path.exists():
                wanted = sorted(self.shape.infos())
                scores = torch.rand(len(wanted), generator=torch.Generator().manual_seed(seed))
                ImportanceMap(dict(zip(wanted, scores, strict=True)), task=path.stem).save(path)
        return paths


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))
