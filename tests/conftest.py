"""What several tests need."""

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
from hypothesis import settings

from tests.projects import Project
from utils.errors import run_command
from utils.runtime.device import AUTO, PRECISIONS

ROOT = Path(__file__).resolve().parents[1]
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


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs, and set what ``auto`` chooses, here and in the processes that tests start."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    chosen = config.getoption("--auto-precision")
    if chosen:
        os.environ[AUTO] = chosen
    else:
        os.environ.pop(AUTO, None)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The golden numbers and real volumes beside the checkout, where they lie there."""
    if not (SHARED / "golden").is_dir():
        pytest.skip(f"needs the golden numbers and volumes in {SHARED}, which is not there")
    return SHARED


class Finished(NamedTuple):
    """A command that came to its end."""

    code: int
    out: str
    err: str


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
