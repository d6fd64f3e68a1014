"""Train with all that a run leaves: its folders, its log, and faults told in one line."""

from contextlib import ExitStack

from training.description import describe
from training.log import RunLog
from training.trainer import Trainer
from utils.faults import faults_in_one_line
from utils.runtime.memory import peak_memory


def train_recorded(
    trainer: Trainer,
    heading: tuple[str, ...] = (),
    overwrite: bool = False,
    quiet: bool = False,
) -> None:
    """Lock the folders of a run, train, and log; only the first process writes.

    Args:
        trainer: of the run; it continues an earlier one if it was built to.
        heading: first lines of the log.
        overwrite: delete an earlier run of the same name.
        quiet: show only warnings in the terminal.

    Raises:
        UserError: the folders hold another run or are in use, or the machine fails.
        Interrupted: by SIGINT or SIGTERM, after the state has been saved.
    """
    folder, config = trainer.folder, trainer.config
    is_main = trainer.group.is_main
    with ExitStack() as stack:
        if is_main:
            stack.callback(folder.release)
            folder.create(config, overwrite, keep=trainer.continues)
        stack.enter_context(faults_in_one_line(folder.logs, config.TRAIN.num_workers))
        log = RunLog(folder, config, trainer.start, quiet) if is_main else None
        if log:
            stack.callback(log.close)
            for line in (*heading, *describe(trainer)):
                log.info(line)
        trainer.run(log)
        if log:
            log.info(f"iterations per second: {log.speed:.2f}, {peak_memory(trainer.device)}")
