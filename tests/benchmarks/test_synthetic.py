"""Made-up models: the same for everyone, and of the sizes they claim."""

import pytest
import torch

from benchmarks.synthetic import SHAPES, models
from deltakit.tensors.checkpoint import Checkpoint

TINY = SHAPES["tiny"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return models(TINY, 2, tmp_path_factory.mktemp("cache"))


def test_half_of_the_entries_move_a_little(made):
    base, (first, second) = made
    before = torch.cat([t.flatten() for t in Checkpoint.open(base).values()]).float()
    one = torch.cat([t.flatten() for t in Checkpoint.open(first).values()]).float() - before
    two = torch.cat([t.flatten() for t in Checkpoint.open(second).values()]).float() - before
    assert before.std() == pytest.approx(0.02, rel=0.05)
    for delta in (one, two):
        assert (delta != 0).float().mean() == pytest.approx(0.5, abs=0.03)
        assert delta[delta != 0].std() == pytest.approx(0.001, rel=0.1)
    both = ((one != 0) & (two != 0)).float().mean()
    assert both == pytest.approx(0.25, abs=0.03)


def test_they_are_the_same_wherever_they_are_made(made, tmp_path):
    base, experts = models(TINY, 1, tmp_path)
    assert Checkpoint.open(base).fingerprint() == Checkpoint.open(made[0]).fingerprint()
    assert Checkpoint.open(experts[0]).fingerprint() == Checkpoint.open(made[1][0]).fingerprint()
    assert len(list(base.glob("*.safetensors"))) > 1


def test_what_is_there_is_not_made_again(made):
    base, experts = made
    inode = (base / "config.json").stat().st_ino
    assert models(TINY, 2, base.parent.parent.parent) == (base, experts)
    assert (base / "config.json").stat().st_ino == inode


@pytest.mark.parametrize(
    ("name", "parameters", "files"), [("100m", 109.5e6, 1), ("1.1b", 1.1e9, 3)]
)
def test_a_shape_has_the_parameters_that_its_name_says(name, parameters, files):
    from deltakit.engine.shards import make_shards

    shape = SHAPES[name]
    assert sum(info.numel for info in shape.infos().values()) == pytest.approx(parameters, rel=0.01)
    assert len(make_shards(shape.infos(), shape.shard_bytes)) == files
