"""The frame of the command: streams, exit codes, messages, tables and progress."""

from __future__ import annotations

import errno
import io
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from deltakit.errors import BadValue
from deltakit_cli import figures, output, verbs
from deltakit_cli import main as frame
from deltakit_cli.progress import Meter
from tests.cli.running import RUN, deltakit


def fails_with(error: BaseException) -> Callable[[], typer.Typer]:
    """Return a maker of the application with one verb, `fail`, that raises the error."""

    def make() -> typer.Typer:
        app = frame.build([])

        @app.command("fail")
        def fail() -> None:
            raise error

        @app.command("other")
        def other() -> None:
            """Make the application one of several verbs."""

        return app

    return make


CASES = [
    (
        BadValue("density is outside (0, 1]", got="2", remedy="pass a fraction"),
        1,
        "error: density is outside (0, 1]\n  got:      2\n  remedy:   pass a fraction\n",
    ),
    (
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/out"),
        1,
        "error: /data/out: no space left on device (free some space, or write to another disk)\n",
    ),
    (
        PermissionError(errno.EACCES, os.strerror(errno.EACCES), Path("/root/x")),
        1,
        "error: /root/x: permission denied (check who may read and write there)\n",
    ),
    (
        OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "a" * 150 + "b" * 150),
        1,
        f"error: {'a' * 100}…{'b' * 99}: file name too long"
        " (a path is expected here, not the text of a file)\n",
    ),
    (KeyboardInterrupt(), 130, "interrupted, nothing was left half-written\n"),
    (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, "error: broken pipe\n"),
    (
        MemoryError(),
        1,
        "error: out of memory (give fewer --threads, or a smaller --block-size)\n",
    ),
    (
        ZeroDivisionError("division by zero"),
        1,
        "error: ZeroDivisionError: division by zero\n"
        "  this is a fault in deltakit; --debug shows where it happened\n",
    ),
]


@pytest.mark.parametrize(("error", "code", "message"), CASES, ids=lambda v: type(v).__name__)
def test_an_error_becomes_one_message_on_stderr(error: BaseException, code: int, message: str):
    done = CliRunner().invoke(fails_with(error)(), ["fail"])
    assert (done.exit_code, done.stderr, done.stdout) == (code, message, "")


def test_debug_lets_the_error_through():
    done = CliRunner().invoke(fails_with(BadValue("x"))(), ["--debug", "fail"])
    assert isinstance(done.exception, BadValue)


def test_debug_may_stand_anywhere_on_the_line(tmp_path: Path):
    done = deltakit("strategies", "nope", "--debug", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "UnknownName" in done.stderr


def test_a_refusal_has_no_traceback_and_exit_code_1(tmp_path: Path):
    done = deltakit("strategies", "nope", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: unknown strategy 'nope'")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["inspekt"], "Did you mean 'inspect'"),
        (["strategies", "--nope"], "No such option"),
        (["inspect"], "Missing argument"),
    ],
)
def test_a_usage_error_has_exit_code_2(args: list[str], words: str, tmp_path: Path):
    done = deltakit(*args, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_what_the_user_set_for_openblas_is_kept(monkeypatch: pytest.MonkeyPatch):
    for given, kept in ((None, "4"), ("20", "20")):
        monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", given or "")
        if given is None:
            monkeypatch.delenv("OPENBLAS_THREAD_TIMEOUT")
        frame.spare()
        assert os.environ["OPENBLAS_THREAD_TIMEOUT"] == kept


def test_the_version_is_the_distribution_s(tmp_path: Path):
    from importlib.metadata import version

    assert deltakit("--version", cwd=tmp_path).stdout == f"deltakit {version('deltakit-merge')}\n"


def test_a_reader_that_stops_reading_is_no_error(tmp_path: Path):
    command = [*RUN, "strategies", "--json"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def verb_of(*body: str) -> list[str]:
    """Return lines of Python that run the command with one verb, of these lines."""
    return [
        "import os, time, typer",
        "from pathlib import Path",
        "from deltakit_cli import main, output",
        "app = main.build([])",
        "app.command('other')(lambda: None)",
        "@app.command('do')",
        "def do():",
        *("    " + line for line in body),
        "main.build = lambda verbs: app",
        "main.main(['do'])",
    ]


def broken_pipe() -> io.TextIOWrapper:
    """Return the writing end of a pipe that nobody reads."""
    ours, theirs = os.pipe()
    os.close(ours)
    return os.fdopen(theirs, "w")


def into_a_closed_pipe(*lines: str, cwd: Path, errors: bool) -> subprocess.CompletedProcess[str]:
    """Run these lines of Python with a stdout, and a stderr too, that nobody reads."""
    with broken_pipe() as pipe:
        return subprocess.run(
            [sys.executable, "-c", "\n".join(lines)],
            cwd=cwd,
            stdout=pipe,
            stderr=pipe if errors else subprocess.PIPE,
            text=True,
            check=False,
        )


def test_an_exit_code_is_kept_where_nobody_reads_what_is_told(tmp_path: Path):
    code = 'from deltakit_cli.main import main; main(["strategies", "nope"])'
    assert into_a_closed_pipe(code, cwd=tmp_path, errors=True).returncode == 1
    look = (
        "def render():",
        "    for _ in range(9999): output.say('a finding')",
        "output.emit({}, render, False)",
        "raise typer.Exit(3)",
    )
    done = into_a_closed_pipe(*verb_of(*look), cwd=tmp_path, errors=False)
    assert (done.returncode, done.stderr) == (3, "")


def test_work_goes_on_where_nobody_reads_its_progress():
    clock = Clock()
    with broken_pipe() as pipe, Meter("merge", 100, pipe, clock) as meter:
        for second in (3.0, 9.0):
            clock.now = second
            meter.advance("w", 50)
        assert meter.done == 100


@pytest.mark.parametrize(
    ("closed", "verb", "code"),
    [(1, "strategies", 0), (2, "strategies", 0), (2, "nope", 2), (1, "nope", 2)],
)
def test_a_closed_stream_is_told_nothing(closed: int, verb: str, code: int, tmp_path: Path):
    command = f"exec {shlex.join([*RUN, verb])} {closed}>&-"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == code
    assert b"Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_leaves_nothing_half_written(number: signal.Signals, code: int, tmp_path: Path):
    work = verb_of(
        "from deltakit.tensors.new_folder import new_folder",
        "with new_folder(Path('out')) as folder:",
        "    (folder / 'weights').write_bytes(bytes(9))",
        f"    os.kill(os.getpid(), {int(number)})",
        "    time.sleep(60)",
    )
    # Whoever runs the tests may ignore it, as nohup does, and children do then.
    heeded = f"import signal; signal.signal({int(number)}, signal.SIG_DFL)"
    command = [sys.executable, "-c", "\n".join([heeded, *work])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, f"{frame.INTERRUPTED}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_was_ignored_is_ignored(tmp_path: Path):
    work = verb_of(f"os.kill(os.getpid(), {int(signal.SIGHUP)})", "output.say('done')")
    lines = ["import signal", "signal.signal(signal.SIGHUP, signal.SIG_IGN)", *work]
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_help_shows_every_verb_once_under_its_panel(tmp_path: Path):
    lines = deltakit("--help", cwd=tmp_path).stdout.splitlines()
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings[-1] == "Look:"
    for verb in frame.verb_names():
        assert sum(line.split()[:1] == [verb] for line in lines) == 1, verb
    assert max(map(len, lines)) <= 80


def test_every_verb_s_help_fits_80_columns(tmp_path: Path):
    for verb in frame.verb_names():
        done = CliRunner().invoke(frame.build(), [verb, "--help"], env={"COLUMNS": "80"})
        assert done.exit_code == 0, done.output
        assert max(map(len, done.output.splitlines())) <= 80


def test_a_file_in_verbs_is_a_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "dry_run.py").write_text(
        'PANEL = "Mine"\ndef command() -> None:\n    """Try."""\n    print("tried")\n'
    )
    monkeypatch.setattr(verbs, "__path__", [*verbs.__path__, str(tmp_path)])
    assert "dry-run" in frame.verb_names()
    assert CliRunner().invoke(frame.build(["dry-run", "ls"]), ["dry-run"]).output == "tried\n"
    helped = CliRunner().invoke(frame.build(["dry-run", "ls"]), ["--help"]).output
    assert "Mine:\n  dry-run  Try." in helped
    monkeypatch.delitem(sys.modules, "deltakit_cli.verbs.dry_run")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@dataclass
class Item:
    name: str
    path: Path
    share: float


def test_json_is_one_document_with_sorted_keys(capsys: pytest.CaptureFixture[str]):
    output.emit({"b": Item("é", Path("/x"), float("nan")), "a": [1]}, lambda: None, as_json=True)
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"a": [1], "b": {"name": "é", "path": "/x", "share": None}}
    assert printed.index('"a"') < printed.index('"b"')


def test_json_holds_a_path_that_is_not_utf_8(capsys: pytest.CaptureFixture[str]):
    item = Item("a\udce9", Path("/x\udce9"), float("inf"))
    output.emit({"a\udce9": [item]}, lambda: None, as_json=True)
    spelled = r"a\udce9"
    expected = {spelled: [{"name": spelled, "path": r"/x\udce9", "share": None}]}
    assert json.loads(capsys.readouterr().out) == expected


def test_without_json_the_data_is_rendered(capsys: pytest.CaptureFixture[str]):
    output.emit({}, lambda: output.say("for a reader"), as_json=False)
    assert capsys.readouterr().out == "for a reader\n"


LONG = "model.layers.31.self_attn.q_proj.weight" * 3


def test_a_piped_table_is_plain_and_whole(capsys: pytest.CaptureFixture[str]):
    output.table(["name", "n"], [[LONG, "1"], ["b", "20"]], align="lr", title="T")
    gap = " " * (len(LONG) - 1)
    assert capsys.readouterr().out == (f"T\nname{gap[3:]}   n\n{LONG}   1\nb{gap}  20\n")


def test_a_table_on_a_terminal_fits_it(monkeypatch: pytest.MonkeyPatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    rows = [[LONG, "123456", "one two three four five six seven eight"], ["表表", "1", ""]]
    output.table(["name", "number", "text"], rows, align="lrw")
    lines = screen.getvalue().splitlines()
    assert max(map(output.width, lines)) <= 40
    assert "…" in lines[1]
    assert "123456" in lines[1]  # numbers are never cut
    assert all(word in screen.getvalue() for word in rows[0][2].split())  # nor is text lost
    assert "\x1b" not in screen.getvalue()


def test_a_name_cannot_send_commands_to_the_terminal(capsys: pytest.CaptureFixture[str]):
    output.table(["name"], [["a\x1b[2Jb\n"]])
    assert capsys.readouterr().out == "name\na\\x1b[2Jb\\n\n"


FORGED = "a\x1b[2J\nerror: b"
SPELLED = r"a\x1b[2J\nerror: b"


def test_a_name_is_one_line_wherever_it_is_told(capsys: pytest.CaptureFixture[str]):
    output.say(FORGED)
    output.say_wrapped(FORGED)
    output.notes([FORGED])
    output.note("fact\n  got: a\x1b[2J")
    told = capsys.readouterr()
    assert told.out == 2 * f"{SPELLED}\n"
    assert told.err == f"note: {SPELLED}\nfact\n  got: a\\x1b[2J\n"


def test_json_spells_out_what_steers_a_terminal(capsys: pytest.CaptureFixture[str]):
    names = [FORGED, "\x9b2J\u202e\U000e0001", "é表"]
    output.emit(names, lambda: None, as_json=True)
    printed = capsys.readouterr().out
    assert json.loads(printed) == names
    assert printed.replace("\n", "").isprintable()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_comes_before_the_first_bytes_is_not_counted():
    clock, stream = Clock(), io.StringIO()
    with Meter("merge", 100, stream, clock) as meter:
        clock.now = 9.0  # a library was imported
        meter.advance("w", 50)
        clock.now = 10.9
        meter.advance("w", 50)
    assert stream.getvalue() == ""


def test_short_work_shows_no_progress():
    clock, stream = Clock(), io.StringIO()
    with Meter("merge", 100, stream, clock) as meter:
        clock.now = 1.9
        meter.advance("w", 50)
    assert stream.getvalue() == ""


def test_long_work_shows_a_line_now_and_then():
    clock, stream = Clock(), io.StringIO()
    with Meter("merge", 3_000_000_000, stream, clock) as meter:
        for second in range(10):
            clock.now = second + 0.5
            meter.advance(f"layers.{second}.mlp", 300_000_000)
    assert stream.getvalue().splitlines() == [
        "merge 30 % 900.0 MB of 3.0 GB layers.2.mlp",
        "merge 80 % 2.4 GB of 3.0 GB layers.7.mlp",
    ]


def test_progress_counts_from_several_threads():
    with Meter("merge", 8000, io.StringIO()) as meter:
        work = [
            threading.Thread(target=lambda: [meter.advance("w", 1) for _ in range(1000)])
            for _ in range(8)
        ]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
    assert meter.done == 8000


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # rich's own
def test_work_goes_on_where_its_terminal_is_gone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich looks no second time whether it is a terminal
    for gone in (1.5, 9.0):  # before the bar is there, and after
        ours, theirs = pty.openpty()
        clock = Clock()
        with os.fdopen(theirs, "w") as screen:
            monkeypatch.setattr(sys, "stderr", screen)
            with Meter("merge", 100, screen, clock) as meter:
                for second in (0.0, 1.5, 9.0):
                    clock.now = second
                    if second == gone:
                        os.close(ours)
                    meter.advance("w", 30)
            assert meter.done == 90


def test_the_bar_is_gone_after_an_error(monkeypatch: pytest.MonkeyPatch):
    clock, screen = Clock(), Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", screen)
    meter = Meter("merge", 100, screen, clock)

    def fail_midway() -> None:
        with meter:
            meter.advance("layers.2.mlp", 10)
            clock.now = 1.5
            meter.advance("layers.3.mlp", 50)
            raise BadValue("x")

    with pytest.raises(BadValue):
        fail_midway()
    assert "layers.3.mlp" in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[2K")  # the line is cleared
    assert "\x1b[?25h" in screen.getvalue()  # the cursor is back
    meter.advance("late", 1)  # by a thread that is still at work: shows nothing, is no error
    assert "late" not in screen.getvalue()


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (5 * 10**18, "5000.0 PB")],
)
def test_sizes_are_in_powers_of_1000(nbytes: int, text: str):
    assert figures.size(nbytes) == text


@pytest.mark.parametrize(
    ("duration", "text"),
    [(0.0004, "0 ms"), (0.9999, "1.0 s"), (59.99, "1 min 0 s"), (3599.6, "1 h 0 min")],
)
def test_durations_never_show_sixty_of_anything(duration: float, text: str):
    assert figures.seconds(duration) == text
