"""Gram matrices of linear layers' inputs, against the inputs themselves."""

import json
from pathlib import Path

import pytest
import torch

from deltakit.errors import DeltakitError
from deltakit.importance import ImportanceMap
from deltakit.learn.examples import read_examples
from deltakit.learn.gram import gram, gram_of
from deltakit.learn.objective import objective
from deltakit.learn.parameters import tracked
from tests.learn import tiny


def test_it_is_the_mean_outer_product_of_what_each_linear_layer_sees(tmp_path: Path) -> None:
    folder = tiny.save(tiny.classifier(), tmp_path / "m")
    data = tmp_path / "data.jsonl"
    labels = ["bad", "good"] * 2
    rows = [{"text": t, "label": label} for t, label in zip(tiny.TEXTS, labels, strict=True)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = gram(folder, data, task="t")
    examples = read_examples(data)
    live, loss = objective(folder, examples, source="data")
    names = {id(p): name for name, p in tracked(live).items()}
    seen: dict[str, list[torch.Tensor]] = {}
    for module in live.modules():
        if isinstance(module, torch.nn.Linear):
            kept = seen.setdefault(names[id(module.weight)], [])
            module.register_forward_pre_hook(
                lambda _, x, kept=kept: kept.append(x[0].detach().reshape(-1, x[0].shape[-1]))
            )
    for example in examples:
        loss([example])
    assert set(found) == {name for name, kept in seen.items() if kept}
    for name, kept in seen.items():
        x = torch.cat(kept)
        torch.testing.assert_close(found[name], x.T @ x / len(x))
    found.save(tmp_path / "t.gram")
    opened = ImportanceMap.open(tmp_path / "t.gram")
    assert opened.units == "gram"
    assert all(torch.equal(opened[name], found[name]) for name in found)


class Routed(torch.nn.Module):
    """Two layers, each of which sees the rows that are above or below zero."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)

    def loss(self, batch: list[list[float]]) -> torch.Tensor:
        x = torch.tensor(batch).reshape(-1, 1)
        return self.up(x[x[:, 0] > 0]).sum() + self.down(x[x[:, 0] <= 0]).sum()


def test_a_call_without_tokens_counts_for_nothing() -> None:
    model = Routed()
    found = gram_of(model, model.loss, [[1.0, 3.0], [-2.0]], task="t")
    assert [found[f"{name}.weight"].item() for name in ("up", "down")] == [5.0, 4.0]


def test_a_layer_that_never_saw_a_token_has_no_matrix() -> None:
    model = Routed()
    assert list(gram_of(model, model.loss, [[1.0], [3.0]], task="t")) == ["up.weight"]
    with pytest.raises(DeltakitError, match="no linear layer that the data reaches"):
        gram_of(model, model.loss, [[]], task="t")
