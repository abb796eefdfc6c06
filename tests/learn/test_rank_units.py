"""Rank units of a LoRA: scores by hand, and captured on a real PEFT adapter."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from deltakit.errors import BadValue
from deltakit.importance import ImportanceMap
from deltakit.learn.klf_importance import KlfImportance
from deltakit.learn.orthogonality import orthogonality
from deltakit.learn.rank_units import adapted_modules, rank_scores


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q = torch.nn.Linear(5, 4)

    def forward(self, x):
        return self.q(x)


def adapted():
    return get_peft_model(Net(), LoraConfig(r=3, target_modules=["q"], init_lora_weights=False))


def test_rank_scores_by_hand():
    found = rank_scores(torch.tensor([[1.0, 3], [2, 4]]), torch.tensor([[2.0, 0], [4, 2]]))
    assert found.tolist() == [6.0, 3.0]


def test_a_rank_score_is_the_mean_of_the_outer_product():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(3, 5, generator=generator), torch.rand(4, 3, generator=generator)
    outer = [torch.outer(b[:, i], a[i]).double().mean() for i in range(3)]
    torch.testing.assert_close(rank_scores(a, b), torch.stack(outer), rtol=1e-6, atol=0)


def test_capture_on_an_adapter_gives_one_score_a_rank(tmp_path):
    model = adapted()
    ranks = KlfImportance.attach(model, score="mixed", units="rank")
    tensors = KlfImportance.attach(model, score="mixed")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for _ in range(3):
        model(torch.ones(2, 5)).square().sum().backward()
        ranks.step()
        tensors.step()
        optimizer.step()
        optimizer.zero_grad()
    ranks.save(tmp_path / "map.safetensors", "t")
    found = ImportanceMap.open(tmp_path / "map.safetensors")
    assert found.units == "rank"
    (module,) = found
    assert module == "base_model.model.q"
    assert found[module].shape == (3,)
    # the mean over B's columns and A's rows of the same scalars, tensor by tensor
    a, b = (tensors._recurrence.product(f"{module}.lora_{half}.weight") for half in "AB")
    torch.testing.assert_close(found[module], rank_scores(a, b), rtol=1e-6, atol=0)


def test_scores_of_small_weights_and_gradients_are_not_zero(tmp_path):
    model = adapted()
    capture = KlfImportance.attach(model, score="second", units="rank")
    for name, weight in capture.parameters.items():
        weight.data.fill_(1e-2 if name.endswith("lora_A.weight") else 1e-3)
        weight.grad = torch.full_like(weight, 1e-8)
    capture.parameters["base_model.model.q.lora_A.weight"].grad[1] *= 2
    capture.step()
    capture.save(tmp_path / "map.safetensors", "t")
    (found,) = ImportanceMap.open(tmp_path / "map.safetensors").values()
    assert found[0] > 0
    assert found[1] / found[0] == pytest.approx(16, rel=1e-6)  # I U, of a square each


@pytest.mark.parametrize("names", [[], ["head.weight"], ["q.lora_A.weight"]])
def test_parameters_without_rank_units_are_refused(names):
    with pytest.raises(BadValue, match="rank units need pairs"):
        adapted_modules(names)


def test_orthogonality_by_hand():
    model = torch.nn.Module()
    model.lora_A = torch.nn.Linear(2, 2, bias=False)
    model.lora_B = torch.nn.Linear(2, 2, bias=False)
    model.lora_A.weight.data = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    model.lora_B.weight.data.zero_()
    assert orthogonality(model).item() == pytest.approx(0.1573132, abs=1e-6)


def test_orthogonality_of_an_adapter_has_gradients_for_a_and_b():
    model = adapted()
    orthogonality(model).backward()
    trained = {n for n, p in model.named_parameters() if p.grad is not None}
    assert {name.split(".")[-3] for name in trained} == {"lora_A", "lora_B"}


def test_orthogonality_without_a_lora_is_refused():
    with pytest.raises(BadValue, match="no LoRA that is trained"):
        orthogonality(Net())


def test_only_a_and_b_count_for_orthogonality():
    torch.manual_seed(0)
    config = LoraConfig(r=3, target_modules=["q"], init_lora_weights=False, use_dora=True)
    model = get_peft_model(Net(), config)
    norms = []
    for name, p in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            rows = p if "lora_A" in name else p.T
            norms.append((rows @ rows.T - torch.eye(3)).norm())
    assert len(norms) == 2
    torch.testing.assert_close(orthogonality(model), 0.1 * sum(norms) / 2)
