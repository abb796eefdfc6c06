"""Gram matrices of linear layers' inputs, against the inputs themselves."""

import json
from pathlib import Path

import torch

from deltakit.importance import ImportanceMap
from deltakit.learn.examples import read_examples
from deltakit.learn.gram import gram
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
