"""A model by its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deltakit.delta_source import check_alike
from deltakit.errors import BadValue, some
from deltakit.strategies import depths, layer, with_layer
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.source import TensorSource

Infos = Mapping[str, TensorInfo]


@dataclass(frozen=True)
class Layered:
    """A model's tensors: of each layer, by the names of layer 0; and before and after all layers.

    What is called an embedding lies before the layers, the rest outside of them after.
    """

    source: TensorSource
    layers: Sequence[Mapping[str, str]]
    before: Sequence[str]
    after: Sequence[str]

    @classmethod
    def of(cls, source: TensorSource) -> Layered:
        """Return a model by its layers; BadValue where it has none, or several lists of them."""
        where = depths(source.infos)
        found: dict[int, dict[str, str]] = {}
        lists = set()
        for name in source.infos:
            number = layer(name)
            if number is not None:
                found.setdefault(number, {})[with_layer(name, 0)] = name
                lists.add(name.partition(f".{number}.")[0])
        if len(lists) != 1 or sorted(found) != list(range(len(found))):
            got = (
                some(f"{prefix}.N" for prefix in lists)
                if len(lists) != 1
                else some(str(number) for number in found)
            )
            raise BadValue(
                "only a model with one list of layers can be stacked",
                where=source.label,
                expected="names as model.layers.N.mlp.up_proj.weight, N from 0",
                got=got or "no layers",
            )
        outside = [name for name in source.infos if layer(name) is None]
        return cls(
            source,
            [found[number] for number in range(len(found))],
            [name for name in outside if where[name] == 0.0],
            [name for name in outside if where[name] != 0.0],
        )

    def infos(self, names: Sequence[str]) -> Infos:
        return {name: self.source.infos[name] for name in names}

    def layer_infos(self, number: int) -> Infos:
        """Return dtype and shape of a layer's tensors, by the names of layer 0."""
        return {name: self.source.infos[there] for name, there in self.layers[number].items()}

    def check_fits(
        self, number: int, base: Layered, fitting: set[frozenset[tuple[str, object]]]
    ) -> None:
        """Raise NamesDiffer or ShapeMismatch unless the layer is as some layer of the base."""
        mine = self.layer_infos(number)
        if shapes(mine) not in fitting:
            like = base.layer_infos(min(number, len(base.layers) - 1))
            check_alike(like, mine, f"{self.source.label}, layer {number}")


def shapes(infos: Infos) -> frozenset[tuple[str, object]]:
    """Return what two layers have in common that can stand for each other."""
    return frozenset((name, info.shape) for name, info in infos.items())
