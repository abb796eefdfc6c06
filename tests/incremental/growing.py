"""A merge at once, and the same by adding to what was merged."""

from pathlib import Path

from deltakit.engine.state import NOTE
from deltakit.incremental import merge_onto
from deltakit.merging import merge
from deltakit.strategies import Streaming, get, names

SETTINGS = {"sotu": {"p": 0.5}}
STREAMING = [name for name in names() if isinstance(get(name), Streaming)]
SHAPES = {"layers.0.q.weight": (24, 16), "layers.1.o.weight": (16, 16), "norm.weight": (16,)}


def options(models: Path, strategy: str, tasks: str, **more: object) -> dict[str, object]:
    made = get(strategy)
    kind = "gram" if made.statistic == "gram" else "scores"
    maps = [models / f"{task}.{kind}.safetensors" for task in tasks]
    weights = [{"a": 0.7, "b": 1.3, "c": 0.9, "d": 2.0}[task] for task in tasks]
    return {
        **({"importance": maps} if made.needs_importance else {}),
        **({"weights": weights} if made.weighted else {}),
        **more,
    }


def at_once(models: Path, strategy: str, tasks: str, out: Path, **more: object) -> Path:
    given = options(models, strategy, tasks, **more)
    given.setdefault("settings", SETTINGS.get(strategy))
    merge([str(models / t) for t in tasks], strategy, out, base=str(models / "base"), **given)
    return out


def onto(models: Path, strategy: str, merged: Path, tasks: str, out: Path, **more: object) -> Path:
    merge_onto(
        merged, [str(models / t) for t in tasks], out, **options(models, strategy, tasks, **more)
    )
    return out


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but the note, which tells when it was written."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != NOTE
    }
