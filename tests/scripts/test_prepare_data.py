"""prepare_data.py, from a folder to the data tree."""

import re
from pathlib import Path

import numpy as np
import pytest

from dataloader.formats.opening import open_volume
from dataloader.published.catalogue import DATA_SETS
from tests.dataloader.published_files import Tree, png, tif, write


def test_command(command, tree: Tree) -> None:
    """At the official size, from an unpacked folder."""
    shape = DATA_SETS["vnc"].volumes[0].shape
    labels = np.zeros(shape[1:], np.uint8)
    labels[200:500, 100:900] = 255
    image = 200 - labels // 2 + np.random.default_rng(0).integers(0, 30, shape[1:], np.uint8)
    raw, groundtruth = tif(image), png(labels)
    for index in range(shape[0]):
        write(
            tree.given,
            {
                f"stack1/raw/{index:02d}.tif": raw,
                f"stack1/mitochondria/{index:02d}.png": groundtruth,
            },
        )
    finished = command("prepare_data", "vnc", "--from", tree.given, "--data", tree.root)
    assert (finished.code, finished.err) == (0, "")
    assert "20 sections of 1024 x 1024" in finished.out
    assert finished.out.endswith("Done\n")
    volume = open_volume(tree.root / "VNC3/training_groundtruth")
    assert volume.shape == shape
    np.testing.assert_array_equal(volume.section(19), labels)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "required: data_set"),
        (["mouse"], "invalid choice: 'mouse'"),
        (["vnc"], "error: VNC III: files are missing; give them with --from"),
        (["vnc", "--from"], "expected at least one argument"),
        (["vnc", "--from", "nowhere.zip"], "error: --from nowhere.zip: no such file or folder"),
        (["lucchi", "--from", "{empty}"], r"missing training\.tif \(http"),
    ],
)
def test_usage_errors(command, tree: Tree, tmp_path: Path, arguments: list, match: str) -> None:
    (tmp_path / "empty").mkdir()
    arguments = [a.format(empty=tmp_path / "empty") for a in arguments]
    finished = command("prepare_data", "--data", tree.root, *arguments)
    assert finished.code == 2
    assert re.search(match, finished.err)
    assert not tree.root.exists()
    assert "Traceback" not in finished.err


def test_command_says_what_it_needs(command, tree: Tree) -> None:
    finished = command("prepare_data", "mitoem-h", "--data", tree.root)
    for file in DATA_SETS["mitoem-h"].files:
        assert file.name in finished.out
        assert file.url in finished.out
