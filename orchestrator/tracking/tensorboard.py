"""TensorBoard: event files in the run's folder `tensorboard`, the job's in it and each round's in a folder below it.

    tensorboard --logdir runs/irpo/tensorboard

A file is begun by each driver. What is told anew replaces what was there: they are made from ledger and journal.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from orchestrator.files.durable import make_folder, sync
from orchestrator.files.inside import open_to_write, remove, require_below, walk
from orchestrator.text import shown
from orchestrator.tracking.projection import Figure
from orchestrator.tracking.sink import RunStatus
from orchestrator.tracking.stores import Place

FOLDER = "tensorboard"
_OURS = ".ratchet"
"""The end of the names of our event files."""


def open_place(place: Place) -> EventFiles:
    """Those of a run.

    Raises:
        Damaged: a link leads out of the run.
        OSError: they cannot be written.
    """
    return EventFiles(place)


class EventFiles:
    """A `Store` of event files, one a round."""

    def __init__(self, place: Place) -> None:
        self._root, self._files = place.run_dir, dict[int, tuple[IO[bytes], Any]]()
        self._folder = place.run_dir / FOLDER
        if place.fresh:
            self._clear()
            self._write(0, _text("job", place.parameters))

    def add(self, number: int, figures: Sequence[Figure]) -> None:
        """See `Store`."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        for figure in figures:
            value = Summary.Value(tag=figure.key, simple_value=figure.value)
            at = figure.milliseconds / 1000
            self._write(number, Event(wall_time=at, step=figure.step, summary=Summary(value=[value])))

    def settle(self) -> None:
        """See `Store`."""
        for file, _ in self._files.values():
            file.flush()
            os.fsync(file.fileno())

    def close(self, status: RunStatus | None) -> None:
        """See `Store`."""
        for file, _ in self._files.values():
            file.close()
        self._files.clear()

    def _write(self, number: int, event: Any) -> None:
        self._records(number).write(event.SerializeToString())

    def _records(self, number: int) -> Any:
        if number not in self._files:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.summary.writer.record_writer import RecordWriter

            folder = self._folder / f"round-{number:02d}" if number else self._folder
            require_below(self._root, folder / "x")
            make_folder(folder, self._root)
            # TensorBoard reads a folder's files in the order of their names.
            name = f"events.out.tfevents.{time.time_ns() // 1000}.{socket.gethostname()}.{os.getpid()}{_OURS}"
            file = os.fdopen(open_to_write(folder / name), "ab")
            self._files[number] = file, RecordWriter(file)
            self._write(number, Event(wall_time=time.time(), file_version="brain.Event:2"))
        return self._files[number][1]

    def _clear(self) -> None:
        require_below(self._root, self._folder)
        for folder, _, names in walk(self._folder) if not self._folder.is_symlink() else ():
            for name in names:
                if name.startswith("events.out.tfevents.") and name.endswith(_OURS):
                    remove(self._root, Path(folder, name))
        with contextlib.suppress(FileNotFoundError):
            sync(self._folder)


def _text(tag: str, said: dict[str, str] | Any) -> Any:
    """Parameters as a text that TensorBoard shows: a block of code, since its texts are Markdown."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    lines = "\n".join(f"    {shown.line(f'{key}: {value}')}" for key, value in said.items())
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    tensor = TensorProto(dtype=DT_STRING, string_val=[lines.encode()])
    value = Summary.Value(tag=tag, metadata=metadata, tensor=tensor)
    return Event(wall_time=time.time(), step=0, summary=Summary(value=[value]))
