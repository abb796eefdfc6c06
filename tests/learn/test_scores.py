"""The importance recurrence, against numbers worked out by hand."""

import pytest
import torch

from deltakit.errors import BadValue
from deltakit.learn import blocks, scores


def run(
    score: str, weights: torch.Tensor, gradients: list[torch.Tensor], **decays: float
) -> tuple[torch.Tensor, torch.Tensor]:
    rule = scores.Rule(score, **{"a1": 0.85, "a2": 0.85, **decays})
    state, spread = torch.zeros(weights.numel()), torch.zeros(weights.numel())
    scratch = blocks.Scratch(torch.device("cpu"), weights.numel())
    for gradient in gradients:
        flat = weights.reshape(-1), gradient.reshape(-1)
        blocks.step_([blocks.Part(state, spread, *flat)], scratch, rule)
    return state, spread


@pytest.mark.parametrize(
    ("score", "state", "spread", "product"),
    [
        ("first", 0.158175, 0.11647125, 0.01842284),
        ("second", 0.074235, 0.05491425, 0.00407656),
        ("mixed", 0.1210575, 0.08901412, 0.01077583),
    ],
)
def test_three_steps_give_the_hand_computed_score(score, state, spread, product):
    found = run(score, torch.tensor([2.0]), [torch.tensor([g]) for g in (0.1, 0.3, 0.2)])
    assert found[0].item() == pytest.approx(state, abs=1e-6)
    assert found[1].item() == pytest.approx(spread, abs=1e-6)
    assert scores.unit_score(*found) == pytest.approx(product, abs=1e-6)


def test_spread_uses_the_state_just_updated():
    state, spread = run("first", torch.ones(1), [torch.ones(1)], a1=0.5, a2=0.5)
    assert (state.item(), spread.item()) == (0.5, 0.25)  # not 0.5: |1 - 0.5|, then halved


def test_a_score_is_the_same_however_it_is_cut_into_blocks(monkeypatch):
    weights = torch.linspace(-1, 1, 257).reshape(257, 1)
    gradients = [torch.sin(weights * k) for k in (1, 2, 3)]
    whole = run("mixed", weights, gradients)
    monkeypatch.setattr(scores, "CPU_BLOCK", 10)
    for one, other in zip(whole, run("mixed", weights, gradients), strict=True):
        assert torch.equal(one, other)


def test_half_precision_is_widened_before_it_is_multiplied():
    weights, gradient = torch.tensor([3.0]).bfloat16(), torch.tensor([0.1]).bfloat16()
    state, _ = run("first", weights, [gradient], a1=0.0, a2=0.0)
    assert state.item() == pytest.approx(3 * float(gradient), rel=1e-6)  # no bf16 product


def test_weights_and_gradients_are_only_read():
    weights, gradient = torch.randn(4, 5), torch.randn(4, 5)
    before = weights.clone(), gradient.clone()
    run("mixed", weights, [gradient, gradient])
    assert torch.equal(weights, before[0])
    assert torch.equal(gradient, before[1])


def test_decay_equals_a_step_with_gradient_zero():
    weights = torch.linspace(-2, 2, 9)
    gradients = [torch.ones(9), torch.zeros(9)]
    state, spread = run("first", weights, gradients)
    other = run("first", weights, gradients[:1])
    scores.decay_(*other, scores.Rule("first", 0.85, 0.85))
    torch.testing.assert_close(other, (state, spread), rtol=1e-6, atol=0)


def test_unit_score_is_the_mean_over_scalars_in_float64():
    ones = torch.ones(1 << 20)
    tiny = torch.full_like(ones, 1e-30)  # the product of two of these is no float32
    assert scores.unit_score(tiny, tiny) == pytest.approx(1e-60, rel=1e-6)


def test_an_unknown_score_names_the_nearest():
    with pytest.raises(BadValue, match='did you mean "second"') as caught:
        scores.check_score("secnd")
    assert caught.value.expected == "first, second, mixed"


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(BadValue, match=r"a1 is outside \[0, 1\)"):
        scores.check_decay("a1", decay)


def test_a_window_of_n_steps_weighs_each_by_a_nth():
    assert scores.decays(0.85, 0.85, 100) == (0.99, 0.99)
    assert scores.decays(0.2, 0.3, None) == (0.2, 0.3)


@pytest.mark.parametrize("window", [1, 0, -3, 2.5, True, "all"])
def test_a_window_that_is_no_number_of_steps_is_refused(window):
    with pytest.raises(BadValue, match="whole number above 1"):
        scores.decays(0.85, 0.85, window)


def test_a_window_beside_other_decays_is_refused():
    with pytest.raises(BadValue, match="a window sets a1 and a2"):
        scores.decays(0.9, 0.85, 10)


@pytest.mark.parametrize("window", ["most", "", "-1", "1.5", "\u0664", "9" * 30])
def test_a_window_that_is_no_word_is_refused(window):
    with pytest.raises(BadValue, match="a number of steps, or all"):
        scores.window_of(window, 10)


@pytest.mark.parametrize("least", [float("nan"), float("inf"), 2.0**-99])
def test_a_flush_leaves_what_it_may_not_hide(least):
    mean = torch.tensor([0.0, 2.0**-100, 1e-45, least, 1.0])
    scores.flush_(mean)
    torch.testing.assert_close(mean, torch.tensor([0.0, 0.0, 0.0, least, 1.0]), equal_nan=True)
