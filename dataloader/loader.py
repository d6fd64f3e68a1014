"""Batches from the loader's memory to the device that trains."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

Batch = dict[str, Tensor]


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
