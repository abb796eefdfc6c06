"""Several processes at once on one store, some of them killed."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.store.conftest import Project

# One process imports what is heavy, then forks each worker before any thread has been started.
# A worker is a list: [verb, task, model, die at call N or 0]; all begin at one moment.
WORKERS = """
import json, os, sys, time
import torch
from deltakit import diff, importance, restored
from deltakit.errors import AlreadyThere, UnknownName
from deltakit.store import Store
from deltakit.store.home import Busy
from deltakit.tensors.files import Files

class Killed(Files):
    def __init__(self, at):
        self.left = at
    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if name in ("create", "write", "fsync", "rename", "sync_folder", "make_folder", "delete"):
            self.left -= 1
            if self.left == 0:
                os._exit(9)
        return found

def work(folder, verb, task, model, die_at):
    store = Store.open(folder, Killed(die_at))
    if verb == "add":
        store.add(task, "tiny", model, lossless=task.startswith("whole"))
    elif verb == "gc":
        for _ in range(10):
            store.gc(0)
    elif verb == "rm":
        store.remove(task)
    elif verb == "read":
        for _ in range(10):
            for name in store.tasks():
                try:
                    store.log(name)
                except UnknownName:  # removed since it was listed
                    assert name == "first"
            found = store.verify(read_data=True)
            assert not found, [str(one) for one in found]

folder, jobs = json.loads(sys.argv[1])
start, children = time.time() + 0.3, []
for job in jobs:
    child = os.fork()
    if not child:
        torch.set_num_threads(1)
        code = 1
        try:
            time.sleep(max(0.0, start - time.time()))
            work(folder, *job)
            code = 0
        except (AlreadyThere, Busy):
            code = 3
        except UnknownName:
            code = 4
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    children.append(child)
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
"""


def run(project: Project, jobs: list[tuple[str, str, str, int]]) -> list[int]:
    models = [(verb, task, str(project.models / model), n) for verb, task, model, n in jobs]
    done = subprocess.run(
        [sys.executable, "-c", WORKERS, json.dumps([str(project.folder), models])],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    codes = json.loads(done.stdout)
    assert 1 not in codes, done.stderr
    return codes


def test_writers_readers_and_gc_at_once_lose_no_commit(project: Project):
    adds = [("add", f"t{i}", "abc"[i % 3], 0) for i in range(6)]
    rivals = [("add", "whole rival", model, 0) for model in "abc"]
    killed = [("add", f"killed {n}", "c", n) for n in range(2, 20, 2)]
    others = [("gc", "", "", 0), ("gc", "", "", 0), ("read", "", "", 0), ("rm", "first", "", 0)]
    codes = run(project, [*adds, *rivals, *killed, *others])

    assert codes[:6] == [0] * 6
    assert sorted(codes[6:9]) == [0, 3, 3], "exactly one of three rivals wins"
    assert set(codes[9:18]) == {9}, "every one of these dies before its end"
    assert set(codes[18:]) == {0}
    store = project.store
    expected = {"whole", "whole rival", *(f"t{i}" for i in range(6))}
    assert {t for t in store.tasks() if not t.startswith("killed")} == expected
    assert store.verify(read_data=True) == []
    store.gc(0)
    assert store.verify(read_data=True) == []
    for name in [f"killed {n}" for n in range(2, 20, 2)]:
        if name not in store.tasks():
            store.add(name, "tiny", project.models / "c")  # no lock outlives its process
    assert store.verify(read_data=True) == []
    winner = "abc"[codes[6:9].index(0)]
    store.restore("whole rival", project.folder / "out")
    ours, theirs = project.folder / "out", project.models / winner
    assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in theirs.iterdir())
    assert all((ours / p.name).read_bytes() == p.read_bytes() for p in theirs.iterdir())
