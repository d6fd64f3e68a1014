"""What several tests need."""

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import settings

from tests.dataloader.published_files import Tree
from tests.projects import Finished, Project
from utils.errors import run_command
from utils.paths import ROOT
from utils.runtime.device import AUTO, PRECISIONS

SHARED = ROOT.parent / "shared"

settings.register_profile("fixed", max_examples=70, deadline=None, derandomize=True)
settings.register_profile("fuzz", max_examples=2000, deadline=None)  # `make fuzz`
settings.load_profile("fixed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options that stand for other machines."""
    parser.addoption(
        "--auto-precision",
        choices=PRECISIONS,
        help="what precision 'auto' chooses, as on a CPU with matrix units for bfloat16",
    )
    parser.addoption(
        "--gpu", action="store_true", help="run the tests that need a GPU, and no others"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs and compute on one thread, here and in the processes that tests start."""
    if not config.getoption("--gpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the tests that need a GPU with ``--gpu`` alone, where there is one."""
    gpu = config.getoption("--gpu")
    reason = "this machine has no CUDA GPU" if gpu else "needs a GPU: run pytest --gpu"
    if gpu:
        items[:] = [item for item in items if item.get_closest_marker("gpu")]
    if not (gpu and torch.cuda.is_available()):
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(tryfirst=True)  # before the fixtures
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let ``auto`` choose as asked for; refuse it to tests that are not marked ``auto_precision``.

    A test that pins its precision is the same on every machine, and need not run a second time.
    """
    chosen = item.config.getoption("--auto-precision")
    if not item.get_closest_marker("auto_precision"):
        os.environ[AUTO] = "no precision: mark the test auto_precision, or pin float32"
    elif chosen:
        os.environ[AUTO] = chosen
    else:
        os.environ.pop(AUTO, None)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The golden numbers and real volumes beside the checkout, where they lie there."""
    if not (SHARED / "golden").is_dir():
        pytest.skip(f"needs the golden numbers and volumes in {SHARED}, which is not there")
    return SHARED


@pytest.fixture(scope="session")
def command() -> Callable[..., Finished]:
    """Run a command of ``scripts/`` in this process: ``command("main", "-c", "x.yaml")``."""
    sys.path.insert(0, str(ROOT / "scripts"))

    def run(script: str, *arguments: object) -> Finished:
        module = importlib.import_module(script)
        out, err, code = io.StringIO(), io.StringIO(), 0
        argv = [f"{script}.py", *map(str, arguments)]
        with (
            mock.patch.object(sys, "argv", argv),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                run_command(module.main)
            except SystemExit as end:
                code = end.code or 0
        return Finished(code, out.getvalue(), err.getvalue())

    yield run
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture
def project(command: Callable[..., Finished], tmp_path: Path) -> Project:
    """A small project of its own for a test."""
    return Project(command, tmp_path)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A data root of its own for a test, and a folder with what it is made from."""
    return Tree(tmp_path)
