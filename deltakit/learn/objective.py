"""The loss a checkpoint was made for, over labelled text: classifier, causal LM or encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltakit.errors import BadFile, BadValue, some
from deltakit.learn.examples import Example
from deltakit.learn.models import config, load
from deltakit.learn.option_scoring import OptionScorer, check_options, read_options

Loss = Callable[[Sequence[Example]], Tensor]


def objective(
    path: str | Path,
    examples: Sequence[Example],
    *,
    source: str,
    options: Sequence[str] | None = None,
    max_tokens: int = 256,
) -> tuple[Any, Loss]:
    """Return (model, loss) for a model folder; loss(batch of examples) is a mean, shape ().

    By `architectures` in config.json: `*ForSequenceClassification` is cross-entropy with its own
    head (labels by name or index); `*ForCausalLM` is the next-token loss over text + label joined
    as they are; anything else is a text encoder and gets `OptionScorer`, over `options`, else the
    option texts kept beside the model, else the different labels of the data, sorted.

    `source` names the data in errors. All labels are checked here, before any is used: `BadFile`
    names the line of one that does not fit; `BadValue` says what else cannot be scored.
    """
    architecture = next(iter(config(path).get("architectures") or []), "")
    if architecture.endswith("ForSequenceClassification"):
        return _classifier(path, examples, source, max_tokens)
    if architecture.endswith("ForCausalLM"):
        return _causal(path, examples, source, max_tokens)
    if "For" in architecture and not architecture.endswith("ForMaskedLM"):
        raise BadValue(
            "this kind of model has no objective over labelled text here",
            where=f"{path}/config.json",
            expected="*ForSequenceClassification, *ForCausalLM or a text encoder",
            got=architecture,
        )
    masked = architecture.endswith("ForMaskedLM")
    return _encoder(path, examples, source, options, max_tokens, masked)


def _classifier(
    path: str | Path, examples: Sequence[Example], source: str, max_tokens: int
) -> tuple[Any, Loss]:
    model, tokenizer = load(path, "AutoModelForSequenceClassification")
    names = {str(name): int(index) for index, name in model.config.id2label.items()}
    if model.config.problem_type not in (None, "single_label_classification") or len(names) < 2:
        raise BadValue(
            "the model's head does not choose one label",
            where=f"{path}/config.json",
            expected="single_label_classification with two labels or more",
            got=f"{model.config.problem_type}, {len(names)} labels",
        )

    def index(example: Example) -> int:
        if isinstance(example.label, int):
            if 0 <= example.label < len(names):
                return example.label
        elif example.label in names:
            return names[example.label]
        raise _misfit(example, source, f"{some(list(names))}, or an index below {len(names)}")

    targets = {example: index(example) for example in examples}

    def loss(batch: Sequence[Example]) -> Tensor:
        inputs = _tokens(tokenizer, [e.text for e in batch], max_tokens).to(model.device)
        labels = torch.tensor([targets[e] for e in batch], device=model.device)
        return torch.nn.functional.cross_entropy(model(**inputs).logits.float(), labels)

    return model, loss


def _causal(
    path: str | Path, examples: Sequence[Example], source: str, max_tokens: int
) -> tuple[Any, Loss]:
    model, tokenizer = load(path, "AutoModelForCausalLM")
    tokenizer.padding_side = "right"
    tokenizer.truncation_side = "left"  # a text too long must not push its label out
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    for example in examples:
        if not isinstance(example.label, str):
            raise _misfit(example, source, "a string, joined to the text as it is")

    def loss(batch: Sequence[Example]) -> Tensor:
        texts = [f"{e.text}{e.label}" for e in batch]
        inputs = _tokens(tokenizer, texts, max_tokens).to(model.device)
        # Not by token id: the padding token may be a real one (the end of a text).
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)[:, 1:]
        if not bool((labels != -100).any()):
            raise BadFile(
                "one token leaves no next token to predict",
                where=f"{source} line {batch[0].line}",
                expected="two tokens or more in text + label",
                got=repr(texts[0]),
            )
        logits = model(**inputs).logits.float()[:, :-1]  # (n, tokens - 1, vocabulary)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())

    return model, loss


def _encoder(
    path: str | Path,
    examples: Sequence[Example],
    source: str,
    options: Sequence[str] | None,
    max_tokens: int,
    masked: bool,
) -> tuple[Any, Loss]:
    where = "options"
    if options is None:
        kept = read_options(path)
        where = f"the labels of {source}" if kept is None else f"{path}"
        options = sorted({str(e.label) for e in examples}) if kept is None else kept
    check_options(options, where)
    places = {option: place for place, option in enumerate(options)}
    for example in examples:
        if str(example.label) not in places:
            raise _misfit(example, source, f"one of the options: {some(list(places))}")
    # A masked-LM checkpoint is read whole, so that its names are those of the file.
    whole, tokenizer = load(path, "AutoModelForMaskedLM" if masked else "AutoModel")
    encoder = whole.base_model if masked else whole
    scorer = OptionScorer(encoder, tokenizer, max_tokens=max_tokens)
    chosen = list(options)

    def loss(batch: Sequence[Example]) -> Tensor:
        return scorer.loss([e.text for e in batch], chosen, [places[str(e.label)] for e in batch])

    return whole, loss


def _tokens(tokenizer: Any, texts: list[str], max_tokens: int) -> Any:
    # No pad token is needed for a batch of one.
    return tokenizer(
        texts,
        padding=len(texts) > 1,
        truncation=True,
        max_length=max_tokens,
        return_tensors="pt",
    )


def _misfit(example: Example, source: str, expected: str) -> BadFile:
    return BadFile(
        "the label does not fit the model",
        where=f"{source} line {example.line}",
        expected=expected,
        got=repr(example.label),
    )
