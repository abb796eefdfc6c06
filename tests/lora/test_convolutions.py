"""Adapters of convolutions as PEFT trains them: merged, baked, and turned into kohya's file."""

import dataclasses
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn

from deltakit.errors import BadValue
from deltakit.lora import open_adapter
from deltakit.lora.cut import Size
from deltakit.lora.extract import extract
from deltakit.lora.extraction import plan_extract
from deltakit.lora.kohya import write_kohya
from deltakit.lora.merge import merge_adapters
from deltakit.lora.union import Member
from deltakit.merging import merge
from tests.lora.test_identity import CLOSE, MODES, rank_map
from tests.models import write_model

PICTURES = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))
KINDS = {
    "plain": {},
    "patterns": {"rank_pattern": {"down": 2}, "alpha_pattern": {"down": 3}, "use_rslora": True},
    "lora_bias": {"lora_bias": True},
    "bias": {"bias": "all"},
    "dora": {"use_dora": True},
}


class Net(nn.Module):
    """Three convolutions, of one or several places, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 6, (3, 2), stride=2)
        self.point = nn.Conv2d(6, 10, 1)
        self.head = nn.Linear(10, 5)

    def forward(self, x):
        for layer in (self.stem, self.down, self.point):
            x = torch.tanh(layer(x))
        return self.head(x.mean((2, 3)))


def net(folder):
    model = Net()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model


def output(base, adapter=None):
    model = net(base)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if adapter is not None:
            model = PeftModel.from_pretrained(model, adapter)
        return model.eval()(PICTURES)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("convolutions")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        write_model(root / "base", Net().state_dict())
    return root


def write_adapter(folder, base, seed, **config):
    targets = ["stem", "down", "point", "head"]
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        given = LoraConfig(r=3, target_modules=targets, init_lora_weights=False, **config)
        model = get_peft_model(net(base), given)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(2):
            model(PICTURES).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        model.save_pretrained(folder)


@pytest.fixture
def pair(made, request):
    """A base, and adapters a and b of a kind."""
    kind, base = request.param, made / "base"
    folder = made / kind
    if not folder.exists():
        for seed, name in enumerate("ab", 1):
            write_adapter(folder / name, base, seed, **KINDS[kind])
    return base, folder, kind


def members(folder, *weights):
    pairs = zip("ab", weights, strict=True)
    return [Member(name, open_adapter(folder / name), weight) for name, weight in pairs]


every_kind = pytest.mark.parametrize("pair", KINDS, indirect=True)


@every_kind
def test_a_baked_model_does_what_base_and_adapter_do(pair, tmp_path):
    base, folder, _ = pair
    merge([f"{folder}/a"], "task_arithmetic", tmp_path / "m", base=f"{base}")
    wanted = output(base, folder / "a")
    assert (output(base) - wanted).abs().max() > 1e-2
    torch.testing.assert_close(output(tmp_path / "m"), wanted, **CLOSE)


@every_kind
@pytest.mark.parametrize("mode", MODES)
def test_weights_one_and_zero_give_the_first_adapter(pair, mode, tmp_path):
    base, folder, kind = pair
    both = members(folder, 1.0, 0.0)
    if kind == "dora" and mode not in ("cat", "svd"):
        with pytest.raises(BadValue, match="not a low-rank delta"):
            merge_adapters(both, mode, tmp_path / "m", settings=MODES[mode])
        return
    if mode == "klf":
        both = [dataclasses.replace(m, importance=rank_map(m, tmp_path)) for m in both]
    merge_adapters(both, mode, tmp_path / "m", settings=MODES[mode])
    wanted = output(base, folder / "a")
    torch.testing.assert_close(output(base, tmp_path / "m"), wanted, **CLOSE)


SUMS = [(kind, mode) for kind in KINDS if kind != "dora" for mode in ("cat", "task_arithmetic")]


@pytest.mark.parametrize(("pair", "mode"), [*SUMS, ("plain", "ties")], indirect=["pair"])
def test_a_merge_of_adapters_is_the_merge_into_the_base(pair, mode, tmp_path):
    base, folder, _ = pair
    merge_adapters(members(folder, 0.75, 0.25), mode, tmp_path / "m", size=Size(rank=30))
    both, strategy = [f"{folder}/a", f"{folder}/b"], mode if mode == "ties" else "task_arithmetic"
    merge(both, strategy, tmp_path / "baked", base=f"{base}", weights=[0.75, 0.25])
    found, wanted = output(base, tmp_path / "m"), output(tmp_path / "baked")
    torch.testing.assert_close(found, wanted, **CLOSE)


@pytest.mark.parametrize("pair", ["plain", "patterns"], indirect=True)
def test_as_kohyas_file_it_is_the_same(pair, tmp_path):
    base, folder, _ = pair
    write_kohya(open_adapter(folder / "a"), tmp_path / "k.safetensors")
    merge([f"{tmp_path}/k.safetensors"], "task_arithmetic", tmp_path / "m", base=f"{base}")
    torch.testing.assert_close(output(tmp_path / "m"), output(base, folder / "a"), **CLOSE)


def test_what_is_extracted_from_a_fine_tune_does_what_it_does(made, tmp_path):
    draws = torch.Generator().manual_seed(4)
    tuned = net(made / "base")
    for value in tuned.parameters():
        value.data += 0.1 * torch.randn(value.shape, generator=draws)
    write_model(tmp_path / "tuned", tuned.state_dict())
    plan = plan_extract(made / "base", tmp_path / "tuned", size=Size(energy=1.0))
    assert extract(plan, tmp_path / "lora").summary.error < 1e-5
    with torch.no_grad():
        wanted = tuned(PICTURES)
    torch.testing.assert_close(output(made / "base", tmp_path / "lora"), wanted, **CLOSE)
