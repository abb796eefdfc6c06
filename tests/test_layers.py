"""Rooms stand in one order, and a file imports only from its own room and from those above it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the top down. A row with several names is several rooms on one floor, open to each other.
ROOMS = [
    ["apart", "cut", "drawn", "dtypes", "errors", "formula", "held", "stored", "threads"],
    ["kernels", "sizes"],
    ["bits", "lazy"],
    ["ops"],
    ["combination", "magnitudes", "rng"],
    ["bracket"],
    ["trim"],
    ["tensors"],
    ["provenance", "delta_source"],
    ["delta", "importance", "mask"],
    ["unified"],
    ["vocabulary"],
    ["add_difference", "delta_file", "diff", "difference", "restored"],
    ["strategies"],
    ["recipe"],
    ["stacking"],
    ["engine"],
    ["lora"],
    ["store"],
    ["experts", "mergekit"],
    ["merging", "opening", "members"],
    ["incremental", "unify"],
    ["inspect"],
    ["learn"],
    ["deltakit_cli"],
]
FLOOR = {room: floor for floor, row in enumerate(ROOMS) for room in row}

# Inside a room, a file that the rest of it stands on: it imports nothing else of its room.
GROUND = ["deltakit.tensors.files"]

# Who may import what, at module level or anywhere in the file.
AT_MODULE_LEVEL = {"torch": ["learn"]}
ANYWHERE = {
    "transformers": ["learn"],
    "peft": ["learn"],
    "typer": ["deltakit_cli"],
    "rich": ["deltakit_cli"],
}


def sources() -> Iterator[tuple[str, Path]]:
    """Each module of the two packages: its installed name and its file."""
    for folder, package in (("deltakit", "deltakit"), ("cli", "deltakit_cli")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join([package, *(part for part in parts if part != "__init__")]), path


def room_of(module: str) -> str:
    """The room of a module name, and "" for deltakit's front door, which leads to all of them."""
    package, _, rest = module.partition(".")
    return package if package == "deltakit_cli" else rest.partition(".")[0]


def imports(source: str) -> Iterator[tuple[int, str, bool]]:
    """Line, full dotted name and "runs when the module is imported" of each import that runs."""

    def walk(node: ast.AST, at_import: bool) -> Iterator[tuple[int, str, bool]]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, at_import
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            for alias in node.names:
                yield node.lineno, f"{start}.{alias.name}", at_import
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for_types = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in node.orelse if for_types else ast.iter_child_nodes(node):
            yield from walk(child, at_import and not inside)

    return walk(ast.parse(source), at_import=True)


def complaints(module: str, source: str) -> Iterator[str]:
    """What one module imports that it should not."""
    room = room_of(module)
    if module != "deltakit" and room not in FLOOR:
        yield f"{module}: no such room; say in ROOMS where {room!r} stands"
        return
    for line, name, at_import in imports(source):
        where = f"{module}:{line}: {name}"
        top = name.partition(".")[0]
        if top == "":
            yield f"{where}: relative; write the full name"
        elif top in AT_MODULE_LEVEL and at_import and room not in AT_MODULE_LEVEL[top]:
            yield f"{where}: import {top} in the function that uses it"
        elif top in ANYWHERE and room not in ANYWHERE[top]:
            yield f"{where}: {top} belongs to {' and '.join(ANYWHERE[top])} only"
        elif top in ("deltakit", "deltakit_cli") and module != "deltakit":
            yield from (f"{where}: {text}" for text in across_rooms(module, room, name))


def across_rooms(module: str, room: str, name: str) -> Iterator[str]:
    other = room_of(name)
    if other not in FLOOR:
        # The front door gives a name of some room below: only the command may come in that way.
        if room != "deltakit_cli" and name != "deltakit.__version__":
            yield "comes through the front door; import it from its own room"
    elif FLOOR[other] > FLOOR[room]:
        yield f"{other} is below {room}"
    elif module in GROUND and other == room:
        yield f"{module} stands on nothing of its own room"


def test_each_file_imports_only_from_its_own_room_and_those_above():
    found = [text for module, path in sources() for text in complaints(module, path.read_text())]
    assert not found, "\n".join(found)


def test_each_folder_of_modules_is_a_package():
    folders = {path.parent for _, path in sources()}
    bare = [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()]
    assert not bare, f"no __init__.py, so left out of the wheel: {bare}"


BAD = [
    ("deltakit.ops", "import deltakit.rng", "rng is below ops"),
    ("deltakit.ops", "from deltakit import engine", "engine is below ops"),
    ("deltakit.delta", "def f():\n    from deltakit.store.tasks import x", "store is below delta"),
    ("deltakit.learn.loop", "import deltakit_cli.main", "deltakit_cli is below learn"),
    ("deltakit.engine.plan", "from deltakit import merge", "front door"),
    ("deltakit.engine.plan", "from ..store import tasks", "write the full name"),
    ("deltakit.tensors.files", "from deltakit.tensors.header import parse", "its own room"),
    ("deltakit.ops", "from torch import Tensor", "in the function that uses it"),
    ("deltakit.ops", "if True:\n    import torch.nn", "in the function that uses it"),
    ("deltakit", "import torch", "in the function that uses it"),
    ("deltakit.lora.merge", "def f():\n    import peft", "peft belongs to learn only"),
    ("deltakit_cli.add", "from transformers import AutoModel", "transformers belongs to learn"),
    ("deltakit.inspect.report", "def f():\n    from rich.table import Table", "rich belongs to"),
    ("deltakit.store.tasks", "import typer", "typer belongs to deltakit_cli only"),
    ("deltakit.attic", "", "no such room"),
    ("deltakit.ops", "if TYPE_CHECKING:\n    pass\nelse:\n    import torch", "in the function"),
]


@pytest.mark.parametrize(("module", "source", "words"), BAD)
def test_a_bad_import_is_reported(module: str, source: str, words: str):
    found = list(complaints(module, source))
    assert len(found) == 1, found
    assert words in found[0]


GOOD = [
    ("deltakit.engine.plan", "from deltakit.engine import blocks\nfrom deltakit.errors import Bad"),
    ("deltakit.delta", "from deltakit.mask import Mask\nfrom deltakit.tensors import writer"),
    ("deltakit.ops", "if TYPE_CHECKING:\n    from torch import Tensor\n    import deltakit.engine"),
    ("deltakit.ops", "def f():\n    import torch"),
    ("deltakit.learn.loop", "import torch\nimport transformers"),
    ("deltakit_cli.merge", "import deltakit\nimport typer\nfrom deltakit import merge"),
    ("deltakit", "def __getattr__(name):\n    from deltakit.engine import merge"),
]


@pytest.mark.parametrize(("module", "source"), GOOD)
def test_a_good_import_is_not(module: str, source: str):
    assert list(complaints(module, source)) == []
