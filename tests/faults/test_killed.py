"""Rows 1, 2, 3 and 15: training processes that are killed, stopped, resumed and doubled."""

import random
import shlex
import signal
import time
from contextlib import suppress
from typing import Any

import pytest
from processes import (
    Training,
    assert_same_run,
    command,
    episodes,
    last_step,
    metric_lines,
    steps_saved,
    train,
    train_here,
)

from lsp.cli.main import main
from lsp.runs.checkpoint import load_newest


def unfinished_saves(folder: Any) -> Any:
    """Those that there are, and when they last changed: a killed save leaves one behind."""
    found = set()
    for path in (folder / "checkpoints").glob("tmp-step-*"):
        with suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_ctime_ns))
    return found


def kill_at_random(training: Any, rng: Any, seconds: Any) -> Any:
    """While it trains, wherever that is. Returns whether that was in a save."""
    began, left = last_step(training.folder), unfinished_saves(training.folder)
    training.wait_for(lambda: last_step(training.folder) > began)
    time.sleep(rng.uniform(0, seconds))
    training.kill()
    return bool(unfinished_saves(training.folder) - left)


def kill_in_a_save(training: Any, rng: Any, _: Any) -> Any:
    """Within some milliseconds of the beginning of a save. Returns whether it was not yet over."""
    began, left = last_step(training.folder), unfinished_saves(training.folder)
    training.wait_for(lambda: last_step(training.folder) > began)
    training.wait_for(lambda: unfinished_saves(training.folder) - left, pause=0)
    time.sleep(rng.uniform(0, 0.02))
    training.kill()
    return bool(unfinished_saves(training.folder) - left)


def test_row_01_killed_at_random_moments_half_of_them_in_a_save(
    tmp_path: Any, count: Any, figure: Any
) -> None:
    rng, folder = random.Random(0), tmp_path / "killed"
    in_saves = elsewhere = 0
    wanted, saved = count(1, 25), -1
    known: list[Any] = []
    while in_saves < wanted or elsewhere < wanted or not known:
        training = Training(folder, *command(folder))
        kill = kill_in_a_save if in_saves < wanted else kill_at_random
        if kill(training, rng, count(0.3, 1)):
            in_saves += 1
        else:
            elsewhere += 1
        if not steps_saved(folder):
            continue
        newest = load_newest(folder / "checkpoints")  # a warning of damage would be an error
        assert newest is not None
        assert newest.env_steps >= saved
        now = episodes(folder, newest.facts["episodes"])
        assert now[: len(known)] == known
        saved, known = newest.env_steps, now
    # Nothing is missing, double or different: it ends as a run that nobody killed.
    end = saved + 300
    train_here(folder, end)
    train_here(tmp_path / "whole", end)
    assert_same_run(tmp_path / "whole", folder)
    kills = in_saves + elsewhere
    figure(1, f"{kills} of {kills} kills survived, {in_saves} of them inside a save")
    figure(1, f"{len(known)} episodes, none missing or double; the end as of a run never killed")


ASKED = [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]


@pytest.mark.parametrize("number", ASKED, ids=["SIGTERM", "SIGINT"])
def test_row_02_asked_to_stop(tmp_path: Any, count: Any, figure: Any, number: Any) -> None:
    rng, folder = random.Random(number), tmp_path / "run"
    flags = {"schedule.eval_every": 600, "schedule.eval_episodes": 20}
    arguments, slowest = command(folder, **flags), 0.0
    stops: list[Any] = []
    for _ in range(count(1, 10)):
        training = Training(folder, *arguments)
        before = steps_saved(folder)[0] if stops else 0
        training.wait_for_checkpoint(after=before)
        time.sleep(rng.uniform(0, count(0.3, 2)))
        slowest = max(slowest, training.stop(number))
        assert training.process.returncode == 0, training.text
        said = training.text.splitlines()[-1]
        assert said.startswith("Stopped and saved. To resume: lsp train ")
        arguments = shlex.split(said.partition("To resume: lsp ")[2])
        stops.append(steps_saved(folder)[0])
        assert all(line["env_steps"] <= stops[-1] for line in metric_lines(folder))
    assert slowest < 10
    end = stops[-1] + 300
    train_here(folder, end, **flags)
    train_here(tmp_path / "whole", end, **flags)
    assert_same_run(tmp_path / "whole", folder)
    name = signal.Signals(number).name
    figure(2, f"{len(stops)} of {len(stops)} {name}s obeyed, the slowest in {slowest:.1f} s")
    figure(2, "0 env steps lost; the command that was printed resumed each of them")


CASES: list[dict[str, Any]] = [
    {},
    {"method": "dreamer"},
    {"num_envs": 2},
    {"task": "walker_walk"},
    {"method": "random_skills"},
    {"method": "rand_skills_init"},
    {"method": "no_mi"},
    {"method": "cem"},
    {"method": "hiro"},
]


def test_row_03_stopped_and_resumed_against_unbroken(
    tmp_path: Any, count: Any, figure: Any
) -> None:
    cases = CASES[: count(1, len(CASES))]
    resume = count(train_here, train)  # rows 1 and 2 resume in another process
    for number, changes in enumerate(cases):
        broken, whole = tmp_path / f"broken-{number}", tmp_path / f"whole-{number}"
        train_here(broken, 510, **changes)
        stop = steps_saved(broken)[0]
        resume(broken, 1020, **changes)
        train_here(whole, 1020, **changes)
        assert_same_run(whole, broken, stops=[stop])
    figure(3, f"{len(cases)} of {len(cases)} runs identical bit for bit to unbroken ones")


def test_row_15_a_second_trainer_is_refused(
    tmp_path: Any, capsys: Any, count: Any, figure: Any
) -> None:
    folder, tries = tmp_path / "run", count(1, 5)
    first = Training(folder, *command(folder))
    first.wait_for_checkpoint()
    for _ in range(tries):
        with pytest.raises(SystemExit) as refused:
            main(command(folder))
        assert refused.value.code == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith(f"lsp: {folder} is being trained already (process")
        assert f"process {first.process.pid} on" in last
    assert first.process.poll() is None
    first.kill()
    # The lock ends with its holder, however that ended.
    train_here(folder, steps_saved(folder)[0])
    figure(15, f"{tries} of {tries} second trainers refused; none after the first was killed")
