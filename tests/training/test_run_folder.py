"""The logs of a run."""

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.projects import Project
from training.log import RunLog
from training.run_folder import RunFolder
from utils.config.load import load_config
from utils.paths import CONFIG_DIR, Workspace


def test_a_term_s_mean_is_over_the_iterations_that_have_it(project: Project) -> None:
    config = load_config(str(project.root / "tiny.yaml"), ["TRAIN.display_freq=6"], CONFIG_DIR)
    folder = RunFolder(Workspace(project.root, project.root), config.config, "tiny")
    folder.create(config.config, overwrite=False, keep=False)
    log = RunLog(folder, config.config)
    source, target = "seg_source_current", "seg_target_current"
    reports = [
        {source: 1},
        {source: 2},
        {source: 3, "consistency_target": 0.1},  # a phase begins
        {source: 100, "consistency_target": 100, "skipped": 1},
        {target: 7, "consistency_target": 0.2},  # and another
        {target: 7, "consistency_target": 0.3},
    ]
    for iteration, report in enumerate(reports, start=1):
        report = {name: torch.tensor(value) for name, value in ({"skipped": 0} | report).items()}
        log.add(iteration, report, {"segmentor": 1e-4})
        if iteration == 2:  # as a resumed run goes on
            state = log.state_dict()
            log.close()
            log = RunLog(folder, config.config, 2)
            log.load_state_dict(state)
    log.close()
    folder.release()
    assert "loss_cpred=4.000000" in (folder.logs / "loss.txt").read_text()
    assert "loss_cross=0.200000" in (folder.logs / "loss_adv.txt").read_text()
    scalars = EventAccumulator(str(folder.logs)).Reload().Scalars
    assert scalars("terms/seg_target_current")[0].value == 7
    assert scalars("terms/skipped")[0].value == 1
