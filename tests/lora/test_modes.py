"""Laws of the modes: what is exact is exact, what is cut is the nearest, what averages averages."""

import pytest
import torch

from deltakit import strategies
from deltakit.errors import BadValue, NamesDiffer, ShapeMismatch, UnknownName
from deltakit.importance import ImportanceMap
from deltakit.lora import open_adapter
from deltakit.lora.cut import Size
from deltakit.lora.merge import merge_adapters
from deltakit.lora.modes import find, names
from deltakit.lora.union import Member
from deltakit.merging import merge
from deltakit.strategies import Stack, get
from deltakit.tensors.checkpoint import Checkpoint
from tests.lora.folders import delta, factors, write_folder
from tests.models import write_model

SCALINGS = {"a": 1.5, "b": 4.0, "c": 0.5}


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Adapters of different ranks, scalings, dtypes and modules: (members, dense deltas)."""
    root = tmp_path_factory.mktemp("three")
    a = factors("q", 1, rank=2) | factors("k", 2, rank=2)
    b = factors("q", 3, rank=3, dtype=torch.bfloat16)
    c = factors("q", 4, rank=2) | factors("v", 5, rank=4)
    write_folder(root / "a", a, r=2, lora_alpha=3)
    write_folder(
        root / "b",
        b,
        r=4,
        lora_alpha=8,
        use_rslora=True,
        rank_pattern={"q": 3},
        alpha_pattern={"q": 4 * 3**0.5},
    )
    write_folder(root / "c", c, r=2, lora_alpha=1, rank_pattern={"v": 4}, alpha_pattern={"v": 2})
    found = {}
    for name, tensors in (("a", a), ("b", b), ("c", c)):
        for module in "qkv":
            if f"{module}.lora_A.weight" in tensors:
                found[name, module] = delta(tensors, module, SCALINGS[name])
    return root, found


def members(root, weights=(1.0, 0.5, -0.25), order="abc"):
    given = dict(zip("abc", weights, strict=True))
    return [Member(name, open_adapter(root / name), given[name]) for name in order]


def product(folder, module):
    found = open_adapter(folder).factors(module)
    return (found.b @ found.a).double()


def exact(deltas, module, weights=(1.0, 0.5, -0.25)):
    given = dict(zip("abc", weights, strict=True))
    return sum(given[name] * d for (name, m), d in deltas.items() if m == module)


LINEAR_MODES = {
    "cat": {},
    "task_arithmetic": {},
    "core_space": {"strategy": "task_arithmetic"},
    "knots": {"strategy": "task_arithmetic"},
}


@pytest.mark.parametrize(("mode", "settings"), LINEAR_MODES.items())
def test_a_linear_mode_is_the_weighted_sum(three, mode, settings, tmp_path):
    root, deltas = three
    report = merge_adapters(members(root), mode, tmp_path / "m", settings=settings)
    for module in "qkv":
        torch.testing.assert_close(
            product(tmp_path / "m", module), exact(deltas, module), rtol=1e-5, atol=1e-5
        )
    assert report.summary.error < 1e-6
    assert report.summary.kept == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("rank", [1, 3])
def test_svd_is_the_nearest_matrix_of_its_rank(three, rank, tmp_path):
    root, deltas = three
    report = merge_adapters(members(root), "svd", tmp_path / "m", size=Size(rank=rank))
    lost = total = 0.0
    for module in "qkv":
        wanted = exact(deltas, module)
        u, sigma, v = torch.linalg.svd(wanted, full_matrices=False)
        nearest = (u[:, :rank] * sigma[:rank]) @ v[:rank]
        torch.testing.assert_close(product(tmp_path / "m", module), nearest, rtol=1e-5, atol=1e-5)
        lost += float(sigma[rank:].square().sum())
        total += float(sigma.square().sum())
    assert report.summary.kept == pytest.approx(1 - lost / total, abs=1e-6)
    assert report.summary.error == pytest.approx((lost / total) ** 0.5, abs=1e-5)


def test_an_energy_gives_each_module_the_smallest_rank_that_holds_it(three, tmp_path):
    root, deltas = three
    report = merge_adapters(members(root), "svd", tmp_path / "m", size=Size(energy=0.9))
    for found in report.modules:
        squares = torch.linalg.svdvals(exact(deltas, found.module)).square()
        held = squares.cumsum(0) / squares.sum()
        assert found.rank == int((held >= 0.9).nonzero()[0]) + 1
    assert all(found.kept >= 0.9 - 1e-6 for found in report.modules)


def test_linear_has_the_cross_terms_that_its_report_tells(tmp_path):
    tensors = {name: factors("q", seed) for seed, name in enumerate("ab")}
    for name in "ab":
        write_folder(tmp_path / name, tensors[name], r=2, lora_alpha=2)
    both = [Member(name, open_adapter(tmp_path / name)) for name in "ab"]
    report = merge_adapters(both, "linear", tmp_path / "m")
    a, b = (sum(tensors[name][f"q.lora_{half}.weight"].double() for name in "ab") for half in "AB")
    torch.testing.assert_close(product(tmp_path / "m", "q"), b @ a, rtol=1e-5, atol=1e-5)
    wanted = sum(delta(tensors[name], "q", 1.0) for name in "ab")
    error = float((b @ a - wanted).norm() / wanted.norm())
    assert report.summary.error == pytest.approx(error, rel=1e-4)


def test_linear_refuses_different_ranks(three, tmp_path):
    with pytest.raises(BadValue, match="ranks differ"):
        merge_adapters(members(three[0]), "linear", tmp_path / "m")


ALONE = [
    name
    for name in strategies.names()
    if not strategies.find(name).needs_importance and name not in ("knots", "core_space")
]


@pytest.mark.parametrize("strategy", ALONE)
def test_a_strategy_is_what_the_merge_into_a_base_makes_of_it(three, strategy, tmp_path):
    root, _ = three
    chosen = strategies.get(strategy)
    write_model(tmp_path / "base", {f"{m}.weight": torch.zeros(6, 5) for m in "qkv"})
    weights = (1.0, 0.5, 0.25) if chosen.weighted else (1.0, 1.0, 1.0)
    names = "ab" if chosen.most == 2 else "abc"
    given = members(root, weights, names)
    adapters = [f"{name}={root / name}" for name in names]
    settings = {"on": "deltas"} if hasattr(chosen, "on") else {}
    options = {"settings": settings, "seed": 3}
    merge(
        adapters,
        strategy,
        tmp_path / "full",
        base=str(tmp_path / "base"),
        weights=weights[: len(names)],
        **options,
    )
    merge_adapters(given, strategy, tmp_path / "m", size=Size(rank=5), **options)
    full = Checkpoint.open(tmp_path / "full")
    for module in open_adapter(tmp_path / "m").parts:
        found = product(tmp_path / "m", module)
        torch.testing.assert_close(found, full[f"{module}.weight"].double(), rtol=1e-4, atol=2e-4)


def test_knots_merges_the_aligned_rows(three, tmp_path):
    root, deltas = three
    merge_adapters(
        members(root, (1.0, 1.0, 1.0)), "knots", tmp_path / "m", settings={"density": 1.0}
    )
    given = [deltas[name, "q"] for name in "abc"]
    u, sigma, v = torch.linalg.svd(torch.cat(given, dim=1), full_matrices=False)
    rows = torch.stack(list(v.split(5, dim=1)))
    merged = get("ties", {"density": 1.0}).merge(Stack(rows))
    torch.testing.assert_close(
        product(tmp_path / "m", "q"), (u * sigma) @ merged, rtol=1e-3, atol=1e-3
    )


def test_core_space_merges_the_cores(three, tmp_path):
    root, deltas = three
    merge_adapters(
        members(root, (1.0, 1.0, 1.0)), "core_space", tmp_path / "m", settings={"density": 1.0}
    )
    given = [open_adapter(root / name).factors("q") for name in "abc"]
    left = torch.linalg.svd(torch.cat([f.b for f in given], 1).double(), full_matrices=False).U
    right = torch.linalg.svd(torch.cat([f.a for f in given]).double(), full_matrices=False).Vh
    cores = torch.stack([left.T @ deltas[name, "q"] @ right.T for name in "abc"])
    merged = get("ties", {"density": 1.0}).merge(Stack(cores))
    torch.testing.assert_close(
        product(tmp_path / "m", "q"), left @ merged @ right, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("mode", ["cat", "svd", "ties", "dare", "sotu", "knots", "core_space"])
def test_the_order_of_adapters_changes_no_byte(three, mode, tmp_path):
    root, _ = three
    weights = (1.0, 0.5, 0.25)
    merge_adapters(members(root, weights), mode, tmp_path / "1", seed=5)
    merge_adapters(members(root, weights, "cab"), mode, tmp_path / "2", seed=5)
    one, two = (open_adapter(tmp_path / n).source.digests() for n in "12")
    assert one == two


def test_scale_multiplies_the_result(three, tmp_path):
    root, deltas = three
    merge_adapters(members(root), "cat", tmp_path / "m", scale=-2.0)
    torch.testing.assert_close(
        product(tmp_path / "m", "q"), -2 * exact(deltas, "q"), rtol=1e-5, atol=1e-5
    )


def write_map(path, task, **scores):
    found = {f"base_model.model.{m}": torch.tensor(s) for m, s in scores.items()}
    ImportanceMap(found, task=task, units="rank").save(path)
    return path


def test_klf_gives_each_rank_to_the_task_it_matters_to(tmp_path):
    tensors = {name: factors("q", seed) for seed, name in enumerate("ab")}
    for name in "ab":
        write_folder(tmp_path / name, tensors[name], r=2, lora_alpha=2)
    both = [Member(name, open_adapter(tmp_path / name)) for name in "ab"]
    maps = [
        write_map(tmp_path / "1.safetensors", "a", q=[0.0, 1.0]),
        write_map(tmp_path / "2.safetensors", "b", q=[1.0, 0.0]),
    ]
    merge_adapters(both, "klf", tmp_path / "m", importance=maps)
    a = torch.stack([tensors["b"]["q.lora_A.weight"][0], tensors["a"]["q.lora_A.weight"][1]])
    b = torch.stack(
        [tensors["b"]["q.lora_B.weight"][:, 0], tensors["a"]["q.lora_B.weight"][:, 1]], dim=1
    )
    torch.testing.assert_close(product(tmp_path / "m", "q"), (b @ a).double())


def test_klf_within_a_kind_ranks_a_module_among_its_like_in_other_layers():
    modules = {"layers.0.q": [2, 2], "layers.1.q": [2, 2], "layers.0.o": [2, 2]}
    first = {"layers.0.q": [0, 1], "layers.1.q": [2, 3], "layers.0.o": [90, 90]}
    second = {"layers.0.q": [9, 1], "layers.1.q": [2, 3], "layers.0.o": [70, 80]}
    maps = [{m: torch.tensor(s).float() for m, s in found.items()} for found in (first, second)]
    mode = find("klf", {"within": "kind"})
    shares = {m: share[1].tolist() for m, share in mode.prepare(modules, maps).items()}
    assert shares == {"layers.0.q": [1, 0.5], "layers.1.q": [0.5, 0], "layers.0.o": [0.5, 1]}
    assert mode.settings["within"] == "kind"
    with pytest.raises(UnknownName, match="no setting 'share'"):
        find("klf", {"share": "parameters"})


@pytest.mark.parametrize("settings", [{}, {"within": "kind"}, {"contrast": True}])
def test_klf_goes_by_scores_of_any_size(settings):
    draws = torch.Generator().manual_seed(0)
    modules = {f"layers.{n}.q": [4, 4] for n in range(3)}
    maps = [{m: torch.rand(4, generator=draws).double() for m in modules} for _ in range(2)]
    small = [{m: score * 2.0**-200 for m, score in found.items()} for found in maps]
    mode = find("klf", settings)
    shares, same = (mode.prepare(modules, given) for given in (maps, small))
    assert all(torch.equal(shares[m], same[m]) for m in modules)
    assert any(bool((shares[m] != 0.5).any()) for m in modules)


def test_klf_needs_a_map_of_the_ranks_of_each_adapter(three, tmp_path):
    root, _ = three
    pair = members(root, (1.0, 1.0, 1.0))[:1] * 1
    with pytest.raises(BadValue, match="importance map of rank units"):
        merge_adapters(pair, "klf", tmp_path / "m")
    short = write_map(tmp_path / "1.safetensors", "a", q=[0.0, 1.0], k=[1.0])
    with pytest.raises(NamesDiffer, match="'k'"):
        merge_adapters(pair, "klf", tmp_path / "m", importance=[short])


def test_modes_are_found_by_name_and_settings_by_field():
    assert {"cat", "svd", "linear", "core_space", "knots", "klf", "ties", "dare"} <= set(names())
    with pytest.raises(UnknownName, match="did you mean 'ties'"):
        find("tyes")
    with pytest.raises(UnknownName, match="no setting 'rank'"):
        find("svd", {"rank": 3})
    with pytest.raises(UnknownName, match="no setting 'densty'"):
        find("knots", {"densty": 3})
    assert find("knots", {"density": "0.3"}).settings["density"] == 0.3


def test_a_mode_that_looks_at_a_whole_model_is_refused(three, tmp_path):
    with pytest.raises(BadValue, match="whole model"):
        merge_adapters(
            members(three[0], (1, 1, 1)), "ties", tmp_path / "m", settings={"scope": "global"}
        )


def test_adapters_of_other_shapes_are_refused(three, tmp_path):
    root, _ = three
    write_folder(tmp_path / "d", factors("q", 1, outputs=7), r=2)
    given = [*members(root), Member("d", open_adapter(tmp_path / "d"))]
    with pytest.raises(ShapeMismatch, match="different shapes: 'q'"):
        merge_adapters(given, "svd", tmp_path / "m")


@pytest.mark.parametrize(
    ("weights", "size", "words"),
    [
        ((0.0, 0.0, 0.0), Size(), "all weights are 0"),
        ((1.0, float("nan"), 1.0), Size(), "not a finite number"),
        ((1.0, float("inf"), 1.0), Size(), "not a finite number"),
        ((1.0, 1.0, 1.0), Size(2, 0.5), "both a rank and an energy"),
        ((1.0, 1.0, 1.0), Size(0), "not above 0"),
        ((1.0, 1.0, 1.0), Size(None, 1.5), "outside"),
    ],
)
def test_impossible_wishes_are_refused(three, weights, size, words, tmp_path):
    with pytest.raises(BadValue, match=words):
        merge_adapters(members(three[0], weights), "svd", tmp_path / "m", size=size)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("scale", "words"), [(0.0, "scale is 0"), (float("nan"), "not a finite number")]
)
def test_impossible_scales_are_refused(three, scale, words, tmp_path):
    with pytest.raises(BadValue, match=words):
        merge_adapters(members(three[0]), "svd", tmp_path / "m", scale=scale)


@pytest.mark.parametrize("mode", ["cat", "svd", "task_arithmetic"])
def test_adapters_that_cancel_are_an_error_and_leave_nothing(tmp_path, mode):
    for name in "ab":
        write_folder(tmp_path / name, factors("q", 1), r=2)
    both = [Member(n, open_adapter(tmp_path / n), w) for n, w in (("a", 1.0), ("b", -1.0))]
    with pytest.raises(BadValue, match="nothing was applied"):
        merge_adapters(both, mode, tmp_path / "m")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_an_untrained_adapter_alone_stays_as_it_is(tmp_path):
    tensors = factors("q", 1)
    tensors["q.lora_B.weight"].zero_()
    write_folder(tmp_path / "a", tensors, r=2)
    merge_adapters([Member("a", open_adapter(tmp_path / "a"))], "cat", tmp_path / "m")
    assert not product(tmp_path / "m", "q").any()


def test_a_module_named_as_the_end_of_another_keeps_its_rank(tmp_path):
    tensors = factors("q", 1, rank=2) | factors("x.q", 2, rank=3) | factors("y.q", 3, rank=3)
    for name in "ab":
        write_folder(tmp_path / name, tensors, r=3, rank_pattern={"^q": 2})
    both = [Member(name, open_adapter(tmp_path / name)) for name in "ab"]
    merge_adapters(both, "cat", tmp_path / "m")
    assert {m: p.rank for m, p in open_adapter(tmp_path / "m").parts.items()} == {
        "q": 4,
        "x.q": 6,
        "y.q": 6,
    }


@pytest.mark.parametrize(("size", "times"), [(Size(), 1), (Size(energy=0.9), 2)])
def test_progress_is_told_of_all_bytes(three, size, times, tmp_path):
    told = []
    given = members(three[0])
    merge_adapters(given, "svd", tmp_path / "m", size=size, progress=lambda name, n: told.append(n))
    assert sum(told) == times * sum(member.adapter.nbytes for member in given)


def test_adapters_without_a_common_module_are_told_of(tmp_path):
    write_folder(tmp_path / "a", factors("layers.0.q_proj", 1), r=2)
    write_folder(tmp_path / "b", factors("h.0.attn.c_attn", 2), r=2)
    write_folder(tmp_path / "c", factors("layers.0.q_proj", 3) | factors("x", 4), r=2)
    given = [Member(name, open_adapter(tmp_path / name)) for name in "abc"]
    notes = merge_adapters(given, "cat", tmp_path / "m").notes
    told = [note for note in notes if "no module in common" in note]
    assert len(told) == 2
    assert all("h.0.attn.c_attn" in note and " b " in f" {note} " for note in told)
    assert "layers.0.q_proj" in told[0]
