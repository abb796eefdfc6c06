"""Threads share one list of work and stop together."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from deltakit.threads import one_torch_thread, run_all


def test_every_item_is_done_once():
    done, lock = [], threading.Lock()

    def do(item):
        with lock:
            done.append(item)

    run_all(do, iter(range(100)), 4)
    assert sorted(done) == list(range(100))


def test_the_first_error_is_raised_and_the_rest_is_not_begun():
    begun = []

    def do(item):
        begun.append(item)
        if item == 3:
            raise ValueError("three")

    with pytest.raises(ValueError, match="three"):
        run_all(do, iter(range(10_000)), 2)
    assert len(begun) < 10_000


def test_of_several_errors_that_of_the_first_item_is_raised():
    second_failed = threading.Event()

    def do(item):
        if item == 0:
            assert second_failed.wait(30)
        if item == 1:
            second_failed.set()
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 0"):
        run_all(do, iter(range(100)), 2)


def test_an_error_in_the_list_of_work_itself_is_raised():
    def work():
        yield 1
        raise OSError("unreadable")

    with pytest.raises(OSError, match="unreadable"):
        run_all(lambda item: None, work(), 3)


def _fail_with_one_thread():
    with one_torch_thread():
        assert torch.get_num_threads() == 1
        raise KeyError


def test_an_interrupt_while_threads_are_started_stops_those_that_run(monkeypatch):
    begun, submit = [], ThreadPoolExecutor.submit

    def interrupted(self, work):
        if self._threads:
            raise KeyboardInterrupt
        return submit(self, work)

    def do(item):
        begun.append(item)
        time.sleep(0.001)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_all(do, iter(range(1000)), 2)
    assert len(begun) < 1000


def test_torchs_threads_are_given_back():
    before = torch.get_num_threads()
    with pytest.raises(KeyError):
        _fail_with_one_thread()
    assert torch.get_num_threads() == before
