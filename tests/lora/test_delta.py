"""An adapter as an expert of a merge: its blocks, and the bases it is refused for."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deltakit.engine import Limits
from deltakit.errors import BadFile, BadValue, NamesDiffer, NonFinite, ShapeMismatch
from deltakit.lora import open_adapter
from deltakit.lora.delta import AdapterDelta
from deltakit.lora.low_rank import LowRank
from deltakit.merging import merge
from deltakit.tensors.source import MemoryTensors
from tests.lora.folders import delta, factors, write_folder
from tests.models import write_model


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(
    rows=st.integers(1, 300),
    columns=st.integers(1, 700),
    rank=st.integers(1, 20),
    cuts=st.lists(st.floats(0, 1), max_size=4),
)
def test_the_bits_of_an_entry_do_not_depend_on_the_cuts(rows, columns, rank, cuts):
    matrix = LowRank(random(rows, rank), random(rank, columns, seed=1))
    whole = torch.zeros(rows * columns)
    matrix.add_to(whole, 0)
    torch.testing.assert_close(
        whole.reshape(rows, columns), matrix.left @ matrix.right, rtol=1e-4, atol=1e-4
    )
    places = sorted({0, rows * columns, *(int(cut * rows * columns) for cut in cuts)})
    for start, stop in itertools.pairwise(places):
        block = torch.zeros(stop - start)
        matrix.add_to(block, start)
        assert torch.equal(block, whole[start:stop])


@pytest.mark.parametrize("dora", [False, True])
def test_merged_bytes_do_not_depend_on_blocks_or_threads(tmp_path, dora):
    write_model(tmp_path / "base", {"q.weight": random(70, 900), "e.weight": random(900, 70)})
    for seed in (1, 2):
        tensors = {}
        for module, size in (("q", (70, 900)), ("e", (900, 70))):
            tensors |= factors(module, seed, 5, *size)
            if dora:
                tensors[f"{module}.lora_magnitude_vector"] = random(size[0], seed=seed).abs()
        write_folder(tmp_path / f"{seed}", tensors, r=5, use_dora=dora)
    found = []
    for number, limits in enumerate(
        [Limits(1, 1 << 18), Limits(2, 1000), Limits(3, 4096), Limits(1, 77_000)]
    ):
        out = tmp_path / f"out{number}"
        merge(
            [f"{tmp_path}/1", f"{tmp_path}/2"],
            "ties",
            out,
            base=str(tmp_path / "base"),
            limits=limits,
        )
        found.append((out / "model.safetensors").read_bytes())
    assert len(set(found)) == 1


def test_a_full_fine_tune_and_an_adapter_merge_together(tmp_path):
    base = {"q.weight": random(6, 5), "q.bias": random(6, seed=4)}
    tuned = {name: value + 0.1 * random(*value.shape, seed=5) for name, value in base.items()}
    write_model(tmp_path / "base", base)
    write_model(tmp_path / "ft", tuned)
    tensors = factors("q", 1)
    write_folder(tmp_path / "lora", tensors, r=2, lora_alpha=3)
    report = merge(
        [f"{tmp_path}/lora", f"{tmp_path}/ft"],
        "task_arithmetic",
        tmp_path / "m",
        base=str(tmp_path / "base"),
        weights=[1.0, 0.5],
    )
    from deltakit.tensors.checkpoint import Checkpoint

    merged = Checkpoint.open(tmp_path / "m")
    expected = base["q.weight"] + delta(tensors, "q", 1.5).float()
    expected += 0.5 * (tuned["q.weight"] - base["q.weight"])
    torch.testing.assert_close(merged["q.weight"], expected)
    torch.testing.assert_close(
        merged["q.bias"], base["q.bias"] + 0.5 * (tuned["q.bias"] - base["q.bias"])
    )
    assert report.changed == 2


def fitted(tmp_path, base, tensors=None, **config):
    folder = write_folder(tmp_path / "a", tensors or factors("model.q", 1), **{"r": 2, **config})
    found = AdapterDelta(open_adapter(folder))
    return found, found.check_base(MemoryTensors(base))


def block(found, name, base):
    out = torch.empty(base.numel())
    found.block_into(out, name, 0, base.reshape(-1))
    return out.reshape(base.shape)


def test_only_adapted_parameters_change(tmp_path):
    base = {"model.q.weight": random(6, 5), "model.k.weight": random(6, 5)}
    found, notes = fitted(tmp_path, base)
    assert notes == []
    assert found.changes("model.q.weight")
    assert not found.changes("model.k.weight")
    assert not block(found, "model.k.weight", base["model.k.weight"]).any()


@pytest.mark.parametrize("names", [("bert.model.q.weight", "x"), ("q.weight", "x.weight")])
def test_one_prefix_more_or_less_is_found_and_told(tmp_path, names):
    base = {name: random(6, 5) for name in names}
    found, notes = fitted(tmp_path, base)
    assert found.changes(names[0])
    assert len(notes) == 1


def test_a_weight_of_inputs_by_outputs_gets_the_transpose(tmp_path):
    tensors = factors("model.q", 1)
    base = {"model.q.weight": random(5, 6)}
    found, _ = fitted(tmp_path, base, tensors, lora_alpha=2)
    got = block(found, "model.q.weight", base["model.q.weight"])
    torch.testing.assert_close(got.double(), delta(tensors, "model.q", 1.0).T)


@pytest.mark.parametrize("turned", [False, True])
def test_a_square_weight_goes_by_the_config(tmp_path, turned):
    tensors = factors("model.q", 1, outputs=5)
    base = {"model.q.weight": random(5, 5)}
    found, _ = fitted(tmp_path, base, tensors, lora_alpha=2, fan_in_fan_out=turned)
    got = block(found, "model.q.weight", base["model.q.weight"])
    expected = delta(tensors, "model.q", 1.0)
    torch.testing.assert_close(got.double(), expected.T if turned else expected)


def test_nothing_applied_names_both_sides_nearest(tmp_path):
    with pytest.raises(NamesDiffer, match=r"nothing would be(.|\n)*model.qx.weight(.|\n)*model.q"):
        fitted(tmp_path, {"model.qx.weight": random(6, 5)})


def test_a_module_the_base_lacks_is_not_passed_over(tmp_path):
    tensors = factors("model.q", 1) | factors("model.k", 2)
    with pytest.raises(NamesDiffer, match=r"lacks 1 of the 2(.|\n)*model.k.weight"):
        fitted(tmp_path, {"model.q.weight": random(6, 5)}, tensors)


def test_two_places_that_fit_are_refused(tmp_path):
    with pytest.raises(BadValue, match="fits two parts"):
        fitted(tmp_path, {"a.model.q.weight": random(6, 5), "b.model.q.weight": random(6, 5)})


def test_a_base_of_another_shape_is_refused(tmp_path):
    with pytest.raises(ShapeMismatch, match=r"\[6, 7\]"):
        fitted(tmp_path, {"model.q.weight": random(6, 7)})


def test_a_resized_vocabulary_is_refused(tmp_path):
    tensors = {
        "model.e.lora_embedding_A": random(2, 8),
        "model.e.lora_embedding_B": random(5, 2),
    }
    with pytest.raises(ShapeMismatch, match=r"(.|\n)*vocabulary"):
        fitted(tmp_path, {"model.e.weight": random(7, 5)}, tensors)


def test_a_base_of_integers_is_refused_with_what_to_do(tmp_path):
    base = {"model.q.weight": torch.ones(15, 1, dtype=torch.uint8)}
    with pytest.raises(BadFile, match=r"integer weights(.|\n)*dequantise"):
        fitted(tmp_path, base)


def test_nan_in_what_is_kept_whole_is_refused_when_it_is_baked(tmp_path):
    tensors = factors("model.q", 1) | {"model.norm.weight": torch.full((5,), torch.nan)}
    base = {"model.q.weight": random(6, 5), "model.norm.weight": random(5)}
    found, _ = fitted(tmp_path, base, tensors, modules_to_save=["norm"])
    with pytest.raises(NonFinite, match=r"NaN(.|\n)*model.norm.weight"):
        block(found, "model.norm.weight", base["model.norm.weight"])
