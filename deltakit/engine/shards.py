"""How an output model is cut into files: a function of names, sizes and the limit alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from deltakit.tensors.header import TensorInfo


@dataclass(frozen=True)
class Shard:
    """One output file: its name and the tensors in it."""

    file_name: str
    infos: Mapping[str, TensorInfo]

    @property
    def nbytes(self) -> int:
        return sum(info.nbytes for info in self.infos.values())


def make_shards(infos: Mapping[str, TensorInfo], most: int) -> list[Shard]:
    """Return output files of at most `most` bytes of tensors, filled in the order of layers.

    >>> infos = {name: TensorInfo("F32", (10,)) for name in ("l.10.w", "l.2.w", "l.1.w")}
    >>> [list(shard.infos) for shard in make_shards(infos, 80)]
    [['l.1.w', 'l.2.w'], ['l.10.w']]

    A tensor larger than the limit gets a file of its own, as in transformers.
    """
    groups: list[dict[str, TensorInfo]] = [{}]
    size = 0
    for name in sorted(infos, key=natural):
        nbytes = infos[name].nbytes
        if groups[-1] and size + nbytes > most:
            groups.append({})
            size = 0
        groups[-1][name] = infos[name]
        size += nbytes
    if len(groups) == 1:
        return [Shard("model.safetensors", groups[0])]
    return [
        Shard(f"model-{number:05}-of-{len(groups):05}.safetensors", group)
        for number, group in enumerate(groups, 1)
    ]


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key in which layer 2 comes before layer 10."""
    parts = re.split(r"([0-9]+)", name)
    return [(1, int(part), part) if part.isdecimal() else (0, 0, part) for part in parts]
