"""Options that hold several values: numbers between commas, settings as KEY=VALUE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer


def numbers(option: str, text: str) -> list[float]:
    """Return the numbers of a text.

    >>> numbers("--weights", "1,0.5")
    [1.0, 0.5]
    """
    try:
        return [float(part) for part in text.split(",")] if text else []
    except ValueError:
        raise typer.BadParameter(f"{option} {text}: expected numbers, as 1,0.5") from None


def settings(given: Sequence[str]) -> dict[str, str]:
    """Return the settings that were given as KEY=VALUE.

    >>> settings(["density=0.3"])
    {'density': '0.3'}
    """
    found = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"--set {text}: expected KEY=VALUE")
        if key in found:
            raise typer.BadParameter(f"--set {key} is given twice")
        found[key] = value
    return found


def lines(text: str | None) -> tuple[float, float] | None:
    """Return the two numbers of --lines.

    >>> lines("0.2,0.8")
    (0.2, 0.8)
    """
    if text is None:
        return None
    found = numbers("--lines", text)
    if len(found) != 2:
        raise typer.BadParameter(f"--lines {text}: expected two numbers, as 0.2,0.8")
    return found[0], found[1]


def with_density(mask: str | None, density: float | None) -> str | None:
    """Return a mask as NAME:KEY=VALUE,.. with the density that was given beside it.

    >>> with_density("nm:m=4", 0.5)
    'nm:m=4,density=0.5'
    """
    if density is None:
        return mask
    if mask is None:
        raise typer.BadParameter("--density goes with --mask; a strategy's is --set density=..")
    given = mask.partition(":")[2]
    if any(part.partition("=")[0].strip() == "density" for part in given.split(",")):
        raise typer.BadParameter(f"density is given twice: in --mask {mask} and by --density")
    return f"{mask}{',' if ':' in mask else ':'}density={density}"


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return settings as KEY=VALUE, one after the other.

    >>> settings_text({"p": 0.9, "mode": "a"})
    'mode=a, p=0.9'
    """
    return ", ".join(f"{key}={value}" for key, value in sorted(settings.items()))
