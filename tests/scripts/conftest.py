"""Projects whose commands have run."""

from pathlib import Path

import h5py
import pytest

from dataloader.synthetic import SOURCE_MICROSCOPE, TARGET_MICROSCOPE, make_volume, write_sections
from tests.scripts.tiny_project import CONFIG, SHAPE, Project, write_config


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A data tree: three labelled synthetic volumes as folders of PNG and as HDF5 files."""
    root = tmp_path_factory.mktemp("data")
    (root / "hdf").mkdir()
    microscopes = {
        "source": SOURCE_MICROSCOPE,
        "target": TARGET_MICROSCOPE,
        "val": TARGET_MICROSCOPE,
    }
    for seed, (name, microscope) in enumerate(microscopes.items()):
        volumes = dict(zip(("", "_groundtruth"), make_volume(seed, SHAPE, microscope), strict=True))
        for suffix, volume in volumes.items():
            write_sections(root / "png" / (name + suffix), volume)
            with h5py.File(root / "hdf" / f"{name}{suffix}.hdf", "w") as file:
                file["main"] = volume
    return root


@pytest.fixture
def project(command, data, tmp_path) -> Project:
    return Project(command, data, tmp_path)


@pytest.fixture(scope="session")
def trained(command, data, tmp_path_factory) -> Project:
    """A project whose model is trained and has predicted."""
    project = Project(command, data, tmp_path_factory.mktemp("trained"))
    project.training_output = project.run("main")
    project.inference_output = project.run("inference", "-mn", "tiny", "-sw")
    return project


@pytest.fixture(scope="session")
def trained_hdf5(command, data, tmp_path_factory) -> Project:
    """The same on HDF5 volumes, by the names of the MitoEM commands."""
    project = Project(command, data, tmp_path_factory.mktemp("hdf5"))
    keys = [key for key in CONFIG["DATA"] if key.startswith("data_dir")]
    paths = {key: CONFIG["DATA"][key].replace("png", "hdf") for key in keys}
    write_config(project.config, DATA=paths | {"data_dir_val": "hdf/val.hdf", "target_stride": 1})
    project.training_output = project.run("main_mito")
    project.inference_output = project.run("inference_mito", "-sw")
    return project
