"""Batches of training pairs, loaded by processes of their own and brought to the device."""

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
    """This process's part of the batches of some iterations, on a device.

    Args:
        dataset: the pairs.
        iterations: numbers of iterations already done before each: 0 for the first one.
        train: ``batch_size`` of all processes together, a multiple of their number, and
            ``num_workers``, processes that load.
        device: masks come as int64 there.
        group: the processes that share a batch.
    """
    if train.num_workers:
        _end_workers_at_exit()
        # torch's, where there are more than cores: the published files ask for four
        warnings.filterwarnings("ignore", message="This DataLoader will create")
    share = train.batch_size // group.size
    starts = (iteration * train.batch_size + group.rank * share for iteration in iterations)
    loader = DataLoader(
        dataset,
        batch_sampler=[range(start, start + share) for start in starts],
        num_workers=train.num_workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=_start_worker,
    )
    return on_device(loader, device)


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Batches on a device, masks as the int64 that losses take.

    On CUDA the next batch is copied on a stream of its own while the last one is used; from
    pinned memory that costs no time.
    """
    if device.type == "cuda":
        yield from _copied_ahead(batches, device)
    else:
        for batch in batches:
            yield _moved(batch, device)


def _moved(batch: Batch, device: torch.device) -> Batch:
    moved = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
    if "masks" in moved:
        moved["masks"] = moved["masks"].long()  # after the way, of which uint8 is an eighth
    return moved


def _copied_ahead(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    stream = torch.cuda.Stream(device)

    def copy(batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            return _moved(batch, device), stream.record_event()

    def ready(moved: Batch, event: torch.cuda.Event) -> Batch:
        user = torch.cuda.current_stream(device)
        user.wait_event(event)
        for value in moved.values():
            value.record_stream(user)  # its memory is not to be reused before the user is done
        return moved

    ahead = None
    for batch in batches:
        following = copy(batch)
        if ahead is not None:
            yield ready(*ahead)
        ahead = following
    if ahead is not None:
        yield ready(*ahead)


@cache
def _end_workers_at_exit() -> None:
    # Python would ask with SIGTERM, which they do not hear, and wait for ever for a stuck one
    atexit.register(_end_workers)


def _end_workers() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch takes their death for a fault
    for process in active_children():
        process.kill()


def _start_worker(worker: int) -> None:
    """One OpenCV thread: workers share the cores. A signal to all is for the main process."""
    cv2.setNumThreads(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
