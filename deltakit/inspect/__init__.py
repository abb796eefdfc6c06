"""How tasks differ from their base and from each other: measured once, reported as data."""

from deltakit.inspect.compare import bytes_to_read, compare
from deltakit.inspect.header import HeaderReport, read_header
from deltakit.inspect.report import Group, PairFigures, Report, TaskFigures, TogetherFigures

__all__ = [
    "Group",
    "HeaderReport",
    "PairFigures",
    "Report",
    "TaskFigures",
    "TogetherFigures",
    "bytes_to_read",
    "compare",
    "read_header",
]
