"""What is packed is what a build needs."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_a_source_distribution_has_every_header_of_the_kernels() -> None:
    (kernels,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "ext-modules"
    ]
    headers = sorted((ROOT / "deltakit" / "native").glob("*.h"))
    assert kernels["depends"] == [str(header.relative_to(ROOT)) for header in headers]
