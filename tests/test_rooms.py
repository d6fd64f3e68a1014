"""The rooms of the house: imports go one way, and no test file imports another."""

import ast
from pathlib import Path

import pytest

from utils.paths import ROOT

# utils <- dataloader, model, loss <- prediction <- training <- scripts
FLOORS = (("utils",), ("dataloader", "model", "loss"), ("prediction",), ("training",), ("scripts",))
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


@pytest.mark.parametrize("room", FLOOR)
def test_a_room_imports_only_from_lower_floors(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / room).rglob("*.py")
        for name in {name.partition(".")[0] for name in imported(path)}
        if name in FLOOR and name != room and FLOOR[name] >= FLOOR[room]
    ]
    assert wrong == []


def test_tests_share_helpers_and_fixtures_and_use_public_names() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / "tests").rglob("*.py")
        for name in imported(path)
        if name.startswith(("tests.", *(f"{room}." for room in FLOOR)))
        and any(part.startswith(("test_", "conftest", "_")) for part in name.split("."))
    ]
    assert wrong == []


def imported(path: Path) -> list[str]:
    """What a module imports, anywhere in it, by full names: ``package.module.name``."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names
