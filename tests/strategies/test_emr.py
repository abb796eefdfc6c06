"""Where EMR's rescaler is over the whole model, so are the weights."""

import pytest
import torch

from deltakit.errors import BadValue
from deltakit.strategies import Stack, get
from tests.strategies.stacks import model_of, random_deltas

PARAMETERS = {"h.0.w": random_deltas(2, 3, 4, seed=1), "h.1.w": random_deltas(2, 3, 4, seed=2)}


def merged(scope: str, *weights: tuple[float, float]) -> list[torch.Tensor]:
    """Both parameters in order, each by weights of its own."""
    model = model_of(PARAMETERS)
    emr = get("emr", {"task": "task2", "scope": scope})
    return [
        emr.merge(Stack(deltas, its, name=name, model=model, model_start=12 * place))
        for place, ((name, deltas), its) in enumerate(zip(PARAMETERS.items(), weights, strict=True))
    ]


def test_a_rescaler_over_the_model_takes_the_same_weights_everywhere() -> None:
    with pytest.raises(BadValue, match="other weights in one parameter") as error:
        merged("global", (1.0, 3.0), (3.0, 1.0))
    for words in ("h.1.w", "1, 3", "3, 1", "scope=tensor"):
        assert words in str(error.value)
    merged("global", (1.0, 3.0), (1.0, 3.0))


def test_a_rescaler_of_each_tensor_takes_each_tensors_own_weights() -> None:
    for made, reversed_ in zip(
        merged("tensor", (1.0, 3.0), (3.0, 1.0)),
        [merged("tensor", (1.0, 3.0), (1.0, 3.0))[0], merged("tensor", (3.0, 1.0), (3.0, 1.0))[1]],
        strict=True,
    ):
        assert torch.equal(made, reversed_)
