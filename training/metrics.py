"""What a run writes of itself: metrics.jsonl, TensorBoard events, and whole small files.

    writer = Writer(workdir, step=state_step)
    writer.write_scalars(100, {'loss': .04})
    writer.close()

The methods carry the names of clu's metric writers, whose own need TensorFlow. Paths may be
buckets (gs://, ...): there a file cannot be appended to, so it is written whole at each flush.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from training import hosts


@contextlib.contextmanager
def one_line(path: epath.PathLike) -> Iterator[None]:
    """Turns a failed write (full disk, read-only place) into an OSError of one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise OSError(
            error.errno,
            f"cannot write {os.fspath(path)}: {reason}; make room or choose another place",
        ) from error


def in_bucket(path: epath.PathLike) -> bool:
    """Whether the path lies in an object store, where files are whole or absent."""
    return "://" in os.fspath(path)


def write_atomic(path: epath.PathLike, data: bytes) -> None:
    """Writes the whole file or leaves the old one, whatever kills the process in between.

    Of several processes (training/hosts.py) the first writes, and the others do nothing.
    """
    if not hosts.writes():
        return
    path = epath.Path(path)
    with one_line(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if in_bucket(path):
            path.write_bytes(data)
            return
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            part.write_bytes(data)
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, atomically; see `plain` for arrays and NaN."""
    write_atomic(path, (json.dumps(plain(value), indent=2) + "\n").encode())


def plain(value: Any) -> Any:
    """`value` as JSON has it: arrays and their scalars as lists and numbers, NaN and inf as null.

    null, since NaN is no JSON and a string would turn a column of numbers into text. Which of the
    three it was stands in the TensorBoard events.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Writer:
    """Writes metrics under `workdir`, from the one process that is to write.

    `step` is the step that the run starts from. What an earlier run wrote past it is dropped from
    metrics.jsonl and hidden in TensorBoard, so that every step stands once. A local metrics.jsonl
    has each line as soon as it is written; in a bucket, and in the events, after `flush`.
    Raises OSError in one line where the disk is full or read-only.
    """

    def __init__(self, workdir: epath.PathLike, step: int = 0):
        self._workdir = workdir = epath.Path(workdir)
        with one_line(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
            self._events = _events(workdir, step)
        self._path = workdir / "metrics.jsonl"
        self._lines = _drop_after(self._path, step)
        with one_line(self._path):
            self._file = None if in_bucket(workdir) else open(self._path, "a", encoding="utf-8")

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """One line {"step": step, name: value, ...}; a name is written once for a step."""
        from tensorboardX import summary

        for name, value in scalars.items():
            if np.ndim(value):
                raise ValueError(f"metric {name} must be a scalar, got shape {np.shape(value)}")
        line = json.dumps(plain({"step": step, **scalars})) + "\n"
        with one_line(self._path):
            if self._file:
                self._file.write(line)
                self._file.flush()
            else:
                self._lines.append(line)
        self._add(step, [summary.scalar(name, value) for name, value in scalars.items()])

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """uint8 [h w c], or [n h w c] as n pictures name/0, name/1, ...; c is 1 or 3."""
        from tensorboardX import summary

        for name, image in images.items():
            if image.dtype != np.uint8:
                raise ValueError(f"image {name} must be uint8, got {image.dtype}: use to_uint8")
        named = [part for name, image in images.items() for part in _separate(name, image)]
        self._add(step, [summary.image(name, image, dataformats="HWC") for name, image in named])

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Markdown, shown by TensorBoard."""
        from tensorboardX import summary

        self._add(step, [summary.text(name, text) for name, text in texts.items()])

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """A flat mapping as a table of text: the hparams plug-in would want a run of its own."""
        rows = [f"| {name} | {value} |" for name, value in hparams.items()]
        self.write_texts(0, {"hparams": "\n".join(["| name | value |", "|---|---|", *rows])})

    def flush(self) -> None:
        """Puts everything where a killed process cannot lose it; call before a checkpoint."""
        with one_line(self._path):
            self._events.flush()
            if not self._file:
                self._path.write_text("".join(self._lines))

    def close(self) -> None:
        """Flushes and closes; nothing can be written afterwards."""
        self.flush()
        with one_line(self._path):
            self._events.close()
            if self._file:
                self._file.close()

    def _add(self, step: int, summaries: list) -> None:
        from tensorboardX.proto.event_pb2 import Event

        with one_line(self._workdir):
            for part in summaries:
                self._events.write_event(Event(step=step, wall_time=time.time(), summary=part))


class Silent:
    """The writer of a process that is not to write: takes a Writer's calls and does nothing."""

    def __getattr__(self, name: str):
        return lambda *args, **kwargs: None


def _events(workdir: epath.Path, step: int):
    """An events file of its own for this start, hiding the earlier ones' steps past `step`.

    Not tensorboardX's SummaryWriter: its thread dies on a full disk, and the next few writes then
    wait for it for ever. The nanoseconds keep two starts within one second apart.
    """
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    events = EventsWriter(os.path.join(workdir, "events"), f".{time.time_ns()}")
    start = SessionLog(status=SessionLog.START)
    events.write_event(Event(step=step + 1, wall_time=time.time(), session_log=start))
    return events


def _drop_after(path: epath.Path, step: int) -> list[str]:
    """Drops the lines past `step`, and a line cut off by a kill; returns those that stay."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if _step(line) <= step]
    if kept != lines:
        write_atomic(path, "".join(kept).encode())
    return kept


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"] if line.endswith("\n") else math.inf
    except ValueError:
        return math.inf


def _separate(name: str, image: np.ndarray) -> list[tuple[str, np.ndarray]]:
    if image.ndim == 3:
        return [(name, image)]
    return [(f"{name}/{i}", part) for i, part in enumerate(image)]
