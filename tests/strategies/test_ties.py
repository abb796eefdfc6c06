from typing import Any

import numpy as np
import pytest
import torch

from deltakit.errors import BadValue
from deltakit.strategies import Stack, get
from tests.strategies.stacks import merge_in_pieces, model_of, random_deltas, whole_of

TOY = torch.tensor(
    [[4, -1, 3, 0.5, -2], [-2, 5, 1, -4, -3], [3, -6, 0.2, 1, -1]], dtype=torch.float32
)


def trim(delta: np.ndarray, density: float) -> np.ndarray:
    """Sort all magnitudes, the lowest index first among equals, and keep the first so many."""
    order = np.argsort(-np.abs(delta.ravel()), kind="stable")
    kept = np.zeros(delta.size, dtype=bool)
    kept[order[: max(1, round(density * delta.size))]] = True
    return np.where(kept.reshape(delta.shape), delta, np.float32(0))


def naive(
    trimmed: list[np.ndarray], weights: tuple[float, ...], elect: str, divide: str, combine: str
) -> np.ndarray:
    """TIES as the paper states it, entry by entry, in float32."""
    merged = np.zeros_like(trimmed[0])
    factors = np.array(weights, dtype=np.float32)
    for at in np.ndindex(*merged.shape):
        values = [delta[at] for delta in trimmed]
        votes = [
            np.float32(w * v) if elect == "mass" else np.sign(v)
            for w, v in zip(factors, values, strict=True)
        ]
        total = np.float32(0)
        for vote in votes:
            total += vote
        chosen = [i for i, value in enumerate(values) if value * np.sign(total) > 0]
        numerator, divisor = np.float32(0), np.float32(0)
        for i in chosen:
            numerator += np.float32(factors[i] * values[i])
            divisor += factors[i] if divide == "weights" else np.float32(1)
        if chosen:
            merged[at] = numerator / divisor if combine == "mean" else numerator
    return merged


@pytest.mark.parametrize(
    ("combine", "expected"), [("mean", [3.5, -6, 3, -4, -2.5]), ("sum", [7, -6, 3, -4, -5])]
)
def test_toy_by_hand(combine: str, expected: list[float]) -> None:
    merged = get("ties", {"density": 0.6, "combine": combine}).merge(Stack(TOY))
    torch.testing.assert_close(merged, torch.tensor(expected).float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("elect", ["mass", "count"])
@pytest.mark.parametrize("divide", ["weights", "count"])
@pytest.mark.parametrize("combine", ["mean", "sum"])
@pytest.mark.parametrize("density", [0.01, 0.2, 0.5, 1.0])
def test_ties_equals_a_naive_sort_based_float32_formula(
    density: float, elect: str, divide: str, combine: str
) -> None:
    deltas, weights = random_deltas(4, 33, 7, seed=3), (0.3, 1.7, 1.0, 0.5)
    words: dict[str, Any] = {"elect": elect, "divide": divide, "combine": combine}
    merged = get("ties", {"density": density, **words}).merge(Stack(deltas, weights=weights))
    expected = naive([trim(d, density) for d in deltas.numpy()], weights, **words)
    np.testing.assert_array_equal(merged.numpy(), expected)


def test_global_scope_trims_the_model_as_one_vector() -> None:
    shapes: dict[str, tuple[int, ...]] = {"b": (20, 3), "a": (), "c": (0, 2), "d": (41,)}
    parameters = {n: random_deltas(3, *shape, seed=ord(n)) for n, shape in shapes.items()}
    parameters["d"] *= 4.0  # most of what is kept lies here
    names = sorted(parameters)
    joined = np.concatenate([parameters[n].reshape(3, -1).numpy() for n in names], axis=1)
    weights = (1.0, 1.0, 1.0)
    trimmed = [trim(expert, 0.3) for expert in joined]
    expected = naive(trimmed, weights, "mass", "weights", "mean")
    ties, model, at = get("ties", {"density": 0.3, "scope": "global"}), model_of(parameters), 0
    for name in names:
        stack = Stack(
            parameters[name], whole=whole_of(parameters[name]), model=model, model_start=at
        )
        merged = merge_in_pieces(ties, stack, [16])
        count = merged.numel()
        np.testing.assert_array_equal(merged.numpy().ravel(), expected[at : at + count])
        at += count
    assert at == joined.shape[1]


def test_global_scope_of_a_model_of_one_parameter_is_the_tensor_scope() -> None:
    local, model = (get("ties", {"scope": scope}) for scope in ("tensor", "global"))
    stack = Stack(random_deltas(3, 50))
    assert torch.equal(local.merge(stack), model.merge(stack))


def test_where_the_sum_is_zero_nothing_is_elected() -> None:
    level = Stack(torch.tensor([[2.0, 3.0], [-2.0, 1.0]]))
    merged = get("ties", {"density": 1}).merge(level)
    assert merged.tolist() == [0.0, 2.0]


def test_weights_decide_the_election_and_the_mean() -> None:
    deltas = torch.tensor([[2.0], [-3.0], [1.0]])
    ties = get("ties", {"density": 1})
    assert ties.merge(Stack(deltas, weights=(2.0, 1.0, 1.0))).item() == pytest.approx(5 / 3)
    assert ties.merge(Stack(deltas, weights=(0.5, 1.0, 1.0))).item() == -3.0


@pytest.mark.parametrize("name", ["ties", "dare_ties"])
@pytest.mark.parametrize("weights", [[1.0, -1.0], [1.0, float("nan")], [0.0, 0.0]])
def test_weights_below_zero_or_all_zero_are_refused(name: str, weights: list[float]) -> None:
    with pytest.raises(BadValue, match=f"{name} votes by weight"):
        get(name).check_weights(weights)


@pytest.mark.parametrize("combine", ["mean", "sum"])
def test_a_task_of_weight_zero_is_as_if_left_out(combine: str) -> None:
    deltas = random_deltas(3, 33, 7, seed=5)
    ties = get("ties", {"density": 0.4, "combine": combine})
    ties.check_weights((0.7, 0.0, 1.3))
    alone = ties.merge(Stack(deltas[[0, 2]], weights=(0.7, 1.3)))
    assert torch.equal(ties.merge(Stack(deltas, weights=(0.7, 0.0, 1.3))), alone)


@pytest.mark.parametrize("setting", ["elect", "divide"])
def test_where_tasks_are_counted_one_of_weight_zero_is_refused(setting: str) -> None:
    with pytest.raises(BadValue, match="ties shares an entry out by weight"):
        get("ties", {setting: "count"}).check_weights([1.0, 0.0])


def test_what_is_read_beforehand() -> None:
    assert get("ties").looks == "tensor"
    assert get("ties", {"scope": "global"}).looks == "model"
    assert get("ties", {"scope": "global", "density": 1}).looks == "nothing"


def test_a_mean_whose_sum_overflows_is_infinite_and_has_the_sign() -> None:
    merged = get("ties", {"density": 1}).merge(Stack(torch.tensor([[3e38, -3e38]] * 2)))
    assert merged.tolist() == [float("inf"), float("-inf")]
