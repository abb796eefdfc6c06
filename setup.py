"""The list of packages: every folder of deltakit/, and cli/ under its installed name deltakit_cli.

All other settings are in pyproject.toml, which has no way to find packages in a renamed folder.
"""

from setuptools import find_packages, setup

setup(
    package_dir={"deltakit_cli": "cli"},
    packages=[
        *find_packages(include=["deltakit", "deltakit.*"]),
        *(f"deltakit_{name}" for name in find_packages(include=["cli", "cli.*"])),
    ],
)
