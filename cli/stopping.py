"""Signals that end the process, taken as Ctrl-C is: what is half-written goes."""

from __future__ import annotations

import signal


class Stopped(KeyboardInterrupt):
    """A signal that ends the process, so that what is half-written goes as it does by Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def stop_as_ctrl_c() -> None:
    """Raise Stopped for the signals of a scheduler and of a terminal that closes."""

    def stop(number: int, frame: object) -> None:
        raise Stopped(number)

    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", None)):
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # not under nohup
            signal.signal(number, stop)


def exit_code(stop: KeyboardInterrupt) -> int:
    """Return what a shell says of a process that this ended.

    >>> exit_code(KeyboardInterrupt()), exit_code(Stopped(signal.SIGTERM))
    (130, 143)
    """
    return 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)
