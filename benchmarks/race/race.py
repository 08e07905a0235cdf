"""Trains our agents and public ones on the same tasks and cores, one after the other.

    python benchmarks/race/race.py --out runs/race --environments runs/race-environments

The same command again resumes: what is finished is not trained again. README.md says who races,
and by which settings.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from environments import Failed, environment
from standings import Result, read_result
from track import Entry

from lsp.config import make_config
from lsp.envs.dmc import split_task
from lsp.errors import UserError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SETTINGS = "race.json"
"""In the folder of a race: what all of its contestants have in common."""


class Peer(NamedTuple):
    """A contestant that is not ours; it needs a clone where no registry has its code."""

    script: str
    pins: str
    needs_clone: bool = False


PEERS = {
    "sheeprl": Peer("sheeprl_agent.py", "sheeprl"),
    "sac": Peer("sb3_agent.py", "sac"),
    "crossq": Peer("sb3_agent.py", "crossq"),
    "tdmpc2": Peer("tdmpc2_agent.py", "tdmpc2", needs_clone=True),
    "tdmpc2-1m": Peer("tdmpc2_agent.py", "tdmpc2", needs_clone=True),
}
FOR_ALL = {
    # glibc keeps freed memory instead of handing it back and faulting it in again.
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": str(2**26),
    "CUDA_VISIBLE_DEVICES": "",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 where a contestant failed, 2 where the arguments make no race, 130 where it
    was stopped."""
    try:
        asked = read_arguments(arguments)
        check(asked)
        cores = chosen_cores(asked.threads)
        settle(asked.out, {"minutes": asked.minutes, "threads": asked.threads})
    except UserError as error:
        print(f"race.py: {error}", file=sys.stderr)
        return 2
    try:
        pythons, failed = interpreters(asked)
        for entry in entries(asked):
            if entry.agent in pythons:
                failed += not report(entry, partial(train, pythons[entry.agent], entry, cores))
    except KeyboardInterrupt:
        print("race.py: stopped; the same command resumes", file=sys.stderr)
        return 130
    return int(failed > 0)


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=["walker_walk", "walker_run"])
    parser.add_argument(
        "--agents",
        nargs="+",
        default=["lsp-modern", "lsp-fast", "dreamer-fast", *PEERS],
        help=f"METHOD-PRESET of ours, {', '.join(PEERS)}",
    )
    parser.add_argument("--minutes", type=float, default=60, help="of training, for each")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=2, help="and cores, for each")
    parser.add_argument("--out", type=Path, default=Path("runs/race"))
    parser.add_argument("--environments", type=Path, default=Path("runs/race-environments"))
    parser.add_argument("--tdmpc2", type=Path, help="a clone of TD-MPC2's repository")
    return parser.parse_args(arguments)


def check(asked: argparse.Namespace) -> None:
    """Raises UserError, before anything is installed, for what cannot be run."""
    for task in asked.tasks:
        split_task(task)
    for agent in asked.agents:
        if agent in PEERS:
            continue
        method, dash, preset = agent.partition("-")
        if not dash:
            raise UserError(
                f"unknown agent {agent!r}: --agents takes {', '.join(PEERS)}, and METHOD-PRESET of "
                "ours, such as lsp-fast"
            )
        make_config(method, preset)
    if min(asked.seeds) < 0:
        raise UserError(f"--seeds must be at least 0, not {min(asked.seeds)}")
    if not asked.minutes > 0:
        raise UserError(f"--minutes must be more than 0, not {asked.minutes:g}")
    if asked.tdmpc2 is not None and not (asked.tdmpc2 / "tdmpc2" / "config.yaml").is_file():
        raise UserError(f"--tdmpc2 {asked.tdmpc2}: this is no clone of TD-MPC2's repository")


def chosen_cores(threads: int) -> list[int]:
    """The first of those that this process may use. Raises UserError where there are too few."""
    pins = hasattr(os, "sched_getaffinity")
    cores = sorted(os.sched_getaffinity(0)) if pins else list(range(os.cpu_count() or 1))
    if not 1 <= threads <= len(cores):
        raise UserError(f"--threads must be 1 to {len(cores)}, the cores here, not {threads}")
    return cores[:threads]


def settle(out: Path, settings: dict[str, float]) -> None:
    """Raises UserError where a race of other settings is in the folder already."""
    path = out / SETTINGS
    try:
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            if before != settings:
                raise UserError(
                    f"{out} holds a race with {told(before)}, not {told(settings)}: choose another "
                    "--out"
                )
            return
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings) + "\n", encoding="utf-8")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} cannot be used ({error}): choose another --out") from error


def told(settings: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:g}" for key, value in settings.items())


def entries(asked: argparse.Namespace) -> list[Entry]:
    """In the order of the race."""
    return [
        Entry(
            agent=agent,
            task=task,
            seed=seed,
            minutes=asked.minutes,
            threads=asked.threads,
            out=(asked.out / task / f"{agent}-{seed}.csv").resolve(),
            folder=(asked.out / task / f"{agent}-{seed}").resolve(),
            clone=asked.tdmpc2.resolve() if asked.tdmpc2 and agent.startswith("tdmpc2") else None,
        )
        for task in asked.tasks
        for seed in asked.seeds
        for agent in asked.agents
    ]


def interpreters(asked: argparse.Namespace) -> tuple[dict[str, Path], int]:
    """The Python of each agent that can race, in environments that are made where they are
    missing; and how many agents failed to install."""
    pythons, failed = {}, 0
    for agent in asked.agents:
        peer = PEERS.get(agent)
        if peer is None:
            pythons[agent] = Path(sys.executable)
        elif peer.needs_clone and asked.tdmpc2 is None:
            print(f"{agent}: left out, --tdmpc2 names no clone of its repository", file=sys.stderr)
        else:
            try:
                pythons[agent] = environment(asked.environments.resolve(), peer.pins)
            except Failed as error:
                print(f"{agent}: {error}", file=sys.stderr)
                failed += 1
    return pythons, failed


def report(entry: Entry, train: Callable[[], Result]) -> bool:
    """Says in one line how a contestant fared; whether it finished."""
    name = f"{entry.task}, {entry.agent}, seed {entry.seed}"
    try:
        there = entry.out.exists()
        result = read_result(entry.out) if there else train()
    except (Failed, UserError) as error:
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        return False
    end = f"{result.minutes[-1]:.1f} minutes, {result.env_steps[-1]:,.0f} env steps"
    found = "there already, " if there else ""
    print(f"{name}: {found}{end}, return {result.returns[-1]:.0f}", flush=True)
    return True


def train(python: Path, entry: Entry, cores: Sequence[int]) -> Result:
    """Raises Failed. What it printed stays beside its folder."""
    shutil.rmtree(entry.folder, ignore_errors=True)
    entry.folder.mkdir(parents=True)
    script = PEERS[entry.agent].script if entry.agent in PEERS else "lsp_agent.py"
    log = entry.out.with_suffix(".log")
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(entry.threads)}
    with log.open("w", encoding="utf-8") as output:
        done = subprocess.run(
            [str(python), str(HERE / script), *entry.arguments()],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=entry.folder,
            env=os.environ | FOR_ALL | own,
            preexec_fn=partial(stay_on, cores),
        )
    if done.returncode != 0 or not entry.out.exists():
        printed = log.read_text(encoding="utf-8", errors="replace").split("\n")
        why = [line for line in printed if line.strip()] or [f"exit code {done.returncode}"]
        raise Failed(f"failed ({why[-1].strip()}): {log} has more")
    return read_result(entry.out)


def stay_on(cores: Sequence[int]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


if __name__ == "__main__":
    sys.exit(main())
