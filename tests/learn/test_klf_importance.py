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


def state_of(capture: KlfImportance) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """I and U of each parameter, flat, as of the last step."""
    capture._recurrence.settle_()
    return {name: (m.state, m.spread) for name, m in capture._recurrence.means.items()}


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
    before = {name: [t.clone() for t in pair] for name, pair in state_of(capture).items()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model[1].bias.grad[0] = bad  # the last parameter: the ones before it must not be updated
    assert capture.step() is False
    for name, pair in state_of(capture).items():
        assert all(torch.equal(t, b) for t, b in zip(pair, before[name], strict=True))
    provenance = capture.map("t").provenance
    assert (provenance["steps"], provenance["steps_skipped_nonfinite"]) == ("2", "1")


def test_timing_before_meets_the_weight_the_gradient_was_taken_at():
    model = scalar(2.0)
    capture = KlfImportance.attach(model, a1=0.0, a2=0.0)
    model.weight.grad = torch.ones_like(model.weight)
    capture.step()
    assert state_of(capture)["weight"][0].item() == 2.0


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
    assert state_of(capture)["weight"][0].item() == pytest.approx(3.0 * abs(2 - 0.5 - 1.5))
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
    assert state_of(capture)["weight"][0].item() == pytest.approx(6.0)
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


def naive(weights: list, gradients: list, a1: float = 0.85, a2: float = 0.85) -> list:
    """The page's recurrence over whole tensors, out of place: [(I, U)] by parameter."""
    states = [(torch.zeros_like(w), torch.zeros_like(w)) for w in weights]
    for step in gradients:
        for at, (w, g) in enumerate(zip(weights, step, strict=True)):
            s = (w * g).abs()
            i = torch.lerp(states[at][0], s, 1 - a1)
            states[at] = i, torch.lerp(states[at][1], (s - i).abs(), 1 - a2)
    return states


def drawn(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


TALL = 5000


def of_all_sizes() -> nn.ParameterDict:
    """Less than a block, more than one, and a tall embedding that a step reaches few rows of."""
    shapes = {"bias": (7,), "scale": (300,), "wide": (400, 1000), "words": (TALL, 8)}
    return nn.ParameterDict(
        {n: nn.Parameter(drawn(s, seed)) for seed, (n, s) in enumerate(shapes.items())}
    )


def gradients_of(model: nn.ParameterDict, step: int) -> list[torch.Tensor]:
    found = [drawn(tuple(p.shape), 10 * step + n) for n, p in enumerate(model.values())]
    rows = found[-1]
    rows[torch.arange(TALL) % 7 != step] = 0
    rows[step] = -0.0
    rows[step + 1, 3] = 1e-30  # the only entry of its row, and no norm would see it
    return found


def follow(capture: KlfImportance, model: nn.ParameterDict, steps: range) -> KlfImportance:
    for step in steps:
        for parameter, gradient in zip(model.values(), gradients_of(model, step), strict=True):
            parameter.grad = gradient
        capture.step()
    return capture


@pytest.mark.parametrize("buffers", ["device", "cpu"])
@pytest.mark.parametrize(("a1", "a2"), [(0.85, 0.85), (0.3, 0.9)])
def test_state_equals_the_recurrence_over_whole_tensors_bit_for_bit(buffers, a1, a2):
    model = of_all_sizes()
    capture = follow(KlfImportance.attach(model, a1=a1, a2=a2, buffers=buffers), model, range(5))
    weights = [p.detach() for p in model.values()]
    expected = naive(weights, [gradients_of(model, step) for step in range(5)], a1, a2)
    for pair, name in zip(expected, model, strict=True):
        for found, wanted in zip(state_of(capture)[name], pair, strict=True):
            assert found.device.type == "cpu"
            assert torch.equal(found, wanted.reshape(-1)), name


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_a_nonfinite_entry_in_a_row_of_an_embedding_skips_the_step(bad):
    model = of_all_sizes()
    capture = follow(KlfImportance.attach(model), model, range(1))
    before = {name: [t.clone() for t in pair] for name, pair in state_of(capture).items()}
    model["words"].grad[4321, 5] = bad
    assert capture.step() is False
    assert (capture.steps, capture.skipped) == (1, 1)
    for name, pair in state_of(capture).items():
        assert all(torch.equal(t, b) for t, b in zip(pair, before[name], strict=True))


def test_gradients_whose_norm_overflows_are_finite_all_the_same():
    model = scalar().half()
    capture = KlfImportance.attach(model)
    feed(capture, model, 6e4)
    wide = nn.Linear(4, 1, bias=False)
    other = KlfImportance.attach(wide)
    feed(other, wide, 3e38)  # the sum of squares is infinite
    assert (capture.steps, other.steps) == (1, 1)


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("timing", ["before", "after"])
def test_every_n_equals_the_formula_on_the_first_step_and_each_nth_after(every, timing):
    model = of_all_sizes()
    sampled = follow(KlfImportance.attach(model, timing=timing, every=every), model, range(7))
    first = 1 if timing == "after" else 0
    whole = KlfImportance.attach(model)
    for step in range(first, 7, every):
        follow(whole, model, range(step, step + 1))
    assert dict(sampled.map("t")) == dict(whole.map("t"))
    assert sampled.steps == whole.steps == len(range(first, 7, every))
    assert sampled.map("t").provenance["every"] == str(every)


def test_a_step_that_is_not_sampled_is_not_looked_at():
    model = scalar()
    capture = KlfImportance.attach(model, every=2)
    feed(capture, model, 1.0, float("nan"), 1.0)
    assert (capture.steps, capture.skipped) == (2, 0)
    model.weight.grad = None
    with pytest.raises(DeltakitError, match="no tracked parameter has a gradient"):
        capture.step()


@pytest.mark.parametrize("every", [0, -3, 2.5, "2"])
def test_every_that_is_no_count_is_refused(every):
    with pytest.raises(BadValue, match="every is no whole number above 0") as caught:
        KlfImportance.attach(scalar(), every=every)
    assert caught.value.got == str(every)


def test_an_unknown_place_for_buffers_is_refused():
    with pytest.raises(BadValue, match="device or cpu"):
        KlfImportance.attach(scalar(), buffers="gpu")


def test_state_is_exactly_two_buffers_of_the_tracked_size():
    model = of_all_sizes()
    capture = KlfImportance.attach(model)
    assert (capture.buffer_bytes, capture.scratch_bytes) == (0, 0)
    follow(capture, model, range(2))
    assert capture.buffer_bytes == 2 * sum(p.nbytes for p in model.parameters())
    held = [t for pair in state_of(capture).values() for t in pair]
    assert capture.buffer_bytes == sum(t.untyped_storage().nbytes() for t in held)
    assert capture.scratch_bytes == 2 * 1.5 * 2**17 * 4


def test_names_keep_only_those_parameters():
    model = nn.Linear(2, 2)
    assert list(KlfImportance.attach(model, names=["bias"]).parameters) == ["bias"]
    with pytest.raises(BadValue, match='did you mean "weight"'):
        KlfImportance.attach(model, names=["wieght"])


def test_units_that_capture_does_not_support_are_refused():
    with pytest.raises(DeltakitError, match="does not support these skill units"):
        KlfImportance.attach(scalar(), units="column")


def test_finer_units_have_the_tensors_score_as_their_mean():
    found = {}
    for units in ("tensor", "row", "element"):
        model = of_all_sizes()
        capture = KlfImportance.attach(model, units=units)
        follow(capture, model, range(3))
        found[units] = capture.map("t")
        assert found[units].units == units
    for name, whole in found["tensor"].items():
        element, row = found["element"][name], found["row"][name]
        assert element.shape == model.get_parameter(name).shape
        assert row.shape == element.shape[:1]
        torch.testing.assert_close(element.mean(), whole)
        torch.testing.assert_close(
            row, element.flatten(1).mean(1) if element.dim() > 1 else element
        )


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
