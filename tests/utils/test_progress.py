"""Bars of stages: what is left over all of them, and how durations are said."""

import pytest

from utils.progress import Stage, Stages, about, progress, stage

STAGES = [Stage("cook", 100.0, {"egg": 10.0, "pan": 1.0}), Stage("eat", 50.0)]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "about 1 s"),
        (59.4, "about 59 s"),
        (61, "about 1 min"),
        (59.4 * 60, "about 59 min"),
        (3600, "about 1 h"),
        (3.5 * 3600, "about 3 h 30 min"),
        (26.7 * 3600, "about 27 h"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert about(seconds) == said


def test_what_is_left_over_all_stages() -> None:
    said: list[str] = []
    with Stages(STAGES, said.append) as stages:
        assert stages.left() == 150
        with stage("cook"):
            eggs = progress([1, 2], 2, "egg")
            assert list(eggs) == [1, 2]
            assert stages.left() <= 130
            with progress(None, 5, "pan") as pans:
                pans.update(5)
            assert stages.left() <= 125
            list(progress([1], 1, "of another kind"))
            before = stages.left()
        assert stages.left() <= 50 < before
        with stage("eat"):
            pass
        assert stages.left() == 0
    assert said == ["cook: done in 1 s", "eat: done in 1 s"]


def test_what_was_done_earlier_is_not_left_and_says_nothing_of_the_pace() -> None:
    with Stages(STAGES, lambda _: None) as stages, stage("cook"):
        progress(None, 9, "egg", initial=8)
        assert stages.left() == pytest.approx(70)


def test_an_interrupted_stage_is_not_done() -> None:
    said: list[str] = []
    with Stages(STAGES, said.append):
        with pytest.raises(KeyboardInterrupt), stage("cook"):
            raise KeyboardInterrupt
        assert said == []
    with stage("of a command that shows none"):
        assert progress([1], 1, "egg").total == 1  # a bar of its own


def test_a_stage_in_a_terminal_fits_into_eighty_columns(capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    long = Stage("instances", 3600 * 30.0, {"egg": 3600.0})
    with Stages([long], print), stage("instances"):
        list(progress(range(9), 9, "egg"))
    shown = capsys.readouterr().err.replace("\n", "\r").split("\r")
    assert any("left in all" in line for line in shown)
    assert max(map(len, shown)) <= 80
