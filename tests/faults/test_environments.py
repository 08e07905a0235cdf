"""Rows 9, 11 and 12: environments that give nonsense, fail, hang, or cannot be learned from."""

import os
import signal
import time
from typing import Any

import numpy as np
import pytest
from processes import Training, command, last_step, measured, train_here, worker_processes

from lsp.cli.main import main
from lsp.runs.checkpoint import load_newest
from lsp.runs.files import read_arrays

TROUBLED = "tests.faults.troubled_tasks"


def refused(arguments: Any, capsys: Any) -> Any:
    """All that a failing command says, the last line of which is the error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert all(line.startswith("lsp: ") for line in said)
    return said


NONSENSE = {
    "NanReward": "the reward is nan",
    "InfObservation": "observation 'goal' is not finite",
    "NanObservation": "observation 'goal' is not finite",
    "InfReward": "the reward is -inf",
}


def test_row_09_nan_or_inf_is_named_and_not_stored(
    tmp_path: Any, capsys: Any, count: Any, figure: Any
) -> None:
    cases = [(name, envs) for envs in (1, 2) for name in NONSENSE][: count(2, 8)]
    for name, envs in cases:
        run = tmp_path / f"{name}-{envs}"
        task = f"{TROUBLED}:{name}"
        said = refused(command(run, 2000, task=task, num_envs=envs, action_repeat=1), capsys)
        assert said[-1].startswith(f"lsp: {task}: {NONSENSE[name]}")
        assert "at step 7 of an episode" in said[-1]
        stored = sorted((run / "episodes").glob("*.npz"))
        for path in stored:
            assert all(np.isfinite(x).all() for x in read_arrays(path).values())
        assert stored
    figure(9, f"{len(cases)} of {len(cases)} named with task, step and key, and not stored")


def test_row_11_a_killed_or_hanging_worker_is_replaced(
    tmp_path: Any, count: Any, figure: Any
) -> None:
    kills, hangs = count(1, 10), count(1, 5)
    troubles = [(signal.SIGKILL, "worker process died")] * kills
    troubles += [(signal.SIGSTOP, "did not answer for 3 seconds")] * hangs
    training = Training(tmp_path / "run", *command(tmp_path / "run", num_envs=2, patience=3))
    for number, (trouble, said) in enumerate(troubles):
        training.wait_for_steps(last_step(training.folder) + 300)
        workers = training.wait_for(lambda: worker_processes(training.process.pid))
        time.sleep(0.1)  # into an episode: a line comes as one ends, and a reset may take minutes
        before, already = last_step(training.folder), training.text.count(said)
        os.kill(workers[number % len(workers)], trouble)
        training.wait_for(lambda s=said, n=already: training.text.count(s) > n)
        training.wait_for_steps(before + 100)
    training.stop()
    assert training.process.returncode == 0, training.text
    assert training.text.count("worker process died") == kills
    assert "its episode is kept as truncated" in training.text
    figure(11, f"{kills} of {kills} killed workers replaced, training went on")
    figure(11, f"{hangs} of {hangs} hanging workers replaced, training went on")


def test_row_11_one_that_raises_again_and_again_is_an_error_in_the_end(
    tmp_path: Any, capsys: Any, count: Any, figure: Any
) -> None:
    for envs in (1, 2)[: count(1, 2)]:
        run, task = tmp_path / f"run-{envs}", f"{TROUBLED}:Raises"
        said = refused(command(run, 2000, task=task, num_envs=envs), capsys)
        tried = [line for line in said if "ZeroDivisionError: no way" in line]
        # It takes four times of one environment; others may fail up to three times meanwhile.
        assert 4 <= len(tried) <= 4 + 3 * (envs - 1)
        assert f"lsp: {task}: environment" in said[-1]
        assert "4 times without finishing an episode" in said[-1]
        # What was seen of each episode is kept as truncated; few end before they fail.
        stored = [read_arrays(path) for path in sorted((run / "episodes").glob("*.npz"))]
        assert sum(not episode["is_terminal"].any() for episode in stored) == len(tried)
    figure(11, "one that raises again and again: 3 restarts, then an error of one line")


@pytest.mark.parametrize("name", ["Unrepeatable", "Undeclared"])
def test_row_02_an_episode_that_cannot_be_repeated_is_kept_as_truncated(
    tmp_path: Any, capsys: Any, name: Any
) -> None:
    # Stopped in the middle of an episode, most of which are 100 env steps; learning began at 200.
    run, changes = tmp_path / "run", {"task": f"{TROUBLED}:{name}", "schedule__save_every": 130}
    train_here(run, 290, **changes)
    saved = load_newest(run / "checkpoints")
    assert saved is not None
    found_out = name == "Undeclared" and len(saved.episode) > 0  # it was under way
    capsys.readouterr()
    train_here(run, 550, **changes)
    assert ("gave another" in capsys.readouterr().err) == found_out
    episodes = [read_arrays(path) for path in sorted((run / "episodes").glob("*"))]
    last = load_newest(run / "checkpoints")
    assert last is not None
    episodes += [last.episode] if last.episode and not found_out else []
    stored = sum(int(episode["env_steps"].sum()) for episode in episodes)
    assert stored == last.env_steps  # every step that was taken
    assert measured(run)


WRONG = {
    "WrongShape": ("float64 of shape (3,)", "float64 of shape (2,)"),
    "WrongDtype": ("<U5 of shape (2,)", "float64 of shape (2,)"),
    "WrongImage": ("float32 of shape (32, 32, 3)", "uint8 of shape (32, 32, 3)"),
    "MissingKey": ("an observation lacks 'goal'",),
    "Unbounded": ("finite bounds", "observation space Dict", "action space Box(-inf, inf, (2,)"),
    "DiscreteActions": ("must be a Box", "observation space Dict", "action space Discrete(4)"),
    "DiscreteObservations": ("must be a Box or a Dict of Boxes", "Discrete(3)", "action space Box"),
}


@pytest.mark.parametrize("name", WRONG)
def test_row_12_what_cannot_be_learned_from_is_refused_at_once(
    tmp_path: Any, capsys: Any, name: Any, figure: Any
) -> None:
    said = refused(command(tmp_path / "run", task=f"{TROUBLED}:{name}"), capsys)
    assert len(said) == 1
    assert said[0].startswith(f"lsp: {TROUBLED}:{name}: ")
    assert all(part in said[0] for part in WRONG[name]), said[0]
    assert not (tmp_path / "run").exists()
    figure(12, f"{len(WRONG)} of {len(WRONG)} refused before there was a folder")
