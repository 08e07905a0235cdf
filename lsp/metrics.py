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
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lsp.errors import UserError

FILE = "metrics.jsonl"
KINDS = ("train", "episode", "eval")
_OWN_KEYS = ("kind", "env_steps", "time", "non_finite")


class MetricsLogger:
    """Appends to a run's metrics; a line is on disk when `write` returns.

    Args:
        logdir: the run's folder; it is made where missing.

    Raises:
        UserError: the folder cannot be written, or its metrics are damaged.
    """

    def __init__(self, logdir: Path) -> None:
        self._path = logdir / FILE
        self._tensorboard = _TensorBoard(logdir / "tensorboard")
        try:
            logdir.mkdir(parents=True, exist_ok=True)
            _cut_torn_line(self._path)
            self._file = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"cannot write {self._path} ({error.strerror}): choose another --logdir"
            ) from error

    def write(self, kind: str, env_steps: int, values: Mapping[str, Any]) -> None:
        """Append one line; scalars also go to TensorBoard.

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
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        for key, value in finite.items():
            if isinstance(value, int | float):
                tag = key if "/" in key else f"{kind}/{key}"
                self._tensorboard.add(tag, float(value), env_steps)

    def truncate(self, env_steps: int) -> None:
        """Forget every line after `env_steps`, where a resumed run goes on from its checkpoint."""
        kept = [line for line in _lines(self._path) if line["env_steps"] <= env_steps]
        self._file.close()
        _replace(self._path, kept)
        self._file = self._path.open("a", encoding="utf-8")
        self._tensorboard.purge(env_steps + 1)

    def close(self) -> None:
        """Flush and close both; the logger takes no more lines."""
        self._file.close()
        self._tensorboard.close()


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
    complete = path.read_bytes().split(b"\n")[:-1]
    return [_parse(path, number, text) for number, text in enumerate(complete, start=1)]


def _parse(path: Path, number: int, text: bytes) -> dict[str, Any]:
    try:
        line = json.loads(text)
        if isinstance(line["env_steps"], int) and line["kind"] in KINDS:
            return line
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{path}, line {number} is damaged: remove that line")


def _cut_torn_line(path: Path) -> None:
    if path.exists():
        size = path.read_bytes().rfind(b"\n") + 1
        os.truncate(path, size)


def _replace(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write anew in one step: a crash leaves the old file or the new one, never half of one."""
    scratch = path.with_name(path.name + ".tmp")
    with scratch.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)


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
    """The event file, opened with the first scalar."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._purge_step: int | None = None
        self._writer: Any = None

    def add(self, tag: str, value: float, step: int) -> None:
        if self._writer is None:
            self._writer = self._open()
        self._writer.add_scalar(tag, value, step)

    def purge(self, step: int) -> None:
        """Have TensorBoard hide what was logged at `step` and later."""
        self.close()
        self._purge_step = step

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self) -> Any:
        # Imported late: tensorboardX imports torch, which readers of metrics do without.
        from tensorboardX import SummaryWriter

        # Event files are named by the second: two of one second would overwrite each other.
        suffix = f".{time.time_ns()}"
        return SummaryWriter(str(self._folder), purge_step=self._purge_step, filename_suffix=suffix)
