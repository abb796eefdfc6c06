"""The same numbers as mergekit, where it can be installed (slow: it is a program of its own)."""

import json
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
from deltakit.recipe.text import read_data
from deltakit.vocabulary.tokenizer import Tokenizer
from tests.engine.merging import weights
from tests.mergekit.configs import FORMS, form
from tests.mergekit.models import WORDED, write_llamas, write_worded_llamas
from tests.mergekit.worded import TOKENS

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.slow

# One process for all forms: most of its time is its imports.
RUN = """
import sys, yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
options = MergeOptions(copy_tokenizer=False, write_model_card=False, random_seed=0)
for name in sys.argv[1:]:
    with open(name + ".yaml") as file:
        config = MergeConfiguration.model_validate(yaml.safe_load(file))
    run_merge(config, "theirs-" + name, options=options)
"""


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what mergekit makes of each form."""
    try:
        program = peer.install(ROOT / ".cache" / "deltakit")
    except DeltakitError as error:
        pytest.skip(f"mergekit cannot be installed here: {error.fact}")
    folder = tmp_path_factory.mktemp("peer")
    write_llamas(folder)
    write_worded_llamas(folder)
    for name in (*FORMS, *TOKENS):
        (folder / f"{name}.yaml").write_text(form(name, folder))
    done = subprocess.run(
        [program.parent / "python", "-c", RUN, *FORMS, *TOKENS],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("name", FORMS)
def test_the_same_configuration_gives_the_same_numbers(name: str, merged: Path) -> None:
    found = translate(read_data(merged / f"{name}.yaml"))
    execute(plan_recipe(found.recipe), merged / f"ours-{name}")
    ours, theirs = (weights(merged / f"{whose}-{name}") for whose in ("ours", "theirs"))
    configs = [
        json.loads((merged / f"{w}-{name}" / "config.json").read_text()) for w in ("ours", "theirs")
    ]
    assert len({config["num_hidden_layers"] for config in configs}) == 1
    base = weights(merged / "base")
    assert set(ours) == set(theirs)
    assert any(not torch.equal(tensor, base[key]) for key, tensor in ours.items())
    for key, tensor in ours.items():
        assert tensor.dtype == theirs[key].dtype
        largest = float(theirs[key].abs().max())
        assert float((tensor - theirs[key]).abs().max()) <= 2e-6 * largest, key


@pytest.mark.parametrize("name", TOKENS)
def test_the_row_of_each_token_is_the_same(name: str, merged: Path) -> None:
    found = translate(read_data(merged / f"{name}.yaml"))
    execute(plan_recipe(found.recipe), merged / f"ours-{name}")
    ours, theirs = (weights(merged / f"{whose}-{name}") for whose in ("ours", "theirs"))
    ids, wanted = (
        found.ids
        for whose in ("ours", "theirs")
        if (found := Tokenizer.open(merged / f"{whose}-{name}"))
    )
    assert set(ids) == set(wanted) >= set(WORDED["plain"])
    order = [ids[token] for token in wanted]
    for key, tensor in ours.items():
        expected = theirs[key]
        if key.startswith(("model.embed", "lm_head")):
            assert len(tensor) == len(expected) == len(wanted)
            tensor, expected = tensor[order], expected[list(wanted.values())]
        largest = float(expected.abs().max())
        assert float((tensor - expected).abs().max()) <= 2e-6 * largest, key
