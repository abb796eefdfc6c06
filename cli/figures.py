"""Numbers in words: sizes, counts, fractions, durations."""

from __future__ import annotations


def size(nbytes: int) -> str:
    """Return a number of bytes for a reader, in powers of 1000.

    >>> size(999), size(12_345_678), size(5_000_000_000)
    ('999 B', '12.3 MB', '5.0 GB')
    """
    if nbytes < 1000:
        return f"{nbytes} B"
    value = float(nbytes)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        value /= 1000
        if value < 999.95 or unit == "PB":
            break
    return f"{value:.1f} {unit}"


def count(n: int) -> str:
    """Return a number of things for a reader.

    >>> count(9999), count(22_713_216), count(6_738_415_616)
    ('9999', '22.7 M', '6.74 G')
    """
    if n < 10_000:
        return f"{n}"
    value = float(n)
    for unit in ("k", "M", "G", "T"):
        value /= 1000
        if value < 999.5 or unit == "T":
            break
    return f"{value:.3g} {unit}"


def things(n: int, name: str) -> str:
    """Return how many things of a name there are.

    >>> things(1, "task"), things(3, "task")
    ('1 task', '3 tasks')
    """
    return f"{n} {name}" if n == 1 else f"{n} {name}s"


def fraction(x: float | None) -> str:
    """Return a fraction for a reader: three decimals, more for a small one, "-" for none.

    >>> fraction(0.1), fraction(0.00012), fraction(0.0), fraction(-0.147098), fraction(None)
    ('0.100', '1.2e-04', '0', '-0.147', '-')
    >>> fraction(12.3456), fraction(123456.7)
    ('12.35', '1.23e+05')
    """
    if x is None:
        return "-"
    if x == 0.0:
        return "0"
    if abs(x) < 0.001:
        return f"{x:.1e}"
    return f"{x:.3f}" if abs(x) < 9.9995 else f"{x:.4g}" if abs(x) < 99995 else f"{x:.3g}"


def seconds(x: float) -> str:
    """Return a duration for a reader.

    >>> seconds(0.0042), seconds(7.25), seconds(192)
    ('4 ms', '7.2 s', '3 min 12 s')
    """
    if x < 0.9995:
        return f"{x * 1000:.0f} ms"
    if x < 59.95:
        return f"{x:.1f} s"
    whole = round(x)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
