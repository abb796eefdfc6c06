"""A fine-tuned model rebuilt from its base and a lossless delta."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from deltakit.delta import Delta
from deltakit.dtypes import itemsize
from deltakit.errors import BadValue
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.source import TensorSource

if TYPE_CHECKING:
    from deltakit.tensors.reader import SafetensorsFile


class Restored(TensorSource):
    """The model a `replace` delta stands for, as a source: base bytes with new values put in.

    Its fingerprint equals `delta.new.fingerprint`, or something is damaged. Raises BadValue for
    an `add` delta, which cannot restore anything bit for bit, and WrongBase for a base whose
    names, shapes or dtypes are not those of the delta's.
    """

    def __init__(self, base: TensorSource, delta: Delta) -> None:
        if delta.role != "replace":
            raise BadValue(
                "an additive delta does not restore a model bit for bit",
                where=delta.label,
                remedy="add the task with --lossless",
            )
        delta.base.check_infos(base.infos, f"the delta {delta.label}", base.label)
        self.label = f"{delta.task} restored from {base.label}"
        self._base, self._delta = base, delta

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        return self._delta.new.infos

    @property
    def files(self) -> Sequence[SafetensorsFile]:
        return [*self._base.files, *self._delta.files]

    def read(self, name: str, start: int, buffer: memoryview) -> None:
        import numpy as np

        info = self.infos[name]
        tensor = self._delta.tensors.get(name)
        if tensor is None:
            self._base.read(name, start, buffer)
            return
        # A range of bytes that starts or ends inside an element is read as whole elements.
        size = itemsize(info.dtype)
        first, last = start // size, -(-(start + len(buffer)) // size)
        whole = np.empty((last - first) * size, dtype=np.uint8)
        if tensor.codec != "dense":
            self._base.read(name, first * size, memoryview(whole))
        tensor.overwrite(whole, first)
        skip = start - first * size
        buffer[:] = memoryview(whole)[skip : skip + len(buffer)]
