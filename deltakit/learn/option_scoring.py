"""One text encoder for many classification tasks: the logit of an option is a scaled cosine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from deltakit.errors import BadFile, BadValue
from deltakit.learn.models import load

OPTIONS_FILE = "options.json"


class OptionScorer:
    """Score label texts against inputs with the encoder itself, so that all of it is merged.

    >>> scorer = OptionScorer.open("all-MiniLM-L6-v2")                  # doctest: +SKIP
    >>> scorer.predict(["what a film!"], ["good", "bad"])               # doctest: +SKIP
    [0]

    Inputs and options are embedded by one encoder (mean of the last hidden states over the real
    tokens, then unit length); logit = scale * cosine, and the loss is cross-entropy over the
    options. There is no per-task head: a task never trained on can be scored too. The option
    texts are part of the model, so keep them with it (`save_options`).
    """

    def __init__(
        self, encoder: Any, tokenizer: Any, *, max_tokens: int = 48, scale: float = 20.0
    ) -> None:
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.scale = scale

    @classmethod
    def open(cls, path: str | Path, *, max_tokens: int = 48) -> OptionScorer:
        """Read a model folder (safetensors weights, float32, evaluation mode) into a scorer."""
        return cls(*load(path, "AutoModel"), max_tokens=max_tokens)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors (n, d), with gradient when gradients are on.

        Padded to the longest text given; padding never enters the mean.
        """
        batch = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        ).to(self.encoder.device)
        hidden = self.encoder(**batch).last_hidden_state  # (n, tokens, d)
        mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)  # (n, tokens, 1)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp_min(1)  # (n, d)
        return functional.normalize(mean.float(), dim=-1)

    def logits(self, texts: Sequence[str], options: Sequence[str]) -> Tensor:
        """Return scale * cosine of every text with every option (n, options), float32.

        Options are embedded anew at every call: a kept embedding would be of older weights.
        """
        return self.scale * self.encode(texts) @ self.encode(options).T

    def loss(self, texts: Sequence[str], options: Sequence[str], targets: Sequence[int]) -> Tensor:
        """Return the mean cross-entropy () of the right options, given by index."""
        logits = self.logits(texts, options)
        return functional.cross_entropy(logits, torch.tensor(targets, device=logits.device))

    @torch.no_grad()
    def predict(
        self, texts: Sequence[str], options: Sequence[str], *, batch: int = 32
    ) -> list[int]:
        """Return the index of the best option for every text, in evaluation mode."""
        training = self.encoder.training
        self.encoder.eval()
        # Texts of like length share a batch, so that little of it is padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        best = [0] * len(texts)
        targets = self.encode(options)  # (options, d)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            cosines = self.encode([texts[i] for i in rows]) @ targets.T  # (batch, options)
            for row, option in zip(rows, cosines.argmax(-1).tolist(), strict=True):
                best[row] = option
        self.encoder.train(training)
        return best


def save_options(folder: str | Path, options: Sequence[str]) -> None:
    """Write the label texts beside a model's weights, where `read_options` finds them."""
    text = json.dumps({"options": list(options)}, indent=2, ensure_ascii=False)
    (Path(folder) / OPTIONS_FILE).write_text(text + "\n", encoding="utf-8")


def read_options(folder: str | Path) -> list[str] | None:
    """Return the label texts kept beside a model, or None when it has none."""
    path = Path(folder) / OPTIONS_FILE
    if not path.exists():
        return None
    expected = '{"options": ["text", ...]} with two texts or more, each once'
    try:
        options = json.loads(path.read_text(encoding="utf-8"))["options"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadFile(
            "label texts cannot be read", where=str(path), expected=expected, got=str(error)
        ) from None
    check_options(options, str(path))
    return list(options)


def check_options(options: Sequence[str], where: str) -> None:
    """Raise `BadValue` unless these are two different texts or more."""
    fine = isinstance(options, list | tuple) and all(isinstance(o, str) and o for o in options)
    if not fine or len(set(options)) != len(options) or len(options) < 2:
        raise BadValue(
            "these are not options to choose from",
            where=where,
            expected="two non-empty texts or more, each once",
            got=repr(options),
        )
