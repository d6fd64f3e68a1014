"""How much memory may be taken: of the machine and of the control groups."""

from pathlib import Path

import pytest

from utils.runtime.memory import available_memory, free_in_control_groups


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_control_group_counts(tmp_path: Path, version: int) -> None:
    base = tmp_path / ("memory" if version == 1 else "")
    limit = "memory__limit_in_bytes" if version == 1 else "memory__max"
    used = "memory__usage_in_bytes" if version == 1 else "memory__current"
    own = tmp_path / "own"
    own.write_text("4:memory:/a/b\n3:cpu:/\n" if version == 1 else "0::/a/b\n")
    statistics = "cache 9\ninactive_file 30"
    write(base / "a" / "b", **{limit: 1000, used: 400, "memory__stat": statistics})
    write(base / "a", **{limit: "max", used: 500, "memory__stat": statistics})
    write(base, **{limit: 700, used: 600, "memory__stat": "cache 9"})
    assert sorted(free_in_control_groups(own, tmp_path)) == [100, 630]
    assert free_in_control_groups(tmp_path / "none", tmp_path) == []


def test_there_is_some_memory() -> None:
    free = available_memory()
    assert free is None or free > 0
