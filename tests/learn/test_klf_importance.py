"""Capture in a plain PyTorch loop: what is counted, what is skipped, under which names."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from deltakit.errors import BadValue, DeltakitError, NonFinite
from deltakit.importance import ImportanceMap
from deltakit.learn.klf_importance import KlfImportance
from deltakit.learn.parameters import checkpoint_name
from tests.learn import tiny


def scalar(value: float = 2.0) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(value)
    return model


def feed(capture: KlfImportance, model: nn.Module, *gradients: float) -> None:
    for gradient in gradients:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        capture.step()


@pytest.mark.parametrize(
    ("score", "expected"), [("first", 0.01842284), ("second", 0.00407656), ("mixed", 0.01077583)]
)
def test_a_weight_held_gives_the_hand_computed_score(score, expected):
    model = scalar()
    capture = KlfImportance.attach(model, score)
    feed(capture, model, 0.1, 0.3, 0.2)
    assert capture.map("t")["weight"].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_nonfinite_gradient_leaves_all_state_bit_identical_and_is_counted(bad):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    capture = KlfImportance.attach(model)
    feed(capture, model, 0.1, 0.2)
    before = {name: [t.clone() for t in pair] for name, pair in capture._state.items()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model[1].bias.grad[0] = bad  # the last parameter: the ones before it must not be updated
    assert capture.step() is False
    for name, pair in capture._state.items():
        assert all(torch.equal(t, b) for t, b in zip(pair, before[name], strict=True))
    provenance = capture.map("t").provenance
    assert (provenance["steps"], provenance["steps_skipped_nonfinite"]) == ("2", "1")


def test_timing_before_meets_the_weight_the_gradient_was_taken_at():
    model = scalar(2.0)
    capture = KlfImportance.attach(model, a1=0.0, a2=0.0)
    model.weight.grad = torch.ones_like(model.weight)
    capture.step()
    assert capture._state["weight"][0].item() == 2.0


def test_timing_after_meets_the_new_weight_and_ignores_the_first_call():
    model = scalar(2.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    capture = KlfImportance.attach(model, a1=0.0, a2=0.0, timing="after")
    counted = []
    for gradient in (1.0, 3.0):
        model.weight.grad = torch.full_like(model.weight, gradient)
        optimizer.step()
        counted.append(capture.step())
    assert counted == [False, True]
    assert capture._state["weight"][0].item() == pytest.approx(3.0 * abs(2 - 0.5 - 1.5))
    assert capture.map("t").provenance["timing"] == "after"


def test_a_parameter_without_gradient_counts_as_gradient_zero():
    one, other = (nn.ModuleDict({"a": scalar(), "b": scalar()}) for _ in range(2))
    first, second = KlfImportance.attach(one), KlfImportance.attach(other)
    feed(first, one, 0.5)
    feed(second, other, 0.5)
    one["a"].weight.grad = other["a"].weight.grad = torch.ones(1, 1)
    one["b"].weight.grad, other["b"].weight.grad = None, torch.zeros(1, 1)
    first.step()
    second.step()
    torch.testing.assert_close(dict(first.map("t")), dict(second.map("t")), rtol=1e-6, atol=0)


def test_a_step_without_any_gradient_says_when_to_call_it():
    with pytest.raises(DeltakitError, match="after backward"):
        KlfImportance.attach(scalar()).step()


def test_a_map_without_a_counted_step_is_refused():
    model = scalar()
    capture = KlfImportance.attach(model)
    feed(capture, model, float("nan"))
    with pytest.raises(DeltakitError, match="no training step was captured") as caught:
        capture.map("t")
    assert caught.value.got == "1 calls of step, 1 with NaN or Inf gradients"


def test_a_weight_that_overflowed_is_reported_by_name():
    model = scalar(float("inf"))
    capture = KlfImportance.attach(model)
    feed(capture, model, 1.0)
    with pytest.raises(NonFinite, match="weight"):
        capture.map("t")


def test_a_step_that_a_grad_scaler_drops_is_skipped_and_others_are_unscaled():
    model = scalar(2.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    capture = KlfImportance.attach(model, a1=0.0, a2=0.0)
    for factor in (3.0, 1e38):  # 1e38 * 1024 is infinite
        loss = model(torch.ones(1, 1)).sum() * factor
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        capture.step()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert capture._state["weight"][0].item() == pytest.approx(6.0)
    assert (capture.steps, capture.skipped) == (1, 1)


def test_frozen_parameters_are_not_tracked():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert list(KlfImportance.attach(model).parameters) == ["weight"]


def test_tied_parameters_are_one_unit_under_the_saved_name(tmp_path):
    model = tiny.causal()
    names = set(KlfImportance.attach(model).parameters)
    assert "lm_head.weight" not in names
    from deltakit.tensors.checkpoint import Checkpoint

    assert names == set(Checkpoint.open(tiny.save(model, tmp_path / "m")).infos)


def test_names_of_a_compiled_or_distributed_model_are_those_of_its_checkpoint():
    class Wrapped(nn.Module):  # what DistributedDataParallel does to names
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.module = model

    plain = nn.Sequential(nn.Linear(2, 2))
    compiled = torch.compile(plain, backend="eager")
    names = set(KlfImportance.attach(plain).parameters)
    assert set(KlfImportance.attach(Wrapped(compiled)).parameters) == names
    assert (
        set(
            KlfImportance.attach(nn.Sequential(torch.compile(plain[0], backend="eager"))).parameters
        )
        == names
    )
    assert checkpoint_name("encoder.module.weight") == "encoder.module.weight"


def test_names_of_an_adapter_are_those_peft_writes():
    import peft

    config = peft.LoraConfig(r=2, target_modules=["up", "down"])
    plain = nn.Sequential(OrderedDict(up=nn.Linear(4, 4), down=nn.Linear(4, 4)))
    model = peft.get_peft_model(plain, config, adapter_name="mine")
    assert set(KlfImportance.attach(model).parameters) == set(
        peft.get_peft_model_state_dict(model, adapter_name="mine")
    )


def test_sparse_gradients_count_as_dense_ones():
    maps = []
    for sparse in (True, False):
        torch.manual_seed(0)
        model = nn.Embedding(5, 3, sparse=sparse)
        capture = KlfImportance.attach(model)
        model(torch.tensor([1, 1, 4])).sum().backward()
        capture.step()
        maps.append(capture.map("t")["weight"].item())
    assert maps[0] == maps[1] > 0


def test_state_is_two_buffers_of_the_tracked_size():
    model = nn.Linear(30, 30)
    capture = KlfImportance.attach(model)
    feed(capture, model, 0.1)
    held = [t for pair in capture._state.values() for t in pair]
    assert sum(t.numel() for t in held) == 2 * sum(p.numel() for p in model.parameters())


def test_names_keep_only_those_parameters():
    model = nn.Linear(2, 2)
    assert list(KlfImportance.attach(model, names=["bias"]).parameters) == ["bias"]
    with pytest.raises(BadValue, match='did you mean "weight"'):
        KlfImportance.attach(model, names=["wieght"])


def test_units_that_capture_does_not_support_are_refused():
    with pytest.raises(DeltakitError, match="does not support these skill units yet"):
        KlfImportance.attach(scalar(), units="head")


def test_an_unknown_timing_is_refused():
    with pytest.raises(BadValue, match="before or after"):
        KlfImportance.attach(scalar(), timing="during")


def test_a_saved_map_comes_back_with_its_making_and_its_base(tmp_path):
    from deltakit.tensors.checkpoint import Checkpoint

    base = tiny.save(tiny.encoder(), tmp_path / "base")
    model = tiny.encoder()
    capture = KlfImportance.attach(model, base=base)
    feed(capture, model, 0.1, 0.2)
    capture.save(tmp_path / "map.safetensors", task="trec")
    found = ImportanceMap.open(tmp_path / "map.safetensors")
    assert (found.task, found.units, found.score) == ("trec", "tensor", "first")
    assert found.base == Checkpoint.open(base).fingerprint()
    assert found.provenance["a1"] == "0.85"
    assert dict(found) == dict(capture.map("trec"))
    assert all(score.shape == () and score.dtype == torch.float32 for score in found.values())
