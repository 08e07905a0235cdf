"""What a run measured: `metrics.jsonl` is the truth, TensorBoard shows the same scalars.

One JSON object a line, in the order of writing:

    {"kind": "eval", "env_steps": 10000, "time": 1700000000.0, "eval/return": 412.5, ...}

`kind` is "train", "episode" or "eval"; `time` is in Unix seconds. JSON has no NaN or infinity: such
a value is written as null and its key listed under `non_finite`.
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from lsp.errors import UserError, warn
from lsp.runs.files import check_own_file, read_bytes, write_bytes
from lsp.runs.tracking import Tracker

FILE = "metrics.jsonl"
KINDS = ("train", "episode", "eval")
_OWN_KEYS = ("kind", "env_steps", "time", "non_finite")


class MetricsLogger:
    """Appends to a run's metrics; a line is on disk when `write` returns, unless the disk is full:
    then it waits for the next one.

    Args:
        logdir: the run's folder; it is made where missing.
        tracker: where scalars also go.

    Raises:
        UserError: the folder cannot be written, or its metrics are damaged.
    """

    def __init__(self, logdir: Path, tracker: Tracker | None = None) -> None:
        self._path = logdir / FILE
        self._tracker = tracker
        self._waiting = b""  # what there was no room for; a line that is half written goes on here
        self._said_full = False
        self._tensorboard = _TensorBoard(logdir / "tensorboard")
        try:
            logdir.mkdir(parents=True, exist_ok=True)
            _cut_torn_line(self._path)
            self._file = self._open()
        except OSError as error:
            raise UserError(
                f"cannot write {self._path} ({error.strerror}): choose another --logdir"
            ) from error

    def write(self, kind: str, env_steps: int, values: Mapping[str, Any]) -> None:
        """Append one line; scalars also go to TensorBoard, and to what tracks the run.

        Args:
            kind: "train", "episode" or "eval".
            env_steps: env steps collected so far, action repeats included.
            values: numbers, lists of numbers or None under names like "model/kl"; numpy and
                torch values are taken too.
        """
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, not {kind!r}")
        if clash := set(values) & set(_OWN_KEYS):
            raise ValueError(f"{sorted(clash)} are the logger's own keys")
        plain = {key: _plain(value) for key, value in values.items()}
        finite = {key: _null_non_finite(value) for key, value in plain.items()}
        line = {"kind": kind, "env_steps": env_steps, "time": time.time(), **finite}
        if lost := [key for key in plain if _has_non_finite(plain[key])]:
            line["non_finite"] = lost
        self._waiting += json.dumps(line, allow_nan=False).encode() + b"\n"
        self._store()
        scalars = {key: float(x) for key, x in finite.items() if isinstance(x, int | float)}
        tags = {key if "/" in key else f"{kind}/{key}": x for key, x in scalars.items()}
        self._tensorboard.add(tags, env_steps)
        if self._tracker is not None:
            self._tracker.add(tags, env_steps)

    def _store(self) -> None:
        """Write what waits, as far as there is room."""
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
            self._said_full = False
        except OSError as error:
            if not self._said_full:
                warn(f"{self._path} cannot be written ({error.strerror}): its lines wait in memory")
            self._said_full = True

    def _open(self) -> FileIO:
        return FileIO(self._path, "a")  # unbuffered: it says how much was written

    def truncate(self, env_steps: int) -> None:
        """Forget every line after `env_steps`, where a run resumes from its checkpoint;
        damaged lines too, with a warning. Raises OSError."""
        kept = [line for line in _readable(self._path) if line["env_steps"] <= env_steps]
        self._file.close()
        _replace(self._path, kept)
        self._file = self._open()
        self._tensorboard.purge(env_steps + 1)

    def close(self) -> None:
        """Close all; the logger takes no more lines."""
        self._store()
        self._file.close()
        self._tensorboard.close()
        if self._tracker is not None:
            self._tracker.close()


def read_metrics(logdir: Path) -> list[dict[str, Any]]:
    """Every line of a run's metrics, oldest first; a last line cut short by a crash is left out.

    Raises:
        UserError: there are no metrics in `logdir`, or a line before the last is damaged.
    """
    path = logdir / FILE
    if not path.is_file():
        raise UserError(f"{logdir} has no {FILE}: name the folder of a run (its --logdir)")
    return _lines(path)


def _lines(path: Path) -> list[dict[str, Any]]:
    """The file's complete lines: without its newline, a line was never finished."""
    return [_parse(path, number, text) for number, text in _complete(path)]


def _readable(path: Path) -> list[dict[str, Any]]:
    """`_lines` but the damaged ones, which are named in a warning."""
    lines = []
    for number, text in _complete(path):
        try:
            lines.append(_parse(path, number, text))
        except UserError:
            warn(f"{path}, line {number} is damaged: it is left out")
    return lines


def _complete(path: Path) -> Iterator[tuple[int, bytes]]:
    return enumerate(read_bytes(path).split(b"\n")[:-1], start=1)


def _parse(path: Path, number: int, text: bytes) -> dict[str, Any]:
    try:
        line: dict[str, Any] = json.loads(text)
        measured = (x for key, x in line.items() if key not in ("kind", "non_finite"))
        steps = line["env_steps"]
        counted = type(steps) is int and 0 <= steps < 2**53
        if counted and line["kind"] in KINDS and all(map(_is_measured, measured)):
            return line
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise UserError(f"{path}, line {number} is damaged: remove that line")


def _is_measured(value: Any) -> bool:
    """Whether `MetricsLogger.write` writes such values: numbers, and lists of them."""
    if isinstance(value, list):
        return all(map(_is_measured, value))
    if isinstance(value, int):
        return abs(value) < 2**53
    return value is None or (isinstance(value, float) and math.isfinite(value))


def _cut_torn_line(path: Path) -> None:
    check_own_file(path)
    if path.exists():
        size = read_bytes(path).rfind(b"\n") + 1
        os.truncate(path, size)


def _replace(path: Path, lines: list[dict[str, Any]]) -> None:
    write_bytes(path, "".join(json.dumps(line) + "\n" for line in lines).encode())


def _plain(value: Any) -> Any:
    """Python's own numbers and lists for those of numpy and torch."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _null_non_finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_null_non_finite(item) for item in value]
    return None if _has_non_finite(value) else value


def _has_non_finite(value: Any) -> bool:
    if isinstance(value, list):
        return any(_has_non_finite(item) for item in value)
    return isinstance(value, float) and not math.isfinite(value)


class _TensorBoard:
    """The event file, opened with the first scalars. What it has no room for is lost: the truth is
    elsewhere."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._purge_step: int | None = None
        self._path: Path | None = None
        self._writer: Any = None

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        try:
            if self._writer is None:
                self._open()
            self._write(step=step, summary=Summary(value=values))
            self._writer.flush()
        except OSError:
            # Half a record would hide all that follow: those begin another file.
            self.close()
            self._remove_empty_file()

    def purge(self, step: int) -> None:
        """Have TensorBoard hide what was logged at `step` and later."""
        self.close()
        self._purge_step = step

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(OSError):
                writer.close()

    def _open(self) -> None:
        # Not its SummaryWriter, whose thread dies of a full disk and lets this one wait for ever.
        # Imported late: tensorboardX imports torch, which readers of metrics do without.
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.record_writer import RecordWriter

        self._folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names.
        now = time.time_ns()
        name = f"events.out.tfevents.{now // 10**9}.{socket.gethostname()}.{now}"
        self._path = self._folder / name
        self._writer = RecordWriter(str(self._path))
        self._write(file_version="brain.Event:2")
        if self._purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._write(step=self._purge_step, session_log=start)

    def _write(self, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write(Event(wall_time=time.time(), **content).SerializeToString())

    def _remove_empty_file(self) -> None:
        with suppress(OSError):
            if self._path is not None and self._path.stat().st_size == 0:
                self._path.unlink()
