"""The folders of a training run."""

import shutil
from pathlib import Path

from filelock import BaseFileLock

from model.checkpoint import PREVIOUS_STATE, TRAINING_STATE
from utils.config.schema import Config
from utils.errors import UserError
from utils.paths import Workspace
from utils.revision import git_revision
from utils.runtime.lock import LOCK, lock_folder


class RunFolder:
    """The folders that a run writes to.

    Attributes:
        logs: ``logs/<run>``: train.log, loss.txt, loss_adv.txt, valid.txt, target.txt, TensorBoard
            events, resolved.yaml, git_revision.txt.
        models: ``models/<run>``: the checkpoints.
    """

    def __init__(self, workspace: Workspace, config: Config, run: str) -> None:
        self.name = run
        self.logs = workspace.logs(run)
        self.models = workspace.models(config.TRAIN.save_path, run)
        self.locks: list[BaseFileLock] = []

    def create(self, config: Config, overwrite: bool, keep: bool) -> None:
        """Create and lock the folders, and write the config and the git revision.

        Args:
            config: as resolved for the run.
            overwrite: delete an earlier run of this name.
            keep: continue an earlier run of this name.

        Raises:
            UserError: there is an earlier run and neither is set, another process uses the
                folders, or they cannot be written to.
        """
        folders = (self.logs, self.models)
        earlier = [folder for folder in folders if folder.is_dir() and _content(folder)]
        if earlier and not (overwrite or keep):
            raise UserError(
                f"{earlier[0]}: holds an earlier run; give --run-name NAME to keep it, "
                "or --overwrite to replace it"
            )
        try:
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
                self.locks.append(lock_folder(folder))
            if overwrite:
                self._empty()
            (self.logs / "resolved.yaml").write_text(config.to_yaml(), encoding="utf-8")
            (self.logs / "git_revision.txt").write_text(git_revision() + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be written ({error.strerror})") from None

    def _empty(self) -> None:
        """Delete an earlier run. The states go first, so that no partial run can be resumed."""
        for name in (TRAINING_STATE, PREVIOUS_STATE):
            (self.models / name).unlink(missing_ok=True)
        for path in (*_content(self.models), *_content(self.logs)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def release(self) -> None:
        """Unlock the folders."""
        while self.locks:
            self.locks.pop().release()


def _content(folder: Path) -> list[Path]:
    """The files of a run, without the lock."""
    return [path for path in folder.iterdir() if path.name != LOCK]
