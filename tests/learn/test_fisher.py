"""The Fisher diagonal of live models, by hand."""

import pytest
import torch

from deltakit.learn.fisher import fisher


def line():
    """A model of one weight whose gradient is the example: squares 1 and 9, so 5."""
    model = torch.nn.Linear(1, 1, bias=False)
    return model, lambda batch: model(torch.tensor(batch)).sum(), [[1.0], [3.0]]


def test_gradients_left_from_before_are_no_part_of_it():
    model, loss, rows = line()
    loss([[7.0]]).backward()
    assert fisher(model, loss, rows, task="t")["weight"].item() == 5.0


@pytest.mark.parametrize("units", ["tensor", "row", "element"])
def test_a_sparse_gradient_counts_as_the_dense_one(units):
    found = []
    for sparse in (True, False):
        model = torch.nn.Embedding(4, 3, sparse=sparse)

        def loss(batch, model=model):
            return (model(torch.tensor(batch)) * torch.arange(3.0)).sum()

        rows = [[0, 2, 2], [2, 3]]  # a row met twice has its gradients added
        found.append(fisher(model, loss, rows, task="t", units=units)["weight"])
    assert torch.equal(*found)
    assert found[0].sum() > 0
