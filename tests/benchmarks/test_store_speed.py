"""The benchmark of what keeping a task costs, run for real on a tiny model."""

from pathlib import Path

from benchmarks import store_speed

PAGE = "before\n<!-- store -->\nold\n<!-- end of store -->\nafter\n"


def test_each_way_of_keeping_is_a_line_of_a_table_of_80_columns(tmp_path: Path, capsys):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    words = ["--size", "tiny", "--repeats", "1", "--cache", str(tmp_path / "cache")]
    store_speed.main([*words, "--write", str(page)])
    lines = capsys.readouterr().out.splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("command"))
    rows = lines[head + 1 : lines.index("", head)]
    assert [row[:24].strip() for row in rows] == [
        *(f"add, {name}" for name in store_speed.KEPT),
        "restore",
    ]
    assert all(len(line) <= 80 for line in lines[head:])
    assert all(float(column) >= 0 for row in rows for column in row[24:].split())
    assert all(len(row[24:].split()) == 7 for row in rows)
    assert "add, every byte" in page.read_text()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["synthetic"]
