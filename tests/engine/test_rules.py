"""Every form of rule gives the bytes of merging its tensors on their own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from deltakit.engine import Limits, execute, make_plan
from deltakit.errors import BadValue
from deltakit.experts import reopen
from deltakit.importance import ImportanceMap
from deltakit.recipe import Piece, Recipe, Regex, Rule, Task
from tests.engine.merging import TASKS, merged, plan, weights, write_models
from tests.models import write_model

LAYERS = 5


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    found = {"embed.weight": torch.randn(12, 6, generator=generator).to(torch.bfloat16)}
    for number in range(LAYERS):
        found[f"h.{number}.attn.weight"] = torch.randn(6, 6, generator=generator)
        found[f"h.{number}.mlp.weight"] = torch.randn(8, 6, generator=generator)
        found[f"h.{number}.mlp.bias"] = torch.randn(8, generator=generator)
    found["norm.weight"] = torch.randn(6, generator=generator)
    found["position_ids"] = torch.arange(6)
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_models(folder, tensors=tensors())
    return folder


def alone(models: Path, folder: Path, names: list[str], **recipe: Any) -> dict[str, torch.Tensor]:
    """Merge models that hold nothing but some of the tensors, without any rule."""
    for model in ("base", *TASKS):
        whole = weights(models / model)
        write_model(folder / model, {name: whole[name] for name in names})
    return merge(folder, **recipe)


def merge(
    folder: Path, *, given: Sequence[float] = (1.0,) * 3, maps: Sequence[str] = (), **recipe: Any
) -> dict[str, torch.Tensor]:
    """Merge a, b and c of a folder with these weights and maps."""
    tasks = [
        Task(name, str(folder / name), weight, *path)
        for name, weight, *path in zip(TASKS, given, *([maps] if maps else []), strict=True)
    ]
    made = Recipe(base=str(folder / "base"), tasks=tasks, **recipe)
    found = reopen(made)
    out = folder / f"out-{len(list(folder.glob('out-*')))}"
    execute(make_plan(made, found.base, found.experts), out)
    return weights(out)


MLP = [f"h.{n}.mlp.weight" for n in range(LAYERS)]
ATTN = [f"h.{n}.attn.weight" for n in range(LAYERS)]
BIAS = [f"h.{n}.mlp.bias" for n in range(LAYERS)]

# A rule, the tensors that come under it, and the recipe that is merged without rules.
FORMS = [
    (Rule(match="*.mlp.weight", settings={"density": 0.6}), MLP, {"settings": {"density": 0.6}}),
    (Rule(match=["*.mlp.weight"], strategy="average"), MLP, {"strategy": "average"}),
    (
        Rule(match=Regex(r"h\.\d+\.attn\.weight"), strategy="dare", settings={"p": 0.5}),
        ATTN,
        {"strategy": "dare", "settings": {"p": 0.5}},
    ),
    (Rule(match="h.*", layers="0-1", scale=2.0), MLP[:2] + ATTN[:2] + BIAS[:2], {"scale": 2.0}),
    (Rule(match="*.mlp.weight", layers=[3, 4], scale=-1.0), MLP[3:], {"scale": -1.0}),
    (Rule(match="*.attn.*", weights={"a": 2.0, "c": 0.5}), ATTN, {"given": (2.0, 1.0, 0.5)}),
    (
        Rule(match="*.mlp.weight", mask=Piece("random", {"density": 0.5})),
        MLP,
        {"mask": Piece("random", {"density": 0.5})},
    ),
    (
        Rule(match="*.mlp.weight", settings={"scope": "global"}),
        MLP,
        {"settings": {"scope": "global"}},
    ),
    (
        Rule(match="*.attn.weight", strategy="average", weighting=Piece("metagpt")),
        ATTN,
        {"strategy": "average", "weighting": Piece("metagpt")},
    ),
    (
        Rule(match="*.mlp.weight", mask=Piece("dynamic", {"by": "norm"})),
        MLP,
        {"mask": Piece("dynamic", {"by": "norm"})},
    ),
    (Rule(match="*.mlp.weight", strategy="tsv"), MLP, {"strategy": "tsv"}),
    (Rule(match="*.mlp.weight", lines=(0.2, 0.8)), MLP, {"lines": (0.2, 0.8)}),
    (Rule(match="*.mlp.weight", strategy="model_stock"), MLP, {"strategy": "model_stock"}),
]


@pytest.mark.parametrize(("rule", "names", "without"), FORMS, ids=range(len(FORMS)))
@pytest.mark.parametrize("own", [{}, {"scope": "global"}], ids=["tensor", "global"])
def test_a_rule_gives_what_its_tensors_give_alone_and_so_does_the_rest(
    rule: Rule,
    names: list[str],
    without: Mapping[str, Any],
    own: dict[str, Any],
    models: Path,
    tmp_path: Path,
) -> None:
    if rule.mask and own:
        rule = Rule(match=rule.match, mask=rule.mask, settings={"scope": "tensor"})
    found = weights(merged(models, "ties", settings=own, rules=[rule]))
    recipe: dict[str, Any] = {"strategy": "ties", "settings": {}, **without}
    if recipe["strategy"] == "ties" and not rule.mask:
        recipe["settings"] = {**own, **recipe["settings"]}
    expected = alone(models, tmp_path / "under", names, **recipe)
    for name in names:
        assert torch.equal(found[name], expected[name]), name
    others = [name for name in tensors() if name not in names]
    expected = alone(models, tmp_path / "others", others, strategy="ties", settings=own)
    for name in others:
        assert torch.equal(found[name], expected[name]), name


def test_a_gradient_gives_each_layer_what_its_value_gives(models: Path) -> None:
    rule = Rule(match="*.mlp.weight", settings={"density": [0.2, 1.0]}, scale=[1.0, 3.0])
    found = weights(merged(models, "ties", rules=[rule]))
    for number, name in enumerate(MLP):
        depth = number / 4
        settings = {"density": (1 - depth) * 0.2 + depth * 1.0}
        scale = (1 - depth) * 1.0 + depth * 3.0
        alike = weights(merged(models, "ties", settings=settings, scale=scale))
        assert torch.equal(found[name], alike[name]), name


def test_a_global_trim_ranks_the_tensors_of_its_rule_at_each_density_of_a_gradient(
    models: Path,
) -> None:
    rule = Rule(match="*.mlp.weight", settings={"scope": "global", "density": [0.3, 0.7]})
    found = weights(merged(models, "ties", rules=[rule]))
    for end, name in ((0.3, MLP[0]), (0.7, MLP[-1])):
        same = Rule(match="*.mlp.weight", settings={"scope": "global", "density": end})
        assert torch.equal(found[name], weights(merged(models, "ties", rules=[same]))[name])


def test_an_excluded_tensor_is_the_bases(models: Path) -> None:
    out = merged(models, "average", rules=[Rule(match="*.{attn,mlp}.weight", exclude=True)])
    found, base = weights(out), weights(models / "base")
    for name in MLP + ATTN:
        assert torch.equal(found[name], base[name])
    assert not torch.equal(found["norm.weight"], base["norm.weight"])


def test_maps_are_compared_over_the_tensors_of_the_rule_that_uses_them(
    models: Path, tmp_path: Path
) -> None:
    paths = []
    for number, task in enumerate(TASKS, 1):
        scores = {name: torch.tensor(float(number + place)) for place, name in enumerate(MLP)}
        ImportanceMap(scores, task=task).save(tmp_path / f"{task}.safetensors")
        paths.append(str(tmp_path / f"{task}.safetensors"))

    rule = Rule(match="*.mlp.weight", strategy="klf")
    found = merge(models, maps=paths, strategy="average", rules=[rule])
    expected = alone(models, tmp_path / "alone", MLP, maps=paths, strategy="klf")
    assert all(torch.equal(found[name], expected[name]) for name in MLP)


def test_threads_blocks_and_shards_change_no_byte_with_rules(models: Path) -> None:
    rules = [
        Rule(match="*.mlp.weight", settings={"scope": "global", "density": [0.3, 0.7]}),
        Rule(match="*.attn.*", strategy="tsv"),
        Rule(match="*.bias", strategy="dare", settings={"p": 0.5}),
    ]
    first = weights(merged(models, "ties", rules=rules))
    again = merged(models, "ties", Limits(threads=1, block=16), rules=rules, max_shard_size=300)
    assert all(torch.equal(first[name], other) for name, other in weights(again).items())


def test_a_plan_tells_how_each_tensor_is_merged(models: Path) -> None:
    made = plan(models, "ties", rules=[Rule(match="*.attn.*", strategy="tsv")])
    assert type(made.of(ATTN[0]).method.strategy).__name__ == "Tsv"
    assert type(made.of(MLP[0]).method.strategy).__name__ == "Ties"
    assert made.step(ATTN[0]) == 36
    assert made.step(MLP[0]) == made.scratch.block


def test_rules_that_need_maps_of_two_kinds_are_refused(models: Path) -> None:
    rules = [Rule(match="*.mlp.*", strategy="fisher"), Rule(match="*.attn.*", strategy="regmean")]
    with pytest.raises(BadValue, match="the rules need different maps"):
        plan(models, "average", rules=rules)


def test_depth_is_that_of_the_model_whatever_is_merged(models: Path) -> None:
    made = plan(models, "ties", rules=[Rule(match="h.4.*", exclude=True)], lines=(0.0, 1.0))
    assert made.depths["h.2.mlp.weight"] == 0.5
