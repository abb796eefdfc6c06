"""The orthogonality regulariser of LoRA-tailored KlF (arXiv:2408.05200)."""

from __future__ import annotations

import torch
from torch import Tensor

from deltakit.errors import BadValue


def orthogonality(model: torch.nn.Module, weight: float = 0.1) -> Tensor:
    """Return what to add to the task's loss so that a LoRA's ranks stay apart.

    >>> class Adapter(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.lora_A = torch.nn.Linear(2, 2, bias=False)
    ...         self.lora_B = torch.nn.Linear(2, 2, bias=False)
    >>> adapter = Adapter()
    >>> _ = adapter.lora_A.weight.data.copy_(torch.tensor([[1.0, 0], [1, 1]]))
    >>> _ = adapter.lora_B.weight.data.zero_()
    >>> round(orthogonality(adapter).item(), 6)
    0.157313

    weight * the mean, over all A (r, d_in) and B (d_out, r) of the model that are trained, of the
    Frobenius norms (not squared) ||A A^T - I|| and ||B^T B - I||. Raises BadValue for a model
    without a LoRA.
    """
    norms: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or not {"lora_A", "lora_B"} & set(name.split(".")):
            continue
        if name.endswith("weight"):
            if parameter.ndim != 2:
                raise BadValue("a LoRA of a convolution has no such regulariser", where=name)
            rows = parameter if "lora_A" in name else parameter.T  # (r, n)
            norms.append(torch.linalg.matrix_norm(rows @ rows.T - torch.eye(len(rows)).to(rows)))
    if not norms:
        raise BadValue(
            "the model has no LoRA that is trained",
            got=type(model).__name__,
            remedy="wrap it with peft.get_peft_model first",
        )
    return weight * torch.stack(norms).mean()
