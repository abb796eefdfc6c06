"""The mask of deltakit add, as its options tell it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from deltakit.mask import Mask, RandomMask
    from deltakit.store.made_mask import MaskPlan

DRAWN = ("sotu", "random")  # two names of one mask, which is kept as its seed


def choose_mask(
    task: str, mask: str | None, p: float | None, density: float | None, seed: int | None
) -> Mask | MaskPlan | None:
    """Return the mask that the options describe; one known by name comes before a file."""
    from deltakit.recipe import DEFAULT_SHARD_SIZE, Piece
    from deltakit.recipe.checks import check_output
    from deltakit.store.made_mask import MaskPlan
    from deltakit.strategies import masks

    name = "" if mask is None else mask.partition(":")[0]
    known = sorted({*masks.names(), *DRAWN})
    if mask is None or name not in known:
        given = {"--p": p, "--density": density, "--seed": seed}
        beside = [option for option, value in given.items() if value is not None]
        if beside:
            go = "goes" if len(beside) == 1 else "go"
            raise typer.BadParameter(f"{' and '.join(beside)} {go} with --mask NAME")
        return None if mask is None else _saved(mask, known)
    if p is not None and name not in DRAWN:
        raise typer.BadParameter("--p goes with --mask sotu")
    check_output(seed or 0, DEFAULT_SHARD_SIZE)
    settings = dict(Piece.parse(mask).settings)
    for key, value in (("p", p), ("density", density)):
        if value is not None and key in settings:
            raise typer.BadParameter(f"{key} is given twice: in --mask {mask} and by --{key}")
        if value is not None:
            settings[key] = f"{value}"
    if name in DRAWN:
        return _drawn(task, name, settings, seed or 0)
    if name == "magnitude" and "density" not in settings:
        raise typer.BadParameter("--mask magnitude needs --density")
    plan = MaskPlan(name, settings, seed or 0)
    if seed is not None and not plan.masking().draws:
        raise typer.BadParameter(f"--seed goes with a mask that draws, and {name} does not")
    return plan


def _drawn(task: str, name: str, settings: Mapping[str, Any], seed: int) -> RandomMask:
    from deltakit import strategies
    from deltakit.errors import BadValue, some
    from deltakit.mask import Mask
    from deltakit.ops import kept_density

    others = settings.keys() - {"p", "density"}
    if others:
        raise BadValue(
            f"--mask {name} takes p or density, and keeps the values as they are",
            got=some(others),
            remedy="rescale when you merge",
        )
    if len(settings) != 1:
        raise typer.BadParameter(f"--mask {name} needs either --p or --density, and not both")
    if "p" in settings:
        found = strategies.get("sotu", settings).p  # type: ignore[attr-defined]
        density = found if found == "auto" else kept_density(found)
    else:
        density = strategies.masks.get("random", settings).density  # type: ignore[attr-defined]
    if density == "auto":
        raise BadValue(
            "how many tasks there will be is not known when one is added",
            where=f"--mask {name}",
            got="auto",
            remedy="give a number, as --p 0.9",
        )
    return Mask.random(density, seed, task)


def _saved(mask: str, known: list[str]) -> Mask:
    from deltakit.errors import NotFound, nearest
    from deltakit.mask import Mask

    if not Path(mask).exists():
        close = nearest(mask.partition(":")[0], known)
        raise NotFound(
            f"no mask {mask!r}",
            expected=f"{', '.join(known)}, or a mask's file",
            remedy=f"did you mean {close!r}?" if close else "check the path",
        )
    return Mask.open(mask)
