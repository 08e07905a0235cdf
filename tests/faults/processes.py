"""Real `lsp train` processes, and what they leave behind."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import forked
import numpy as np
import torch
from forked import Forked
from unchecked import unchecked

from lsp.cli.main import main
from lsp.runs.checkpoint import load_newest
from lsp.runs.folder import RunFolder
from lsp.training.replay import Replay

ROOT = Path(__file__).parents[2]
REACH = "tests.own_tasks:Reach"
FOREVER = 10**9
# Episodes of at most 50 agent steps; everything happens every few of them.
SETTINGS = {
    "--preset": "debug",
    "--task": REACH,
    "--threads": "1",
    "--schedule.save-every": "200",
    "--schedule.log-every": "100",
    "--schedule.eval-every": "0",
    "--schedule.prior-episodes": "0",
}
OWN = {"seconds", "run", "eval_return"}
CLOCK = {"time", "steps_per_second", "wall_hours", "eval/seconds", "save_seconds"}
FULL = os.environ.get("LSP_FAULTS") == "full"
PATIENCE = 400  # seconds; machines may be busy with other things


def command(folder: Any, steps: Any = FOREVER, **changes: Any) -> Any:
    """Its arguments; `changes` are flags without their dashes, such as `num_envs=2`."""
    flags = {f"--{key.replace('__', '.').replace('_', '-')}": x for key, x in changes.items()}
    pairs = (SETTINGS | {"--steps": steps, "--logdir": folder} | flags).items()
    return ["train", *(str(part) for pair in pairs for part in pair)]


def environment() -> Any:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def start(arguments: Sequence[str], said: Path) -> "Forked | subprocess.Popen[bytes]":
    """`lsp` with its arguments: in `make faults` as people start it."""
    if not FULL:
        return Forked(forked.command, [*arguments], said, ROOT, environment())
    with said.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "lsp", *arguments],
            cwd=ROOT,
            env=environment(),
            stdout=out,
            stderr=subprocess.STDOUT,
        )


class Training:
    """`lsp train` in a process of its own; what it says goes to a file beside its folder, or in
    the folder `said`. With `limited` another process writes that file, free of the limits that
    are put on this one."""

    def __init__(
        self, folder: Any, *arguments: Any, said: Any = None, limited: Any = False
    ) -> None:
        self.folder = Path(folder)
        self.checkpoints = self.folder / "checkpoints"
        self.said = (said or self.folder.parent) / f"{self.folder.name}-{time.time_ns()}.txt"
        self.said.touch()
        writer, out = None, self.said
        if limited:
            out = self.said.with_suffix(".pipe")
            os.mkfifo(out)
            with self.said.open("wb") as file:
                writer = subprocess.Popen(["cat", out], stdout=file)
        self.process = start(arguments, out)
        self.writer = writer

    @property
    def text(self) -> Any:
        return self.said.read_text()

    def wait_for(self, happened: Any, pause: Any = 0.01) -> Any:
        """Until `happened()` is true, which is returned; an error if the process ends before."""
        late = time.monotonic() + PATIENCE
        while not (found := happened()):
            assert self.process.poll() is None, f"it ended early: {self.text}"
            assert time.monotonic() < late, f"{happened} never happened: {self.text}"
            time.sleep(pause)
        return found

    def wait_for_text(self, pattern: Any) -> Any:
        return self.wait_for(lambda: re.search(pattern, self.text))

    def wait_for_checkpoint(self, after: Any = 0) -> Any:
        """The env steps of one that is beyond `after`."""
        return self.wait_for(lambda: next((n for n in steps_saved(self.folder) if n > after), None))

    def wait_for_steps(self, count: Any) -> Any:
        return self.wait_for(lambda: last_step(self.folder) >= count)

    def kill(self) -> None:
        self.process.kill()
        self.finish()

    def stop(self, number: Any = signal.SIGTERM) -> Any:
        """Ask it to save and stop; the seconds that it took."""
        began = time.monotonic()
        self.process.send_signal(number)
        self.finish()
        return time.monotonic() - began

    def finish(self) -> Any:
        """Its exit code; all that it said has been written."""
        code = self.process.wait(PATIENCE)
        if self.writer:
            self.writer.wait(PATIENCE)
        return code


def train(folder: Any, steps: Any, **changes: Any) -> Any:
    """A whole training; what it said."""
    training = Training(folder, *command(folder, steps, **changes))
    code = training.finish()
    assert code == 0, training.text
    return training.text


def train_here(folder: Path, steps: int, **changes: Any) -> None:
    """The same in this process, which has imported everything already."""
    with unchecked():
        main(command(folder, steps, **changes))


def steps_saved(folder: Any) -> Any:
    """Env steps of the checkpoints, newest first."""
    found = sorted((folder / "checkpoints").glob("step-*"), reverse=True)
    return [int(path.name[5:]) for path in found]


def metric_lines(folder: Any) -> Any:
    """The complete lines, each of which must be whole."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def last_step(folder: Any) -> Any:
    lines = metric_lines(folder)
    return lines[-1]["env_steps"] if lines else 0


def measured(folder: Any, without_evaluations_at: Any = ()) -> Any:
    """All metrics but those that depend on the clock."""
    return [
        {key: value for key, value in line.items() if key not in CLOCK}
        for line in metric_lines(folder)
        if line["kind"] != "eval" or line["env_steps"] not in without_evaluations_at
    ]


def episodes(folder: Any, count: Any) -> Any:
    """A checksum of what each of the first episodes holds; all of them must be readable."""
    run = RunFolder(folder)
    found = [checksum(each) for each in Replay.stream(run.episodes, count, run.id)]
    assert len(found) == count
    return found


def checksum(episode: Any) -> Any:
    total = hashlib.sha256()
    for key, array in sorted(episode.items()):
        total.update(key.encode() + str(array.dtype).encode() + array.tobytes())
    return total.hexdigest()


def assert_same_run(one: Any, other: Any, stops: Any = ()) -> None:
    """The same weights, optimisers, generators, episodes and metrics, bit for bit."""
    a, b = (load_newest(folder / "checkpoints") for folder in (one, other))
    assert a is not None
    assert b is not None
    assert a.env_steps == b.env_steps
    for group, tensors in a.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, b.tensors[group][name]), f"{group} {name}"
    for name, array in a.episode.items():
        np.testing.assert_array_equal(array, b.episode[name])
    # Each run has an id of its own.
    facts, others = ({k: x for k, x in c.facts.items() if k not in OWN} for c in (a, b))
    assert facts == others
    count = a.facts["episodes"]
    assert episodes(one, count) == episodes(other, count)
    assert measured(one, stops) == measured(other, stops)


def children(pid: Any) -> Any:
    """The processes that a process has started, and that are not gone."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(path.parent.name))
    return sorted(found)


def worker_processes(pid: Any) -> Any:
    """Those children that serve environments."""
    return [
        child
        for child in children(pid)
        if b"spawn_main" in (Path("/proc") / str(child) / "cmdline").read_bytes()
    ]
