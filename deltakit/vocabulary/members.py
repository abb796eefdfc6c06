"""The experts of a merge by their vocabularies."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from deltakit.delta_source import DeltaSource, ModelDelta
from deltakit.errors import NotFound
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.part import Part
from deltakit.tensors.source import TensorSource
from deltakit.vocabulary.delta import Resized
from deltakit.vocabulary.tensors import rows_of, with_rows
from deltakit.vocabulary.tokenizer import Tokenizer


@dataclass(frozen=True)
class Member:
    """One expert: its whole model, its tokens, and its rows of each vocabulary-sized tensor.

    A token that no row is there for is none of its tokens, but of those `without_row`. A stored
    delta or an adapter has no model of its own, and the base's tokens and rows.
    """

    name: str
    model: Checkpoint | None
    tokenizer: Tokenizer
    rows: dict[str, int]
    without_row: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        source: DeltaSource,
        base: Checkpoint,
        tokenizer: Tokenizer,
        tensors: Sequence[str],
    ) -> Member:
        """Return what an expert is to a base with this tokenizer and these tensors.

        Raises NotFound where a model of another size has no tokenizer beside it.
        """
        ours = {tensor: rows_of(base.infos[tensor]) for tensor in tensors}
        model = model_of(source)
        if model is None:
            return cls(name, None, tokenizer, ours)
        rows = {
            tensor: rows_of(model.infos[tensor]) if tensor in model.infos else 0
            for tensor in tensors
        }
        found = Tokenizer.open(model.folder)
        if found is None and any(rows[tensor] not in (0, ours[tensor]) for tensor in tensors):
            raise no_tokenizer(model.label)
        if found is None:
            return cls(name, model, tokenizer, rows)
        most = max(rows.values())
        beyond = tuple(sorted(token for token, number in found.ids.items() if number >= most))
        ids = {token: number for token, number in found.ids.items() if number < most}
        return cls(name, model, dataclasses.replace(found, ids=ids), rows, beyond)

    def seen(self, base: Checkpoint) -> TensorSource:
        """Return the base with this expert's numbers of rows, to compare shapes with."""
        if self.model is None:
            return base
        return Resized(
            base,
            {
                name: with_rows(base.infos[name], rows)
                for name, rows in self.rows.items()
                if name in self.model.infos
            },
        )


def model_of(source: DeltaSource) -> Checkpoint | None:
    """Return the whole model behind a delta, None for one that is in the base's vocabulary."""
    tuned = source.tuned if isinstance(source, ModelDelta) else None
    whole = tuned.whole if isinstance(tuned, Part) else tuned
    return whole if isinstance(whole, Checkpoint) else None


def no_tokenizer(label: str) -> NotFound:
    """Return the error of a model whose tokens are not known."""
    return NotFound(
        "no tokenizer is beside the model, so its rows cannot be matched by token",
        where=label,
        expected="tokenizer.json; or vocab.json, vocab.txt or a sentencepiece model",
        remedy="copy the tokenizer's files there",
    )
