"""Exported networks: the same numbers as PyTorch, a package its library accepts, mistakes."""

import re
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, segmentor_from
from model.segmentor import Segmentor
from prediction.onnx import PairProbabilities, largest_difference, opset, write_onnx
from utils.paths import ROOT

NAME = "größe 1"


@pytest.fixture(scope="module")
def network() -> Segmentor:
    torch.manual_seed(0)
    return Segmentor(4).eval()


@pytest.fixture(scope="module")
def exported(network: Segmentor, tmp_path_factory, command) -> tuple[Path, str]:
    """The folder of an exported model, and what the command said."""
    out = tmp_path_factory.mktemp("export")
    (out / "models" / NAME).mkdir(parents=True)
    checkpoint = Checkpoint(network.state_dict(), 77, pixel_size=8.0)
    save_checkpoint(out / "models" / NAME / "model.ckpt", checkpoint)
    finished = command("export_model", "-mn", NAME, "--out", out)
    assert finished.code == 0, finished.err
    return out / "models" / NAME / "export", finished.out


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 48, 80)])
def test_onnx_computes_what_pytorch_does(network, exported, shape: tuple) -> None:
    folder, said = exported
    batch, height, width = shape
    pair = torch.rand(batch, 2, height, width)
    with torch.no_grad():
        logits = network(pair)
    expected = [maps.softmax(1)[:, 1].numpy() for maps in (logits.current, logits.auxiliary)]
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"pair": pair.numpy()})
    np.testing.assert_allclose(found, np.stack(expected, axis=1), atol=1e-5)
    assert float(re.search(r"largest difference (\S+)", said)[1]) < 1e-5


def test_the_package_is_whole(exported) -> None:
    folder, said = exported
    with zipfile.ZipFile(folder / "bioimageio.zip") as package:
        names = set(package.namelist())
        description = package.read("rdf.yaml" if "rdf.yaml" in names else "bioimageio.yaml")
        documentation = package.read("README.md").decode()
    assert {"model.onnx", "test_input.npy", "test_output.npy", "cover.png"} <= names
    assert b"scale_range" in description
    assert f"opset_version: {opset(folder / 'model.onnx')}".encode() in description
    assert "iteration 77, chosen by: last" in documentation
    assert "8 nm" in documentation
    assert said.count("wrote ") == 2
    assert sorted(path.name for path in folder.iterdir()) == ["bioimageio.zip", "model.onnx"]


def test_a_network_that_differs_is_noticed(network, exported) -> None:
    torch.manual_seed(1)
    other = PairProbabilities(Segmentor(4)).eval()
    assert largest_difference(other, exported[0] / "model.onnx") > 1e-3


def test_the_documentations_example_runs(exported) -> None:
    text = (ROOT / "docs/export.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    example: dict = {}
    exec(code, example)
    sections = np.random.default_rng(0).integers(0, 256, (2, 64, 48), np.uint8)
    masks = example["masks"](str(exported[0] / "model.onnx"), *sections)
    assert masks.shape == (2, 64, 48)
    assert masks.dtype == bool


def test_mistakes(command, tmp_path: Path, network: Segmentor) -> None:
    finished = command("export_model", "-mn", "none", "--out", tmp_path)
    assert finished.code == 2
    assert re.fullmatch(r"error: .*none/model\.ckpt: no such checkpoint.*\n", finished.err)
    (tmp_path / "models/broken").mkdir(parents=True)
    (tmp_path / "models/broken/model.ckpt").write_bytes(b"PK broken")
    finished = command("export_model", "-mn", "broken", "--out", tmp_path)
    assert finished.code == 2
    assert "not a readable checkpoint" in finished.err
    assert not (tmp_path / "models/broken/export").exists()


def test_export_keeps_the_network_as_it_is(network: Segmentor, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    write_onnx(PairProbabilities(network), tmp_path / "a.onnx")
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_half_precision_predicts_nearly_the_same(
    command, tmp_path: Path, network: Segmentor
) -> None:
    folder = tmp_path / "models/small"
    folder.mkdir(parents=True)
    save_checkpoint(folder / "model.ckpt", Checkpoint(network.state_dict(), 77, pixel_size=8.0))
    finished = command("export_model", "-mn", "small", "--half", "--out", tmp_path)
    assert finished.code == 0, finished.err
    half = folder / "export/model.ckpt"
    assert half.stat().st_size < 0.75 * (folder / "model.ckpt").stat().st_size  # names take some
    checkpoint = load_checkpoint(half)
    assert (checkpoint.iteration, checkpoint.pixel_size) == (77, 8.0)
    pair = torch.rand(1, 2, 48, 64)
    with torch.no_grad():
        expected, found = network(pair), segmentor_from(checkpoint, half)(pair)
    assert found.current.dtype == torch.float32
    torch.testing.assert_close(found.current, expected.current, atol=0.02, rtol=0)
    assert not torch.equal(found.current, expected.current)


def test_weights_that_half_precision_cannot_hold_are_refused(
    command, tmp_path: Path, network: Segmentor
) -> None:
    folder = tmp_path / "models/large"
    folder.mkdir(parents=True)
    weights = dict(network.state_dict())
    weights["section_full.conv1.bias"] = torch.full((4,), 1e6)
    save_checkpoint(folder / "model.ckpt", Checkpoint(weights, 1))
    finished = command("export_model", "-mn", "large", "--half", "--out", tmp_path)
    assert finished.code == 2
    assert "section_full.conv1.bias: found weights above 65504" in finished.err
    assert not (folder / "export/model.ckpt").exists()
