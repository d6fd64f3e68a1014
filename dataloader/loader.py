"""Load batches of training pairs in worker processes and copy them to the device."""

import atexit
import signal
import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from multiprocessing import active_children

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dataloader.pairs import PairDataset
from utils.config.schema import TrainSettings
from utils.runtime.distributed import Group

Batch = dict[str, Tensor]


def load_batches(
    dataset: PairDataset,
    iterations: range,
    train: TrainSettings,
    device: torch.device,
    group: Group,
) -> Iterator[Batch]:
    """This process's share of the batch of each iteration, on the device.

    Args:
        dataset: the pairs.
        iterations: iterations counted from 0.
        train: ``batch_size`` of all processes together, a multiple of their number, and
            ``num_workers``.
        device: where the batches go; masks become int64.
        group: the processes that share a batch.
    """
    if train.num_workers:
        _end_workers_at_exit()
        # torch warns of more workers than cores; the published configs ask for four
        warnings.filterwarnings("ignore", message="This DataLoader will create")
    share = train.batch_size // group.size
    starts = (iteration * train.batch_size + group.rank * share for iteration in iterations)
    loader = DataLoader(
        dataset,
        batch_sampler=[range(start, start + share) for start in starts],
        num_workers=train.num_workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=_start_worker,
        # tensorstore does not work in a forked process
        multiprocessing_context=None if dataset.fork_safe or not train.num_workers else "spawn",
    )
    return on_device(loader, device)


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Batches on a device, with masks as int64 for the losses.

    On CUDA, the next batch is copied from pinned memory on a separate stream while the current one
    is used.
    """
    if device.type == "cuda":
        yield from _prefetched(batches, device)
    else:
        for batch in batches:
            yield _moved(batch, device)


def _moved(batch: Batch, device: torch.device) -> Batch:
    moved = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
    if "masks" in moved:
        moved["masks"] = moved["masks"].long()  # after the copy: uint8 is an eighth of the bytes
    return moved


def _prefetched(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    stream = torch.cuda.Stream(device)

    def copy(batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            return _moved(batch, device), stream.record_event()

    def ready(moved: Batch, event: torch.cuda.Event) -> Batch:
        current = torch.cuda.current_stream(device)
        current.wait_event(event)
        for value in moved.values():
            value.record_stream(current)  # keeps its memory until this stream is done with it
        return moved

    pending = None
    for batch in batches:
        copied = copy(batch)
        if pending is not None:
            yield ready(*pending)
        pending = copied
    if pending is not None:
        yield ready(*pending)


@cache
def _end_workers_at_exit() -> None:
    # Workers ignore SIGTERM, with which Python would end them, so it would wait for a stuck one
    atexit.register(_end_workers)


def _end_workers() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch takes their exit for a crash
    for process in active_children():
        process.kill()


def _start_worker(worker: int) -> None:
    """Use one OpenCV thread, as workers share the cores, and leave signals to the main process."""
    cv2.setNumThreads(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
