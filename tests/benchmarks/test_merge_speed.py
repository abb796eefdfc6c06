"""The speed benchmark, run for real on tiny models: what it prints, writes and leaves behind."""

import io
import json
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import deltakit
from benchmarks import merge_speed, peer, speed, speed_table
from benchmarks.cases import CASES, DENSITIES, Case, Inputs, of_every_strategy
from benchmarks.process import Process
from benchmarks.synthetic import SHAPES
from deltakit.errors import DeltakitError

PAGE = "before\n<!-- merges -->\nold\n<!-- end of merges -->\nafter\n"


@dataclass
class Measured:
    folder: Path
    printed: str
    found: dict[str, Any]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """One run of the benchmark: a merge of models and one of stored deltas."""
    folder = tmp_path_factory.mktemp("speed")
    (folder / "page.md").write_text(PAGE)
    words = ["--size", "tiny", "--models", "2", "--repeats", "1"]
    words += ["--merges", "average,sotu_stored"]
    places = {"--cache": "cache", "--json": "found.json", "--write": "page.md"}
    for option, name in places.items():
        words += [option, str(folder / name)]
    with redirect_stdout(io.StringIO()) as printed:
        merge_speed.main(words)
    found = json.loads((folder / "found.json").read_text())
    return Measured(folder, printed.getvalue(), found)


def test_each_merge_is_a_line_of_a_table_of_80_columns(measured):
    lines = measured.printed[measured.printed.index("tiny: base + 2") :].splitlines()
    assert [line.split()[0] for line in lines[3:5]] == ["average", "sotu_stored"]
    assert len(lines[2].split()) == len(lines[3].split()) == 9
    assert all(len(line) <= 80 for line in lines)
    assert "--dry-run of average" in measured.printed


def test_the_head_shows_the_command_less_where_the_figures_went(measured):
    shown = measured.found["header"].splitlines()[0].partition("merge_speed ")[2]
    assert shown == "--size tiny --models 2 --repeats 1 --merges average,sotu_stored"


def test_the_json_holds_every_measurement(measured):
    average, stored = measured.found["merges"]
    for merge in (average, stored):
        assert len(merge["runs"]) == 1
        assert 0 < merge["merge"] < merge["wall"]
        assert merge["peak"] > merge["floor"]["peak"] > 1e6
        assert merge["above_floor"] == merge["peak"] - merge["floor"]["peak"]
        assert merge["cpu"] > merge["runs"][0]["start_cpu"] > 0
    assert average["bytes_read"] == 3 * average["bytes_written"]
    assert stored["bytes_read"] < average["bytes_read"]
    assert not measured.found["dry_runs"]["tiny"]["torch"]


def test_the_limit_is_the_fastest_way_of_each_kind_and_has_a_spread(measured):
    for merge in measured.found["merges"]:
        limits = merge["limits"]
        assert len(limits) == speed.LIMITS
        for limit in limits:
            fastest = min(limit["reads"].values()) + min(limit["writes"].values())
            assert limit["seconds"] == pytest.approx(fastest)
        spread = merge["limit"]
        assert 0 < spread["min"] <= spread["median"] <= spread["max"]
        assert merge["ratio"] == pytest.approx(merge["merge"] / spread["median"])


def test_what_is_measured_is_the_merge_that_the_library_makes(measured, tmp_path):
    inputs = Inputs.of(SHAPES["tiny"], 2, measured.folder / "cache")
    experts = [str(path) for path in inputs.experts]
    deltakit.merge(experts, "average", tmp_path / "out", base=str(inputs.base))
    assert measured.found["merges"][0]["digest"] == speed.digest(tmp_path / "out")


def test_it_leaves_only_models_and_what_is_made_of_them(measured):
    assert [path.name for path in (measured.folder / "cache").iterdir()] == ["synthetic"]


def test_the_page_gets_the_table_between_its_marks(measured):
    page = (measured.folder / "page.md").read_text()
    assert page.startswith("before\n<!-- merges -->\n\n```\npython -m benchmarks.merge_speed")
    assert page.endswith("```\n\n<!-- end of merges -->\nafter\n")
    assert "old" not in page


def test_the_documented_page_has_a_place_for_each_table():
    page = (Path(merge_speed.__file__).parent.parent / "docs/performance.md").read_text()
    for name in ("merges", "density", "store", "scaling", "every", "peer"):
        assert page.count(f"<!-- {name} -->\n") == page.count(f"<!-- end of {name} -->\n") == 1


def test_cases_have_names_of_their_own_that_fit_and_tell_what_is_not_there():
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(len(case.name) <= 15 for case in CASES)
    assert Case("x", "average").known
    assert not Case("x", "no_such_strategy").known


def test_every_strategy_that_works_by_blocks_is_a_case_that_knows_whether_torch_is_loaded():
    found = {case.name: case for case in of_every_strategy()}
    assert found["ties"] in CASES
    assert not found["breadcrumbs"].torch
    assert found["sce"].torch
    assert found["nuslerp"].experts == 2
    assert not {"tsv", "klf"} & set(found)


def test_what_is_stored_is_read_and_the_less_the_sparser_it_is(tmp_path):
    words = ["--size", "tiny", "--models", "2", "--repeats", "1", "--density"]
    words += ["--cache", str(tmp_path / "cache"), "--json", str(tmp_path / "found.json")]
    with redirect_stdout(io.StringIO()) as printed:
        merge_speed.main(words)
    lines = printed.getvalue().splitlines()
    found = json.loads((tmp_path / "found.json").read_text())["merges"]
    first = next(number for number, line in enumerate(lines) if line.startswith("deltas"))
    rows = lines[first + 1 : first + 1 + len(found)]
    assert [row.split()[0] for row in rows] == [merge["name"] for merge in found]
    assert all(len(line) <= 80 for line in lines)
    dense, *stored = (merge["bytes_read"] for merge in found)
    for kind in (stored[: len(DENSITIES)], stored[len(DENSITIES) :]):
        assert sorted({dense, *kind}, reverse=True) == [dense, *kind]


def test_an_unknown_merge_or_size_is_refused(capsys):
    for words in (["--merges", "avrage"], ["--size", "7b"], ["--models", "1"]):
        with pytest.raises(SystemExit):
            merge_speed.main(words)
        assert f"argument {words[0]}" in capsys.readouterr().err


def a_run(wall: float, peak: int, digest: str = "") -> speed.Run:
    return speed.Run(wall, 2.0, peak, wall - 1, 1.0, 0.5, True, digest)


def test_scaling_tells_seconds_a_gigabyte_moved():
    floor = a_run(1.0, 150_000_000)
    cost = speed.Cost("average", "1.1b", 3, floor, 8_000_000_000, 2_000_000_000)
    cost.runs = [a_run(wall, 160_000_000) for wall in (6.0, 60.0, 5.0)]
    line = speed_table.scaling([cost]).splitlines()[1]
    assert line.split() == ["average", "1.1b", "3", "8.00", "2.00", "5.00", "0.50", "160", "10"]


def test_a_race_compares_the_medians_of_whole_processes():
    theirs = [Process(0.0, wall, 3.0, 4_700_000_000) for wall in (30.0, 20.0, 10.0)]
    race = peer.Race("ties", "ties", "1.1b", 3, [a_run(5.0, 150_000_000)], theirs)
    assert race.speed_up == 4.0
    lines = speed_table.races([race]).splitlines()
    assert lines[1].split() == ["ties", "ties", "1.1b", "3", "5.00", "20.00", "4.0", "150", "4700"]
    assert all(len(line) <= 80 for line in lines)


def test_the_peer_is_told_the_same_merge(tmp_path):
    inputs = Inputs(SHAPES["tiny"], tmp_path / "base", [tmp_path / "a", tmp_path / "b"])
    given = json.loads(peer.config("ties", {"density": 0.2}, inputs))
    assert given["base_model"] == str(tmp_path / "base")
    assert [model["model"] for model in given["models"]] == [str(path) for path in inputs.experts]
    assert all(m["parameters"] == {"weight": 1.0, "density": 0.2} for m in given["models"])
    assert "base_model" not in json.loads(peer.config("linear", {}, inputs))
    arc = json.loads(peer.config("slerp", {"t": 0.5}, inputs))
    assert arc["base_model"] == arc["models"][0]["model"] == str(tmp_path / "a")
    assert arc["parameters"] == {"t": 0.5}
    assert set(peer.METHODS) <= {case.name for case in CASES}


def test_two_runs_with_different_bytes_are_no_measurement(tmp_path):
    floor = a_run(1.0, 1)
    cost = speed.Cost("average", "tiny", 2, floor, 1, 1, [a_run(2.0, 2, "a"), a_run(2.0, 2, "b")])
    with pytest.raises(DeltakitError, match="different bytes"):
        cost.check()
