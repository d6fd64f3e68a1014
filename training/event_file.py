"""TensorBoard's event file of a run."""

import time
from pathlib import Path

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import image, scalar, text


class EventFile:
    """Scalars, pictures and text; all that was added is on the disc after ``flush``.

    tensorboardX's SummaryWriter has a queue that its flush does not wait for, so that a run that
    is killed after a checkpoint would lack points from before it.

    Args:
        folder: of the run.
        start: iterations already done; what earlier files hold of later ones is not shown.
    """

    def __init__(self, folder: Path, start: int = 0) -> None:
        # Else a run resumed within a second would write to the file of the one before.
        self.writer = EventsWriter(str(folder / "events"), f".{start}")
        if start:
            session = SessionLog(status=SessionLog.START)
            self._write(session_log=session, step=start + 1)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """A point of a curve."""
        self._write(summary=scalar(tag, value), step=step)

    def add_picture(self, tag: str, picture: np.ndarray, step: int) -> None:
        """A picture (H, W, 3) uint8, RGB."""
        self._write(summary=image(tag, picture, dataformats="HWC"), step=step)

    def add_text(self, tag: str, content: str) -> None:
        """A text in Markdown."""
        self._write(summary=text(tag, content), step=0)

    def flush(self) -> None:
        """Bring all to the disc."""
        self.writer.flush()

    def close(self) -> None:
        """Flush and close."""
        self.writer.close()

    def _write(self, **content) -> None:
        self.writer.write_event(Event(wall_time=time.time(), **content))
