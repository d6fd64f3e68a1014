"""Writes TensorBoard event files."""

import time
from pathlib import Path

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import image, scalar, text


class EventFile:
    """An event file of a run; after ``flush`` everything added is on the disc.

    tensorboardX's SummaryWriter is not used because its flush does not wait for its queue: a run
    killed after a checkpoint would lack points from before it.

    Args:
        folder: of the run.
        start: number of finished iterations; TensorBoard hides later points of earlier files.
    """

    def __init__(self, folder: Path, start: int = 0) -> None:
        # The suffix keeps a run resumed within a second from writing to the previous file.
        self.writer = EventsWriter(str(folder / "events"), f".{start}")
        if start:
            session = SessionLog(status=SessionLog.START)
            self._write(session_log=session, step=start + 1)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Add a point of a curve."""
        self._write(summary=scalar(tag, value), step=step)

    def add_picture(self, tag: str, picture: np.ndarray, step: int) -> None:
        """Add a picture (H, W, 3) uint8, RGB."""
        self._write(summary=image(tag, picture, dataformats="HWC"), step=step)

    def add_text(self, tag: str, content: str) -> None:
        """Add a text in Markdown."""
        self._write(summary=text(tag, content), step=0)

    def flush(self) -> None:
        """Write everything to the disc."""
        self.writer.flush()

    def close(self) -> None:
        """Flush and close."""
        self.writer.close()

    def _write(self, **content) -> None:
        self.writer.write_event(Event(wall_time=time.time(), **content))
