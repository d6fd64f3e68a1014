"""A run that is half done."""

import shutil

import pytest

from tests.projects import Project


@pytest.fixture(scope="session")
def half_way(command, tmp_path_factory) -> Project:
    """A run of six iterations of which four are done, saved at two and at four; not to be changed.

    The fifth source pair has a broken pixel."""
    project = Project(command, tmp_path_factory.mktemp("half_way"))
    project.train("--set", "TRAIN.total_iters=4")
    return project


@pytest.fixture
def resumable(half_way: Project, project: Project) -> Project:
    for folder in ("models", "logs"):
        shutil.copytree(half_way.root / folder, project.root / folder)
    for path in half_way.root.glob("*.hdf"):
        shutil.copy2(path, project.root)  # with its time
    return project
