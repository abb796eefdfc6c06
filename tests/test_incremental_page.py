"""docs/incremental.md: what it says is kept is what is kept."""

import re
from pathlib import Path

import torch

from deltakit.strategies import Streaming, get, names
from deltakit.tensors.header import TensorInfo

PAGE = (Path(__file__).parent.parent / "docs" / "incremental.md").read_text()
INFO = TensorInfo("F32", (100, 100))
NO_GRAM = (torch.ones(()),)


def test_the_table_has_every_strategy_that_streams_with_its_bytes() -> None:
    told = {}
    for row in re.findall(r"^\| (`.*) \| (\d+) \|$", PAGE, re.MULTILINE):
        told |= dict.fromkeys(re.findall(r"`(\w+)`", row[0].partition("|")[0]), int(row[1]))
    streaming = {name: get(name) for name in names() if isinstance(get(name), Streaming)}
    gram = (torch.ones(100, 100),)
    kept = {}
    for name, strategy in streaming.items():
        parts = strategy.keeps(INFO, gram if strategy.statistic == "gram" else NO_GRAM)
        entries = [part for part in parts.values() if part.shape == INFO.shape]
        kept[name] = sum(part.nbytes for part in entries) // INFO.numel
    kept["regmean"] -= 8  # 100 x 100 is also the shape of what it keeps for 100 inputs
    assert told == kept
