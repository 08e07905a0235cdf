"""The race against public agents, without any of them: its clock, its command, its standings."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import short_episodes

sys.path.append(str(Path(__file__).parents[1] / "benchmarks" / "race"))

import environments
import lsp_agent
import race
import standings
import track
from track import Entry, Finished, Track

from lsp.config import make_config

HEADER = "env_steps,minutes,eval_return,episodes\n"


def an_entry(folder: Path, **changes: Any) -> Entry:
    given: dict[str, Any] = {"agent": "sac", "task": "walker_walk", "seed": 3, "minutes": 60.0}
    given |= {"threads": 1, "out": folder / "sac-3.csv", "folder": folder / "sac-3"}
    return Entry(**(given | changes))


class Clock:
    """In seconds."""

    def __init__(self, monkeypatch: Any) -> None:
        self.now = 0.0
        monkeypatch.setattr("track.time.monotonic", lambda: self.now)


def rows(path: Path) -> list[list[float]]:
    lines = path.read_text().splitlines()
    assert lines[0] + "\n" == HEADER
    return [[float(x) for x in line.split(",")] for line in lines[1:]]


@pytest.fixture
def short() -> Any:
    with short_episodes():
        yield


def still(observation: Any, first: bool) -> np.ndarray:
    return np.zeros(6)


@pytest.mark.usefixtures("short")
def test_marks_are_evaluated_and_the_clock_stands_still_meanwhile(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(track, "STEPS", (40,))
    clock, firsts = Clock(monkeypatch), []
    racing = Track(an_entry(tmp_path))
    one, other = racing.make_env(), racing.make_env()

    def act(observation: Any, first: bool) -> np.ndarray:
        clock.now += 600
        firsts.append(first)
        return np.zeros(6)

    def train() -> None:
        for env in (one, other):
            env.reset(seed=0)
        for step in range(70):
            clock.now += 60
            try:
                over = (one, other)[step % 2].step(np.zeros(6))[3]
            except Exception:  # as loops that mend environments do
                over = True
            if over:
                (one, other)[step % 2].reset()

    racing.act = act
    racing.run(train)
    found = rows(tmp_path / "sac-3.csv")
    # Two env steps and a minute for each step, of whichever environment.
    assert [row[:2] for row in found] == [[20, 10], [40, 20], [60, 30], [90, 45], [120, 60]]
    assert {row[3] for row in found} == {track.EPISODES}
    # Five evaluations of ten episodes, of fifty agent steps each.
    assert len(firsts) == 5 * 10 * 50
    assert np.flatnonzero(firsts[:120]).tolist() == [0, 50, 100]


@pytest.mark.usefixtures("short")
def test_returns_are_means_over_the_same_episodes(tmp_path: Path, monkeypatch: Any) -> None:
    clock = Clock(monkeypatch)
    racing = Track(an_entry(tmp_path))
    racing.act = still
    totals = []
    for seed in range(track.FIRST_SEED, track.FIRST_SEED + 10):
        env = racing._task()
        env.reset(seed=seed)
        totals.append(sum(float(env.step(np.zeros(6))[1]) for _ in range(50)))
    training = racing.make_env()
    training.reset(seed=0)
    for minutes in (11, 61):
        clock.now = 60.0 * minutes
        if minutes == 61:
            with pytest.raises(Finished):
                training.step(np.zeros(6))
        else:
            training.step(np.zeros(6))
    written = rows(tmp_path / "sac-3.part")
    assert [row[2] for row in written] == pytest.approx(2 * [np.mean(totals)], abs=0.01)


def test_no_csv_without_the_whole_time(tmp_path: Path) -> None:
    racing = Track(an_entry(tmp_path))
    with pytest.raises(SystemExit, match="sac stopped"):
        racing.run(lambda: None)
    with pytest.raises(ZeroDivisionError):
        racing.run(lambda: 1 / 0)
    assert not (tmp_path / "sac-3.csv").exists()


@pytest.mark.usefixtures("short")
def test_all_see_the_same_task(tmp_path: Path) -> None:
    ours, theirs = (Track(an_entry(tmp_path), flat=flat).make_env() for flat in (False, True))
    seen, (vector, _) = ours.reset(seed=5)[0], theirs.reset(seed=5)
    for _ in range(3):
        assert np.array_equal(np.concatenate([x.ravel() for x in seen.values()]), vector)
        assert theirs.observation_space.contains(vector)
        action = np.random.default_rng(0).uniform(-1, 1, 6)
        seen, *told = ours.step(action)
        vector, *like = theirs.step(action)
        assert told[:3] == like[:3]


def test_command_lines_are_read_as_they_were_written(tmp_path: Path) -> None:
    for entry in (an_entry(tmp_path), an_entry(tmp_path, clone=tmp_path / "clone")):
        assert track.read_entry(entry.arguments()) == entry


@pytest.mark.long
@pytest.mark.usefixtures("short")
def test_ours_train_and_are_evaluated(tmp_path: Path, monkeypatch: Any) -> None:
    entry = an_entry(tmp_path, agent="lsp-debug", minutes=0.1)
    monkeypatch.setattr("sys.argv", ["lsp_agent.py", *entry.arguments()])
    lsp_agent.main()
    ((env_steps, minutes, value, episodes),) = rows(entry.out)
    assert env_steps > 200  # so that it has learned
    assert minutes >= 0.1
    assert value > 0
    assert episodes == 10
    metrics = (entry.folder / "metrics.jsonl").read_text()
    assert '"updates"' in metrics
    assert '"eval/return"' not in metrics


@pytest.mark.long
@pytest.mark.usefixtures("short")
def test_ours_look_at_the_clock_while_they_make_many_updates(
    tmp_path: Path, monkeypatch: Any
) -> None:
    entry, seen = an_entry(tmp_path, agent="dreamer-debug"), [0]

    def tick(racing: Track) -> None:
        assert racing.env_steps <= 300
        if racing.env_steps == seen[-1]:
            raise Finished
        seen.append(racing.env_steps)

    many: dict[str, Any] = {"schedule.pretrain": 250}
    monkeypatch.setattr(lsp_agent, "make_config", partial(make_config, **many))
    monkeypatch.setattr(Track, "tick", tick)
    monkeypatch.setattr("sys.argv", ["lsp_agent.py", *entry.arguments()])
    lsp_agent.main()
    assert seen[-1] == 200  # where random actions end
    assert entry.out.exists()


FAKE = """
import os, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else [0]
print(len(cores), os.environ["OMP_NUM_THREADS"])
with open({started!r}, "a") as file:
    file.write(given["--agent"] + given["--seed"] + " ")
if given["--agent"] == "bad":
    raise SystemExit("no such thing")
with open(given["--out"], "w") as file:
    file.write({header!r} + "100,1.0,7.5,10\\n200," + given["--minutes"] + ",9.5,10\\n")
"""


@pytest.fixture
def started(tmp_path: Path, monkeypatch: Any) -> Path:
    """Where fake contestants write that they have started: `bad` fails."""
    path, script = tmp_path / "started", tmp_path / "fake.py"
    script.write_text(FAKE.format(started=str(path), header=HEADER))
    fakes = {name: race.Peer(str(script), name) for name in ("good", "bad", "fine")}
    fakes["tdmpc2"] = race.Peer(str(script), "tdmpc2", needs_clone=True)
    monkeypatch.setattr(race, "PEERS", fakes)
    monkeypatch.setattr(race, "environment", lambda folder, name: Path(sys.executable))
    return path


def run(folder: Path, *arguments: str) -> int:
    small = ["--tasks", "walker_walk", "--minutes", "2", "--threads", "1"]
    return race.main(["--out", str(folder / "out"), *small, *arguments])


def test_a_failing_contestant_is_one_line_and_the_others_go_on(
    tmp_path: Path, started: Path, capsys: Any
) -> None:
    assert run(tmp_path, "--agents", "good", "bad", "fine", "tdmpc2") == 1
    printed = capsys.readouterr()
    left_out, failed = printed.err.splitlines()
    assert left_out.startswith("tdmpc2: left out")
    assert failed.startswith("walker_walk, bad, seed 0: failed (no such thing)")
    finished = "2.0 minutes, 200 env steps, return 10"
    assert printed.out.splitlines() == [
        f"walker_walk, {name}, seed 0: {finished}" for name in ("good", "fine")
    ]
    assert started.read_text() == "good0 bad0 fine0 "
    # One core, one thread.
    assert (tmp_path / "out" / "walker_walk" / "good-0.log").read_text() == "1 1\n"


def test_the_same_command_resumes(tmp_path: Path, started: Path, capsys: Any) -> None:
    agents = ("--agents", "good", "bad", "fine")
    run(tmp_path, *agents)
    (tmp_path / "out" / "walker_walk" / "fine-0.csv").unlink()
    started.write_text("")
    assert run(tmp_path, *agents, "--seeds", "0", "1") == 1
    assert started.read_text() == "bad0 fine0 good1 bad1 fine1 "
    assert "good, seed 0: there already, 2.0 minutes" in capsys.readouterr().out
    # Another race is not taken for it.
    assert run(tmp_path, *agents, "--minutes", "3") == 2
    assert (
        capsys.readouterr()
        .err.strip()
        .endswith(
            "holds a race with minutes 2, threads 1, not minutes 3, threads 1: choose another --out"
        )
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--agents", "sax"], "unknown agent 'sax'"),
        (["--agents", "lsp-quick"], "unknown preset 'quick'"),
        (["--agents", "lps-fast"], "unknown method 'lps'"),
        (["--tasks", "walker_wlak"], "Did you mean walker_walk"),
        (["--minutes", "0"], "--minutes must be more than 0"),
        (["--seeds", "-1"], "--seeds must be at least 0"),
        (["--threads", "0"], "--threads must be 1 to"),
        (["--threads", "9999"], "--threads must be 1 to"),
        (["--tdmpc2", "/nowhere"], "no clone"),
    ],
)
def test_mistakes_are_said_in_one_line(
    arguments: list[str], said: str, tmp_path: Path, started: Path, capsys: Any
) -> None:
    assert run(tmp_path, "--agents", "good", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not started.exists()
    assert not (tmp_path / "out").exists()


def test_stopping_it_is_one_line(
    tmp_path: Path, started: Path, monkeypatch: Any, capsys: Any
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("race.subprocess.run", interrupted)
    assert run(tmp_path, "--agents", "good") == 130
    assert capsys.readouterr().err == "race.py: stopped; the same command resumes\n"


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: Any) -> Path:
    """A file that says how a fake pip ends; what it was asked is in `pip.asked` beside it."""
    (tmp_path / "pins").mkdir()
    (tmp_path / "pins" / "sac.txt").write_text("# About it.\nabsl==1\ntorch==2.0\n")
    fate = tmp_path / "pip"
    fate.write_text("exit 0")
    python = f'#!/bin/sh\necho "$@" >> {fate}.asked\n. {fate}\n'

    def create(folder: Path, with_pip: bool) -> None:
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").write_text(python)
        (folder / "bin" / "python").chmod(0o755)

    monkeypatch.setattr(environments, "PINS", tmp_path / "pins")
    monkeypatch.setattr("environments.venv.create", create)
    return fate


def test_an_environment_is_made_once_for_its_pins(tmp_path: Path, pip: Path) -> None:
    made = environments.environment(tmp_path / "envs", "sac")
    assert made == tmp_path / "envs" / "sac" / "bin" / "python"
    asked = pip.with_suffix(".asked")
    assert asked.read_text().endswith("pins/sac.txt\n")
    environments.environment(tmp_path / "envs", "sac")
    assert len(asked.read_text().splitlines()) == 1
    (tmp_path / "pins" / "sac.txt").write_text("torch==2.1\n")
    environments.environment(tmp_path / "envs", "sac")
    assert len(asked.read_text().splitlines()) == 2


def test_an_installation_that_failed_is_tried_again(
    tmp_path: Path, pip: Path, monkeypatch: Any, capsys: Any
) -> None:
    pip.write_text(
        "echo WARNING: slow >&2; echo ERROR: no torch >&2; echo ERROR: sorry >&2; exit 1"
    )
    asked = ["--environments", str(tmp_path / "envs"), "--agents", "sac", "dreamer-debug"]
    monkeypatch.setattr(race, "train", lambda *_: pytest.fail("nobody was to be trained"))
    done = tmp_path / "out" / "walker_walk" / "dreamer-debug-0.csv"
    done.parent.mkdir(parents=True)
    done.write_text(HEADER + "100,1.0,7.5,10\n")
    assert run(tmp_path, *asked) == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines()[1:] == ["sac: could not be installed (ERROR: no torch)"]
    assert "dreamer-debug, seed 0: there already" in printed.out
    pip.write_text("exit 0")
    assert environments.environment(tmp_path / "envs", "sac").exists()


@pytest.fixture
def raced(tmp_path: Path) -> Path:
    """A race of two contestants, one of which is slow."""
    (tmp_path / "race" / "walker_run").mkdir(parents=True)
    (tmp_path / "race" / "walker_run" / "lsp-fast-0.csv").write_text(
        HEADER
        + "20000,4.000,50.00,10\n50010,9.900,60.00,10\n50500,10.001,70.00,10\n"
        + "100000,19.5,80.04,10\n150000,30.002,90.00,10\n300000,60.01,95.00,10\n"
    )
    (tmp_path / "race" / "walker_run" / "tdmpc2-1m-0.csv").write_text(
        HEADER + "6000,10.2,5.00,10\n12000,30.0,15.00,10\n"
    )
    (tmp_path / "race" / "race.json").write_text(json.dumps({"minutes": 60}))
    (tmp_path / "race" / "walker_run" / "sac-0.part").write_text(HEADER)
    return tmp_path


def test_the_table_has_the_first_evaluation_from_each_mark_on(raced: Path, capsys: Any) -> None:
    picture, table = raced / "race.png", raced / "race.csv"
    assert standings.main([str(raced / "race"), str(picture), "--table", str(table)]) == 0
    assert table.read_text().splitlines() == [
        "task,agent,seed,10 min,30 min,60 min,20k,50k,100k,minutes,env_steps,return",
        "walker_run,lsp-fast,0,70.0,90.0,95.0,50.0,60.0,80.0,60.0,300000,95.0",
        "walker_run,tdmpc2-1m,0,5.0,15.0,,,,,30.0,12000,15.0",
    ]
    printed = capsys.readouterr().out.splitlines()
    assert (
        printed[-1]
        == "| walker_run | tdmpc2-1m | 0 | 5.0 | 15.0 | – | – | – | – | 30.0 | 12000 | 15.0 |"
    )
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_curves_are_drawn_against_hours(raced: Path, monkeypatch: Any) -> None:
    drawn = []
    monkeypatch.setattr(standings, "save_figure", lambda figure, out: drawn.append(figure))
    standings.draw(standings.read_race(raced / "race"), raced / "race.png")
    (axes,) = drawn[0].axes
    assert axes.get_xlabel() == "hours of training"
    lines = {line.get_label(): line for line in axes.lines}
    assert set(lines) == {"lsp, fast", "tdmpc2, 1m"}
    assert list(lines["tdmpc2, 1m"].get_xdata()) == pytest.approx([0.17, 0.5])
    assert list(lines["tdmpc2, 1m"].get_ydata()) == [5, 15]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("", "is no contestant's CSV"),
        ("env_steps,minutes\n1,2\n", "is no contestant's CSV"),
        (HEADER, "is no contestant's CSV"),
        (HEADER + "1,2,many,10\n", "is no contestant's CSV"),
        (None, "holds no finished contestant"),
    ],
)
def test_standings_name_what_they_cannot_read(
    damage: str | None, said: str, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "walker_run").mkdir()
    if damage is not None:
        (tmp_path / "walker_run" / "sac-0.csv").write_text(damage)
    asked = [str(tmp_path), str(tmp_path / "race.png"), "--table", str(tmp_path / "race.csv")]
    assert standings.main(asked) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
