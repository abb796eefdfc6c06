"""Masks, found weights, a scale by depth and strategies of one's own in a merge of adapters."""

import json

import pytest
import torch
from blake3 import blake3

from deltakit.errors import BadValue, DeltakitError, UnknownName
from deltakit.lora import open_adapter
from deltakit.lora.cut import Size
from deltakit.lora.kohya import write_kohya
from deltakit.lora.merge import merge_adapters
from deltakit.lora.union import Member
from deltakit.merging import merge
from deltakit.tensors.checkpoint import Checkpoint
from tests.lora.folders import delta, factors, write_folder
from tests.models import write_model

MODULES = [f"layers.{n}.{part}" for n in range(3) for part in ("q_proj", "o_proj")]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with adapters a and b, and a base of zeros."""
    root = tmp_path_factory.mktemp("two")
    write_model(root / "base", {f"{m}.weight": torch.zeros(6, 5) for m in MODULES})
    for seed, name in enumerate("ab"):
        parts = [factors(m, 10 * seed + n) for n, m in enumerate(MODULES)]
        tensors = {key: value for part in parts for key, value in part.items()}
        write_folder(root / name, tensors, r=2, lora_alpha=2)
    return root


def members(root, *weights):
    pairs = zip("ab", weights or (1.0, 1.0), strict=False)
    return [Member(name, open_adapter(root / name), weight) for name, weight in pairs]


def product(folder, module):
    found = open_adapter(folder).factors(module)
    return (found.b @ found.a).double()


def record(folder):
    return json.loads((folder / "deltakit_lora.json").read_text())["record"]


AROUND = [
    ("ties", {"mask": "random:density=0.5"}),
    ("task_arithmetic", {"mask": "magnitude:density=0.3", "scale": 0.5}),
    ("dare", {"mask": "outliers", "settings": {"p": 0.5}}),
    ("task_arithmetic", {"weights": "auto:doge:eta=1"}),
    ("average", {"weights": "auto:similarity:scope=tensor", "mask": "random:density=0.7"}),
    ("task_arithmetic", {"lines": (0.2, 0.8)}),
    ("task_arithmetic", {"mask": "dynamic:density=0.9,last=0.2"}),
]


@pytest.mark.parametrize(("strategy", "around"), AROUND)
def test_what_stands_around_a_strategy_is_what_it_is_in_a_merge_into_a_base(
    two, strategy, around, tmp_path
):
    paths = [f"{name}={two / name}" for name in "ab"]
    base = str(two / "base")
    merge(paths, strategy, tmp_path / "full", base=base, seed=3, **around)
    opened = Checkpoint.open(base)
    options = {"size": Size(rank=5), "seed": 3, "base": opened, **around}
    report = merge_adapters(members(two), strategy, tmp_path / "m", **options)
    full = Checkpoint.open(tmp_path / "full")
    for module in MODULES:
        wanted = full[f"{module}.weight"].double()
        torch.testing.assert_close(product(tmp_path / "m", module), wanted, rtol=1e-4, atol=2e-4)
    if set(around) == {"weights"}:  # the weighted sum itself, by the weights that were found
        assert report.summary.error < 1e-5
    merge_adapters(members(two)[::-1], strategy, tmp_path / "n", **options)
    one, other = (open_adapter(tmp_path / n).source.digests() for n in "mn")
    assert one == other


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_mask_that_goes_by_the_order_gets_the_order_given(two, order, tmp_path):
    mask = "nm:n=1,m=4,taken=excluded"
    paths = [f"{name}={two / name}" for name in order]
    merge(paths, "task_arithmetic", tmp_path / "full", base=str(two / "base"), mask=mask)
    given = sorted(members(two), key=lambda member: order.index(member.name))
    merge_adapters(given, "task_arithmetic", tmp_path / "m", mask=mask, size=Size(rank=5))
    full = Checkpoint.open(tmp_path / "full")
    for module in MODULES:
        wanted = full[f"{module}.weight"].double()
        torch.testing.assert_close(product(tmp_path / "m", module), wanted, rtol=1e-4, atol=2e-4)


BY_DEPTH = [{"lines": (0.0, 1.0)}, {"mask": "dynamic:density=1,last=0.2"}]


@pytest.fixture(scope="module")
def shallow(tmp_path_factory):
    """A base of six layers of which the adapter a has the first two, as PEFT's and as kohya's."""
    root = tmp_path_factory.mktemp("shallow")
    tensors = {f"layers.{n}.q_proj.weight": torch.zeros(6, 5) for n in range(6)}
    write_model(root / "base", {**tensors, "head.weight": torch.zeros(6, 5)})
    modules = [*(f"layers.{n}.q_proj" for n in range(2)), "head"]
    found = {k: v for n, module in enumerate(modules) for k, v in factors(module, n).items()}
    write_folder(root / "a", found, r=2, lora_alpha=2)
    write_kohya(open_adapter(root / "a"), root / "a.safetensors")
    return root, modules


@pytest.mark.parametrize("around", BY_DEPTH)
def test_what_goes_by_depth_goes_by_the_depth_of_the_base(shallow, around, tmp_path):
    root, modules = shallow
    base = root / "base"
    merge([f"a={root / 'a'}"], "task_arithmetic", tmp_path / "full", base=str(base), **around)
    lone = [Member("a", open_adapter(root / "a"))]
    options = {"size": Size(rank=5), "base": Checkpoint.open(base), **around}
    merge_adapters(lone, "task_arithmetic", tmp_path / "m", **options)
    full = Checkpoint.open(tmp_path / "full")
    for module in modules:
        wanted = full[f"{module}.weight"].double()
        torch.testing.assert_close(product(tmp_path / "m", module), wanted, rtol=1e-4, atol=2e-4)


def test_what_goes_by_depth_finds_it_by_kohyas_names_too(shallow, tmp_path):
    root, modules = shallow
    lone = [Member("a", open_adapter(root / "a.safetensors"))]
    options = {"size": Size(rank=5), "base": Checkpoint.open(root / "base"), "lines": (0.0, 1.0)}
    merge_adapters(lone, "task_arithmetic", tmp_path / "m", **options)
    for number, (module, depth) in enumerate(zip(modules, (0.0, 0.2, 1.0), strict=True)):
        found = open_adapter(tmp_path / "m").factors("lora_unet_" + module.replace(".", "_"))
        wanted = depth * delta(factors(module, number), module, 1.0)
        torch.testing.assert_close((found.b @ found.a).double(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("around", BY_DEPTH)
def test_what_goes_by_depth_is_refused_without_the_base(shallow, around, tmp_path):
    lone = [Member("a", open_adapter(shallow[0] / "a"))]
    with pytest.raises(BadValue, match=r"goes by how deep(.|\n)*--base PATH"):
        merge_adapters(lone, "task_arithmetic", tmp_path / "m", **around)
    assert not (tmp_path / "m").exists()


def test_what_stood_around_is_recorded_with_all_its_settings(two, tmp_path):
    around = {"mask": "random:density=0.5", "weights": "auto:doge", "lines": (0.2, 0.8)}
    base = Checkpoint.open(two / "base")
    merge_adapters(members(two), "average", tmp_path / "m", base=base, **around)
    found = record(tmp_path / "m")
    assert found["mask"]["name"] == "random"
    assert found["mask"]["settings"]["density"] == 0.5
    assert found["weighting"] == {"name": "doge", "settings": {"scope": "tensor", "eta": 0.07}}
    assert found["lines"] == [0.2, 0.8]
    assert found["strategy_digest"] is None


OWN = """
from dataclasses import dataclass

from deltakit.strategies import Strategy


@dataclass(frozen=True)
class First(Strategy):
    times: float = 1.0

    def merge(self, stack):
        return stack.deltas[0] * self.times
"""


def test_a_strategy_of_ones_own_is_a_mode_and_its_file_is_recorded(two, tmp_path):
    own = tmp_path / "mine.py"
    own.write_text(OWN)
    mode = f"{own}:First"
    lone = members(two)[:1]
    merge_adapters(lone, mode, tmp_path / "m", settings={"times": "2"}, size=Size(rank=5))
    wanted = 2 * delta(factors(MODULES[0], 0), MODULES[0], 1.0)
    torch.testing.assert_close(product(tmp_path / "m", MODULES[0]), wanted, rtol=1e-4, atol=1e-4)
    found = record(tmp_path / "m")
    assert (found["mode"], found["settings"]) == (mode, {"times": 2.0})
    assert found["strategy_digest"] == blake3(own.read_bytes()).hexdigest()
    with pytest.raises(UnknownName, match="did you mean 'First'"):
        merge_adapters(lone, f"{own}:Frist", tmp_path / "n")


def test_found_weights_that_mean_nothing_to_a_mode_are_refused(tmp_path):
    between = torch.tensor([[0.69, 0.69, 0.2186]])  # cosines .69, .69 and 0
    for name, a in zip("abc", (torch.eye(3)[:1], between, torch.eye(3)[1:2]), strict=True):
        prefix = "layers.0.q_proj"
        tensors = {f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": torch.ones(1, 1)}
        write_folder(tmp_path / name, tensors, r=1, lora_alpha=1)
    found = [Member(name, open_adapter(tmp_path / name), 1.0) for name in "abc"]
    with pytest.raises(BadValue, match="auto:similarity found weights that ties") as error:
        merge_adapters(found, "ties", tmp_path / "m", weights="auto:similarity:scope=tensor")
    assert "layers.0.q_proj" in str(error.value)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("mode", "around", "words"),
    [
        ("svd", {"mask": "random:density=0.5"}, "--mode task_arithmetic"),
        ("cat", {"weights": "auto:doge"}, "--mode task_arithmetic"),
        ("knots", {"lines": (0.1, 0.9)}, "--mode task_arithmetic"),
        ("task_arithmetic", {"weights": "auto:metagpt"}, "metagpt:scope=tensor"),
        ("task_arithmetic", {"mask": "importance:density=0.5,by=map"}, "by=delta"),
        ("task_arithmetic", {"weights": "doge"}, "auto:NAME"),
        ("ties", {"settings": {"density": [0.1, 0.9]}}, "one number for all layers"),
        ("knots", {"settings": {"density": [0.1, 0.9]}}, "density cannot be"),
        ("task_arithmetic", {"mask": "rundom:density=0.5"}, "did you mean 'random'"),
    ],
)
def test_what_a_mode_cannot_have_around_it_is_refused_with_a_remedy(
    two, mode, around, words, tmp_path
):
    with pytest.raises(DeltakitError) as refused:
        merge_adapters(members(two), mode, tmp_path / "m", **around)
    assert words in str(refused.value)
    assert not (tmp_path / "m").exists()


def test_weights_are_given_or_found(two, tmp_path):
    with pytest.raises(BadValue, match="given and are to be found"):
        merge_adapters(members(two, 1.0, 0.5), "average", tmp_path / "m", weights="auto:doge")


def test_weights_found_from_deltas_are_refused_for_what_is_kept_whole(tmp_path):
    tensors = factors("q", 1) | {"head.weight": torch.ones(2, 2)}
    write_folder(tmp_path / "a", tensors, r=2, modules_to_save=["head"])
    lone = [Member("a", open_adapter(tmp_path / "a"))]
    with pytest.raises(BadValue, match="only factors"):
        merge_adapters(lone, "task_arithmetic", tmp_path / "m", weights="auto:doge")
