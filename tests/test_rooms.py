"""The rooms of the house: imports go one way."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# utils <- dataloader, model, loss <- prediction <- training <- scripts
FLOORS = (("utils",), ("dataloader", "model", "loss"), ("prediction",), ("training",), ("scripts",))
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


@pytest.mark.parametrize("room", FLOOR)
def test_a_room_imports_only_from_lower_floors(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / room).rglob("*.py")
        for name in imported(path)
        if name in FLOOR and name != room and FLOOR[name] >= FLOOR[room]
    ]
    assert wrong == []


def imported(path: Path) -> list[str]:
    """The top-level packages that a module imports, anywhere in it."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
    return [name.partition(".")[0] for name in names]
