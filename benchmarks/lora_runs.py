"""One merge of adapters by deltakit or PEFT: its cost, and how far it is from the weighted sum."""

from __future__ import annotations

import gc
import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks.lora_models import KINDS, RANK

WEIGHTS = (0.5, 0.3, 0.2)


class Watch:
    """Seconds, CPU seconds and peak memory of a `with` block."""

    def __enter__(self) -> Watch:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        self._memory, self._cpu = _status("VmRSS"), time.process_time()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.found = {
            "seconds": time.perf_counter() - self._start,
            "cpu": time.process_time() - self._cpu,
            "peak": float(_status("VmHWM") - self._memory),
        }


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def run_deltakit(adapters: list[Path], mode: str, out: Path) -> dict[str, float]:
    """Merge from folders into a folder."""
    from deltakit.lora.cut import Size
    from deltakit.lora.merge import merge_adapters
    from deltakit.members import open_members

    _load_linear_algebra()
    size = Size() if mode in ("cat", "linear") else Size(rank=RANK)
    with Watch() as watch:
        merge_adapters(open_members([str(a) for a in adapters], WEIGHTS), mode, out, size=size)
    return {**watch.found, "error": error(adapters, out)}


def _load_linear_algebra() -> None:
    """Have torch load what it loads on first use: its libraries are nobody's memory or time."""
    import torch

    matrix = torch.ones(64, 48)
    for kind in (torch.float32, torch.float64):
        torch.linalg.qr(matrix.to(kind))
        torch.linalg.svd(matrix.to(kind), full_matrices=False)
        matrix.to(kind).T @ matrix.to(kind)


def run_peft(base: Path, adapters: list[Path], mode: str, out: Path) -> dict[str, float]:
    """Merge in a loaded model, then save what came out."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # two spin where the machine has other work, and look worse
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapters[0], "a0")
    for number, path in enumerate(adapters[1:], 1):
        model.load_adapter(path, f"a{number}")
    for parameter in model.parameters():
        parameter.sum()  # weights are mapped from their file, and count once they are touched
    _load_linear_algebra()
    options: dict[str, Any] = {}
    if mode.endswith("svd"):
        options["svd_rank"] = RANK
    if mode in ("ties_svd", "dare_linear_svd", "dare_ties_svd"):
        options["density"] = 0.2 if mode == "ties_svd" else 0.1
    with Watch() as watch:
        model.add_weighted_adapter(
            ["a0", "a1", "a2"], list(WEIGHTS), "merged", combination_type=mode, **options
        )
    model.save_pretrained(out, selected_adapters=["merged"])
    return {**watch.found, "error": error(adapters, out / "merged")}


def error(adapters: list[Path], merged: Path) -> float:
    """Return the relative error of a merged adapter against the exact weighted sum."""
    from deltakit.lora import open_adapter
    from deltakit.lora.factors import squared_norms

    opened, found = [open_adapter(path) for path in adapters], open_adapter(merged)
    exact = lost = 0.0
    for module in found.parts:
        products = [*(adapter.factors(module) for adapter in opened), found.factors(module)]
        norms = squared_norms(products, [*WEIGHTS, -1.0])
        exact, lost = exact + norms[-2], lost + norms[-1]
    return float((lost / exact) ** 0.5)


def identities(work: Path) -> dict[str, tuple[float, str]]:
    """Return what `identity` finds for every kind."""
    return {kind: identity(kind, work / kind) for kind in KINDS}


def identity(kind: str, work: Path) -> tuple[float, str]:
    """Return how far weights 1, 0 are from the first adapter: deltakit's merge, and PEFT's."""
    from benchmarks.lora_models import adapter_of_kind, base_model, logits, merged_by_peft
    from deltakit.lora.merge import merge_adapters
    from deltakit.members import open_members

    base = base_model(work / "base")
    paths = [adapter_of_kind(kind, base, work / f"{seed}", seed) for seed in range(2)]
    wanted = logits(base, paths[0])
    effect = float((wanted - logits(base)).abs().max())
    merge_adapters(open_members([str(p) for p in paths], [1.0, 0.0]), "cat", work / "m")
    ours = float((logits(base, work / "m") - wanted).abs().max()) / effect
    try:
        theirs = float((merged_by_peft(base, paths, [1.0, 0.0]) - wanted).abs().max()) / effect
    except (ValueError, RuntimeError, NotImplementedError) as refused:
        print(f"PEFT refuses {kind}: {refused}")
        return ours, "refused"
    return ours, f"{theirs:.1e}"
