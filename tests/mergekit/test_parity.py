"""The same numbers as mergekit, where it can be installed (slow: it is a program of its own)."""

import os
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks import peer
from deltakit.engine import execute
from deltakit.errors import DeltakitError
from deltakit.mergekit import translate
from deltakit.merging import plan_recipe
from deltakit.recipe.text import parse
from tests.engine.merging import weights
from tests.mergekit.configs import FORMS, form
from tests.mergekit.models import write_llamas

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program() -> Path:
    try:
        return peer.install(ROOT / ".cache" / "deltakit")
    except DeltakitError as error:
        pytest.skip(f"mergekit cannot be installed here: {error.fact}")


@pytest.mark.parametrize("name", FORMS)
def test_the_same_configuration_gives_the_same_numbers(
    name: str, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_llamas(tmp_path)
    text = form(name, tmp_path)
    Path("config.yaml").write_text(text)
    words = [program, "config.yaml", "theirs", *peer.OPTIONS, "--no-write-model-card"]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=offline)
    assert done.returncode == 0, done.stderr[-2000:]
    found = translate(parse(text.encode(), is_yaml=True))
    execute(plan_recipe(found.recipe), "ours")
    ours, theirs = weights(tmp_path / "ours"), weights(tmp_path / "theirs")
    assert set(ours) == set(theirs)
    base = weights(tmp_path / "base")
    assert any(not torch.equal(tensor, base[key]) for key, tensor in ours.items())
    for key, tensor in ours.items():
        assert tensor.dtype == theirs[key].dtype
        largest = float(theirs[key].abs().max())
        assert float((tensor - theirs[key]).abs().max()) <= 2e-6 * largest, key
