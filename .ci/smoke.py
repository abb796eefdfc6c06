"""One real merge by the installed command, in the current folder, checked against numpy."""

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

SHAPES = {"encoder.weight": (6, 10), "encoder.bias": (10,)}
DENSITY = 0.2


def write_model(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 10}))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def trim(delta: np.ndarray) -> np.ndarray:
    """Keep the share DENSITY of largest magnitude, zero the rest (no two magnitudes are equal)."""
    smallest_kept = np.sort(np.abs(delta), axis=None)[-round(DENSITY * delta.size)]
    return np.where(np.abs(delta) >= smallest_kept, delta, 0)


def ties(deltas: np.ndarray) -> np.ndarray:  # (k, *shape) -> (*shape)
    deltas = np.stack([trim(delta) for delta in deltas])
    agrees = np.sign(deltas) * np.sign(deltas.sum(0)) > 0
    return (deltas * agrees).sum(0) / np.maximum(agrees.sum(0), 1)


def main() -> None:
    rng = np.random.default_rng(0)
    base = {name: rng.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}
    tuned = [
        {name: value + rng.standard_normal(value.shape, np.float32) for name, value in base.items()}
        for _ in range(2)
    ]
    write_model(Path("base"), base)
    write_model(Path("ft-a"), tuned[0])
    write_model(Path("ft-b"), tuned[1])

    command = "merge ./ft-a ./ft-b --base ./base --strategy ties --out ./merged"
    subprocess.run([Path(sys.executable).parent / "deltakit", *command.split()], check=True)

    merged = load_file("merged/model.safetensors")
    assert merged.keys() == base.keys(), sorted(merged)
    for name, value in base.items():
        expected = value + ties(np.stack([model[name] - value for model in tuned]))
        np.testing.assert_allclose(merged[name], expected, rtol=0, atol=1e-6, err_msg=name)
        assert (merged[name] != value).any(), f"{name}: nothing was merged"
    assert json.loads(Path("merged/config.json").read_text())["hidden_size"] == 10

    for package in ("deltakit", "deltakit_cli"):
        marker = files(package) / "py.typed"
        assert marker.is_file(), f"{marker} is missing: users would get no types"
    print("the installed wheel merged two models as numpy does")


if __name__ == "__main__":
    main()
