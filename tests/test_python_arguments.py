"""Arguments that make no sense are said from Python as on the command line: one line, UserError."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from builders import short_episodes
from unchecked import unchecked

import lsp
from lsp.cli.main import main
from lsp.errors import UserError

pytestmark = pytest.mark.usefixtures("short_episodes")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: Any) -> Path:
    """A debug run of LSP, no longer than it takes to have a checkpoint."""
    folder: Path = tmp_path_factory.mktemp("runs") / "lsp"
    begin = "train --preset debug --task walker_walk --threads 1 --action-repeat 4 --steps 20"
    with short_episodes():
        main([*shlex.split(begin), "--logdir", str(folder)])
    return folder


def test_what_is_chosen_by_name_is_refused_where_there_is_no_such_choice(trained: Any) -> None:
    wrong: Any = "eval"
    with unchecked():  # as users run it, types are not looked at
        with pytest.raises(UserError, match="mode must be 'collect' or 'evaluate', not 'eval'"):
            lsp.load(trained, mode=wrong)
        with pytest.raises(UserError, match="skills must be one of planned, prior, constant, shuf"):
            lsp.evaluate(trained, 1, skills=wrong)


WRONG: Any = [
    ({"episodes": "3"}, "episodes must be a whole number of at least 1, not '3'"),
    ({"episodes": 2.5}, "not 2.5"),
    ({"episodes": True}, "not True"),
    ({"episodes": None}, "not None"),
    ({"seed": "a"}, "seed must be at least 0 and below"),
    ({"seed": 1.5}, "not 1.5"),
    ({"checkpoint": "a"}, "checkpoint must be a whole number of at least 0, not 'a'"),
    ({"device": "foo"}, "unknown device 'foo'"),
    ({"device": "cuda:99"}, "finds no GPU 99"),
    ({"device": 7.5}, "unknown device"),
    ({"video": "film.xyz"}, "film.xyz: a film is a file whose name ends in .mp4"),
    ({"video": "."}, "ends in .mp4"),
]


@pytest.mark.parametrize(("asked", "complaint"), WRONG)
def test_what_makes_no_sense_from_python_is_said(trained: Any, asked: Any, complaint: str) -> None:
    with unchecked(), pytest.raises(UserError) as raised:
        lsp.evaluate(trained, **asked)
    assert complaint in str(raised.value)


@pytest.mark.parametrize("name", ["horizon", "updates", "skill_length", "replan_every"])
def test_plans_for_a_new_reward_are_counted_in_whole_numbers(trained: Any, name: Any) -> None:
    wrong: Any
    for wrong in ("a", 1.5, -1):
        asked: dict[str, Any] = {name: wrong}
        with unchecked(), pytest.raises(UserError, match=f"{name} must be a whole number"):
            lsp.evaluate(trained, 1, reward=lsp.NewReward("task", **asked))


@pytest.mark.parametrize("count", [0, -1, 1.5, "a"])
def test_an_agent_acts_in_a_whole_number_of_environments(trained: Any, count: Any) -> None:
    with unchecked(), pytest.raises(UserError, match="num_envs must be a whole number"):
        lsp.load(trained, num_envs=count)


def test_a_film_that_cannot_be_written_is_said(trained: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"x\.mp4 cannot be written"):
        lsp.evaluate(trained, 1, video=tmp_path / "file" / "x.mp4")


@pytest.mark.parametrize("path", [None, 3, ""])
def test_what_is_no_path_is_said(path: Any) -> None:
    with unchecked():
        for call in (lambda: lsp.load(path), lambda: lsp.train("walker_walk", path, 0)):
            with pytest.raises(UserError, match="is named by its path"):
                call()


@pytest.mark.parametrize("steps", ["abc", None, float("nan"), float("inf"), -1])
@pytest.mark.parametrize("progress", [False, True])
def test_steps_are_a_number(steps: Any, progress: bool, tmp_path: Path) -> None:
    with unchecked(), pytest.raises(UserError, match="steps must be a number of at least 0"):
        lsp.train("walker_walk", tmp_path / "run", steps, progress=progress)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("runtime", "complaint"),
    [
        ({"threads": 1.5}, "threads must be a whole number"),
        ({"threads": 0}, "threads must be a whole number"),
        ({"patience": float("nan")}, "patience must be more than 0 seconds"),
        ({"patience": 0.0}, "patience must be more than 0 seconds"),
        ({"patience": -1.0}, "patience must be more than 0 seconds"),
        ({"track": "x"}, "track must be wandb or trackio, not 'x'"),
    ],
)
def test_where_to_compute_has_to_make_sense(runtime: Any, complaint: str, tmp_path: Path) -> None:
    with unchecked(), pytest.raises(UserError, match=complaint):
        lsp.train("walker_walk", tmp_path / "run", 0, lsp.RuntimeConfig(**runtime))
    assert not (tmp_path / "run").exists()
