"""A LoRA out of a full fine-tune: what is low-rank comes back whole, the rest is kept or told."""

import pytest
import torch

from deltakit.errors import AlreadyThere, BadValue, NamesDiffer
from deltakit.lora import open_adapter
from deltakit.lora.cut import Size
from deltakit.lora.extract import extract
from deltakit.lora.extraction import plan_extract
from deltakit.merging import merge
from deltakit.tensors.checkpoint import Checkpoint
from tests.lora.adapters import clip, llama, opt, output, tied_llama, write_base
from tests.models import write_model


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


BASE = {"q.weight": random(12, 9), "k.weight": random(7, 9), "norm.weight": random(9)}


def tuned(ranks, **others):
    found = dict(BASE)
    for number, (name, rank) in enumerate(ranks.items()):
        rows, columns = BASE[name].shape
        found[name] = BASE[name] + random(rows, rank, seed=number + 5) @ random(
            rank, columns, seed=number + 9
        )
    return {**found, **others}


def planned(folder, tensors, **options):
    write_model(folder / "base", BASE)
    write_model(folder / "tuned", tensors)
    return plan_extract(folder / "base", folder / "tuned", **options)


def baked(folder):
    merge([f"{folder}/lora"], "task_arithmetic", folder / "baked", base=f"{folder}/base")
    return Checkpoint.open(folder / "baked")


def test_a_low_rank_delta_comes_back_whole(tmp_path):
    tensors = tuned({"q.weight": 2, "k.weight": 1}, **{"norm.weight": random(9, seed=3)})
    report = extract(planned(tmp_path, tensors, size=Size(rank=2)), tmp_path / "lora")
    assert report.summary.error < 1e-5
    assert report.kept == ["norm.weight"]
    found = baked(tmp_path)
    for name, wanted in tensors.items():
        torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=1e-5)


def test_an_energy_finds_the_rank_of_each_module(tmp_path):
    plan = planned(tmp_path, tuned({"q.weight": 3, "k.weight": 1}), size=Size(energy=0.999999))
    assert dict(plan.ranks) == {"q.weight": 3, "k.weight": 1}


def test_what_did_not_change_gets_no_factors(tmp_path):
    assert list(planned(tmp_path, tuned({"k.weight": 1})).ranks) == ["k.weight"]


def test_a_size_buys_the_ranks_of_most_energy_for_their_bytes(tmp_path):
    tensors = tuned({"q.weight": 3, "k.weight": 3})
    plan = planned(tmp_path, tensors, nbytes=4 * (21 + 16 + 21), look=True)
    squares = {
        name: torch.linalg.svdvals(tensors[name] - BASE[name]).square().tolist()
        for name in plan.ranks
    }
    spent = sum({"q.weight": 21, "k.weight": 16}[n] * rank for n, rank in plan.ranks.items())
    assert spent <= 58
    prices = {"q.weight": 21, "k.weight": 16}
    bought = [s / prices[n] for n, rank in plan.ranks.items() for s in squares[n][:rank]]
    left = [s / prices[n] for n, rank in plan.ranks.items() for s in squares[n][rank:]]
    assert min(bought) >= max(left)


def test_the_table_tells_quality_and_size_before_anything_is_written(tmp_path):
    plan = planned(tmp_path, tuned({"q.weight": 5}), size=Size(rank=2), look=True)
    rows = {what: (nbytes, kept) for what, nbytes, kept in plan.table()}
    squares = torch.linalg.svdvals(tuned({"q.weight": 5})["q.weight"] - BASE["q.weight"]).square()
    for what, rank in (("chosen", 2), ("rank 4", 4)):
        assert rows[what][0] == 4 * 21 * rank
        assert rows[what][1] == pytest.approx(float(squares[:rank].sum() / squares.sum()), abs=1e-5)
    assert rows["rank 8"][1] == pytest.approx(1.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]


def test_what_no_lora_holds_is_kept_left_or_refused(tmp_path):
    tensors = tuned({"q.weight": 1}, **{"norm.weight": random(9, seed=3)})
    write_model(tmp_path / "base", BASE)
    write_model(tmp_path / "tuned", tensors)
    both = tmp_path / "base", tmp_path / "tuned"
    with pytest.raises(BadValue, match=r"no LoRA holds(.|\n)*norm.weight"):
        plan_extract(*both, rest="refuse")
    left = plan_extract(*both, rest="drop")
    assert any("norm.weight" in note for note in left.notes)
    extract(left, tmp_path / "lora")
    assert torch.equal(baked(tmp_path)["norm.weight"], BASE["norm.weight"])


def test_equal_models_and_other_models_are_refused(tmp_path):
    with pytest.raises(BadValue, match="equals the base"):
        planned(tmp_path, BASE)
    write_model(tmp_path / "other", {"x.weight": random(2, 2)})
    with pytest.raises(NamesDiffer):
        plan_extract(tmp_path / "base", tmp_path / "other")
    with pytest.raises(BadValue, match="size and a rank"):
        plan_extract(tmp_path / "base", tmp_path / "tuned", size=Size(rank=2), nbytes=100)


def test_a_target_that_is_not_free_is_refused_before_the_look(tmp_path):
    looked = []
    both = write_model(tmp_path / "base", BASE), write_model(tmp_path / "tuned", BASE)

    def plan(out, **options):
        plan_extract(*both, out=out, progress=lambda name, _: looked.append(name), **options)

    (tmp_path / "lora").mkdir()
    with pytest.raises(AlreadyThere, match=r"exists already(.|\n)*--overwrite"):
        plan(tmp_path / "lora")
    with pytest.raises(AlreadyThere, match="not ours to replace"):
        plan(tmp_path / "lora", overwrite=True)
    with pytest.raises(BadValue, match="would replace an input"):
        plan(tmp_path / "base", overwrite=True)
    assert not looked
    with pytest.raises(BadValue, match="equals the base"):
        plan(tmp_path / "free")
    assert looked


@pytest.mark.parametrize("make", [llama, tied_llama, clip, opt])
def test_peft_loads_what_was_extracted(tmp_path, make):
    base = write_base(tmp_path / "base", make)

    def moved():
        model = make()
        draws = torch.Generator().manual_seed(3)
        for value in model.parameters():
            value.data += 0.1 * torch.randn(value.shape, generator=draws)
        return model

    write_base(tmp_path / "tuned", moved)
    report = extract(
        plan_extract(base, tmp_path / "tuned", size=Size(energy=1.0)), tmp_path / "lora"
    )
    assert report.summary.error < 1e-5
    wanted = output(tmp_path / "tuned")
    torch.testing.assert_close(output(base, tmp_path / "lora"), wanted, rtol=0, atol=1e-4)
    torch.testing.assert_close(output(baked(tmp_path).path), wanted, rtol=0, atol=1e-4)
    assert open_adapter(tmp_path / "lora").config.bias == "all"


@pytest.mark.parametrize(
    ("module", "kept"),
    [
        ("text_model.embeddings.token_embedding", True),
        ("decoder.embed_tokens.1", True),
        ("SelfAttention.relative_attention_bias", True),
        ("transformer.wpe", True),
        ("encoder.rel_embeddings", True),
        ("embed_out", False),
        ("lm_head", False),
        ("embedder.layers.0.query", False),
    ],
)
def test_embeddings_of_any_name_are_kept_whole_and_heads_are_not(tmp_path, module, kept):
    name = f"{module}.weight"
    write_model(tmp_path / "base", {name: random(12, 9)})
    write_model(tmp_path / "tuned", {name: random(12, 9, seed=1)})
    plan = plan_extract(tmp_path / "base", tmp_path / "tuned")
    assert (plan.whole, list(plan.ranks)) == (([name], []) if kept else ([], [name]))


def test_a_shared_embedding_that_peft_does_not_pass_on_is_told(tmp_path):
    for number, name in enumerate(("base", "tuned")):
        tensors = {n: random(12, 9, seed=number) for n in ("shared.weight", "q.weight")}
        write_model(tmp_path / name, tensors)
    both = tmp_path / "base", tmp_path / "tuned"
    (note,) = plan_extract(*both).notes
    assert note.startswith("shared.weight is kept whole, but PEFT does not pass it on")
    assert not any("PEFT" in note for note in plan_extract(*both, rest="drop").notes)


def test_the_leading_singular_values_of_a_large_delta_are_found(tmp_path):
    base = {"w.weight": torch.zeros(700, 600)}
    sigma = 0.9 ** torch.arange(600.0)
    u, v = (torch.linalg.qr(random(n, 600, seed=n)).Q for n in (700, 600))
    write_model(tmp_path / "base", base)
    write_model(tmp_path / "tuned", {"w.weight": (u * sigma) @ v.T})
    report = extract(
        plan_extract(tmp_path / "base", tmp_path / "tuned", size=Size(rank=16)), tmp_path / "lora"
    )
    lost = float(sigma[16:].square().sum() / sigma.square().sum())
    assert report.summary.kept == pytest.approx(1 - lost, abs=1e-4)


@pytest.mark.parametrize(
    "wish", [{"size": Size(rank=2)}, {"size": Size(energy=0.8)}, {"nbytes": 300}]
)
def test_factors_held_and_factors_found_again_are_the_same(tmp_path, monkeypatch, wish):
    tensors = tuned({"q.weight": 4, "k.weight": 3})
    digests = []
    for number, most in enumerate((1_000_000, 100, 0)):
        monkeypatch.setattr("deltakit.lora.extraction.MOST_HELD", most)
        folder = tmp_path / f"{number}"
        plan = planned(folder, tensors, **wish)
        assert sum(found.held is not None for found in plan.changed) == (0 if most < 200 else 2)
        report = extract(plan, folder / "lora")
        digests.append(open_adapter(folder / "lora").source.digests())
    assert digests[0] == digests[1] == digests[2]
    left = baked(folder)
    lost = sum(float((left[n] - t).double().square().sum()) for n, t in tensors.items())
    total = sum(float((BASE[n] - t).double().square().sum()) for n, t in tensors.items())
    assert report.summary.error == pytest.approx((lost / total) ** 0.5, rel=1e-4)
