"""A task's record as the verbs print it: one set of keys, one way to say an age."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from deltakit_cli.figures import fraction, size

if TYPE_CHECKING:
    from deltakit.store import TaskRecord

ROLES = {
    "add": "mergeable",
    "replace": "lossless: restores the model bit for bit",
    "adapter": "mergeable as it is, restores the adapter byte for byte",
}


def task_data(record: TaskRecord) -> dict[str, Any]:
    """Return what a task's manifest says, as data."""
    return {
        "task": record.name,
        "base": record.base,
        "base_fingerprint": record.base_fingerprint,
        "role": record.role,
        "density": record.density,
        "exact": record.exact,
        "nbytes": record.nbytes,
        "total_nbytes": record.total_nbytes,
        "model_nbytes": record.model_nbytes,
        "delta": record.delta_path,
        "importance": record.importance_path,
        "created": record.created,
        "revision": record.revision,
        "parent": record.parent,
        "provenance": record.provenance,
    }


def task_fields(record: TaskRecord) -> list[tuple[str, str]]:
    """Return what a reader wants to know of a task first, as name and text."""
    rounding = "exact" if record.exact else "rounded to the stored dtype"
    share = record.nbytes / max(1, record.model_nbytes)
    of_model = f", {share:.3f} of the model's {size(record.model_nbytes)}"
    adapter = record.role == "adapter"
    return [
        ("task", record.name),
        ("base", _base(record)),
        ("role", f"{record.role} ({ROLES[record.role]})"),
        *([] if adapter else [("density", fraction(record.density)), ("values", rounding)]),
        ("size", size(record.nbytes) + ("" if adapter else of_model)),
        ("importance", "yes" if record.importance_path else "no"),
    ]


def _base(record: TaskRecord) -> str:
    told = f"{record.base} ({record.base_fingerprint[:16]})" if record.base_fingerprint else ""
    return told if record.base else "none: names and shapes are checked when it is merged"


def made_by(provenance: dict[str, str]) -> list[tuple[str, str]]:
    """Return a task's provenance for a reader, what describes the mask on one line."""
    about = ", ".join(
        f"{k} {provenance[k]}" for k in ("density", "seed", "file") if k in provenance
    )
    mask = provenance.get("mask", "none") + (f" ({about})" if about else "")
    if "adapter" in provenance:
        return [(k.replace("_", " "), text) for k, text in provenance.items()]
    rest = [k for k in provenance if k not in ("mask", "density", "seed", "file", "task")]
    return [("mask", mask), *((k.replace("_", " "), provenance[k]) for k in rest)]


def count(number: int, noun: str) -> str:
    """Return a number of things, as "1 file" and "2 files"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def age(created: str) -> str:
    """Return how long ago a manifest's time is, for a reader."""
    then = datetime.strptime(created, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    elapsed = max(0, int((datetime.now(UTC) - then).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if elapsed >= length:
            return f"{elapsed // length} {unit}"
    return f"{elapsed} s"
