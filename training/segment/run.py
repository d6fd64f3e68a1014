"""From a raw volume to its mitochondria: adapt, predict, find the objects, report."""

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prediction.inference import Request, open_inference
from prediction.outputs import OBJECTS, REPORT, SECTIONS, SUMMARY
from prediction.report.report import require_report
from prediction.report.tables import read_table
from prediction.run import Wanted, run
from training.segment.adapt import CONTINUES, train
from training.segment.estimate import ADAPT
from training.segment.options import Options
from training.segment.plan import Plan, open_plan
from utils.errors import writing_to
from utils.optional import wanted
from utils.paths import shown
from utils.progress import Stages, stage
from utils.runtime.device import choose_device
from utils.runtime.signals import Interrupted

LOG = "segment.log"


def segment(options: Options) -> None:
    """Segment a volume; prints what it finds, does and leaves.

    Raises:
        UserError: see ``open_plan``; or a stage fails.
        Interrupted: by SIGINT or SIGTERM; the same command goes on.
    """
    began = time.perf_counter()
    require_report()
    for package in ("edt", "skimage"):
        wanted(package, "to find single mitochondria")
    with _interruptible():
        device = choose_device(options.device)
        plan = open_plan(options, device, began)
        with Stages(plan.stages):
            if plan.trains:
                with stage(ADAPT):
                    train(plan.config, options.workspace, plan.name, device, plan.resumes)
            predict(plan)
        for line in results(plan):
            print(line)


def predict(plan: Plan) -> None:
    """Predict, score where there are labels, find the objects and write the report."""
    options = plan.options
    request = Request(plan.model, output_format=options.output_format, folder=plan.name)
    with writing_to(plan.folder), (plan.folder / LOG).open("w", encoding="utf-8") as log:

        def note(line: str) -> None:
            log.write(f"{line}\n")
            log.flush()

        inference = open_inference(plan.config, options.workspace, request, plan.device, say=note)
        run(inference, Wanted(objects=True, report=True))


def results(plan: Plan) -> Iterator[str]:
    """Lines on what was found, and where it lies."""
    summary = json.loads((plan.folder / SUMMARY).read_text(encoding="utf-8"))
    shares = [float(row["foreground_predicted"]) for row in read_table(plan.folder / SECTIONS)]
    count, share = len(read_table(plan.folder / OBJECTS)), sum(shares) / len(shares)
    name = "mitochondrion" if count == 1 else "mitochondria"
    yield f"found: {count:,} {name}, {share:.1%} of the volume"
    if not count:
        yield '  see "If the result is poor" in docs/getting-started.md'
    if summary["scores"]:
        yield "scores: " + ", ".join(f"{k} {100 * v:.1f} %" for k, v in summary["scores"].items())
    if found := summary["instance_scores"]:
        f1, pq = (f"{100 * found[name]:.1f} %" for name in ("F1_50", "PQ50"))
        yield f"scores of the objects: F1 {f1}, PQ {pq} (at an IoU of 0.5)"
    yield f"report: {shown(plan.folder / REPORT)}"
    yield f"all results: {shown(plan.folder)}/"


class _Terminated(KeyboardInterrupt):
    """SIGTERM."""


@contextmanager
def _interruptible() -> Iterator[None]:
    """Say how to go on after SIGINT or SIGTERM, wherever it comes."""

    def end(*_: object) -> None:
        raise _Terminated

    main = threading.current_thread() is threading.main_thread()  # only it may set handlers
    before = signal.signal(signal.SIGTERM, end) if main else None
    try:
        yield
    except KeyboardInterrupt as error:
        number = signal.SIGTERM if isinstance(error, _Terminated) else signal.SIGINT
        raise Interrupted(f"interrupted; {CONTINUES}", number) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
