"""Anybody's task: runs on it, from Python and from the command line."""

import dataclasses
import json
import shlex
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Discrete
from own_tasks import STEP, Reach, reach_with_pictures
from test_custom_envs import REACH, RUNTIME, Echo, complaint

import lsp
import lsp.cli.main
from lsp.cli.main import main
from lsp.config import Config, make_config
from lsp.runs.folder import RunFolder
from lsp.runs.metrics import read_metrics
from lsp.training.episode_files import episode_files, read_episodes

# Runs


def tiny(**changes: Any) -> Config:
    """Learning from 100 env steps on, with a handful of updates."""
    config = make_config("lsp", "debug", action_repeat=1)
    schedule = replace(config.schedule, prefill=100, eval_every=0, log_every=100, save_every=200)
    return replace(config, schedule=schedule, **changes)


def train(task: Any, folder: Any, steps: Any = 400, **named: Any) -> Any:
    return lsp.train(task, folder, steps, RUNTIME, config=tiny(), **named)


@pytest.fixture(scope="module")
def reached(tmp_path_factory: Any) -> Any:
    """A run on an environment that was passed."""
    folder = tmp_path_factory.mktemp("runs") / "reach"
    assert train(Reach(), folder)
    return folder


def settings(folder: Any) -> Any:
    return json.loads((folder / "config.json").read_text())


def test_a_run_on_an_env_that_was_passed_learns_when_episodes_end(reached: Any) -> None:
    recorded = settings(reached)
    assert recorded["task"] == REACH
    assert recorded["model"]["termination"] is True
    lines = read_metrics(reached)
    losses = [x["model/termination_loss"] for x in lines if "model/termination_loss" in x]
    assert losses
    assert all(loss > 0 for loss in losses)
    assert lines[-1]["eval/success"] in (0.0, 1.0)
    terminal = []
    folder = RunFolder(reached)
    for path in episode_files(folder.episodes):
        for episode in read_episodes(path, folder.id):
            assert not episode["is_terminal"][:-1].any()
            assert episode["is_terminal"][-1] == (episode["env_steps"].sum() < 100)
            terminal.append(bool(episode["is_terminal"][-1]))
            assert episode["obs/goal"].dtype == np.float32
    assert len(terminal) >= 4
    reaching = [x["episode/success"] for x in lines if x["kind"] == "episode"]
    assert reaching == [float(x) for x in terminal]


def test_the_same_call_resumes(reached: Any, tmp_path: Any) -> None:
    folder = tmp_path / "reach"
    assert train(Reach(), folder, 250)
    before = read_metrics(folder)
    assert train(Reach(), folder, 400)
    after = read_metrics(folder)
    assert [x["env_steps"] for x in after if x["kind"] == "episode"] == [
        x["env_steps"] for x in read_metrics(reached) if x["kind"] == "episode"
    ]
    assert len(after) > len(before)


def test_the_env_that_is_passed_stays_as_it_is(tmp_path: Any) -> None:
    env = Reach()
    env.reset(seed=0)
    position = env.position.copy()
    train(env, tmp_path / "run", 150)
    np.testing.assert_array_equal(env.position, position)
    assert env.time == 0


def test_another_task_in_the_same_folder_is_refused(reached: Any) -> None:
    said = complaint(train, reach_with_pictures, reached)
    assert f"task: {REACH} → python:own_tasks.reach_with_pictures" in said


def test_evaluating_needs_the_env_again(reached: Any, capsys: Any) -> None:
    assert "lsp.evaluate(run, env=env)" in complaint(lsp.evaluate, reached)
    with pytest.raises(SystemExit) as stopped:
        main(["eval", str(reached)])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"lsp: {REACH}: ")
    assert said.count("\n") == 1


def test_an_agent_is_loaded_without_making_an_environment(reached: Any, monkeypatch: Any) -> None:
    """What it observes and does is in the run's folder."""
    monkeypatch.setattr("lsp.api.evaluating.env_maker", None)  # calling it would fail
    agent, (observation, _) = (
        lsp.load(reached),
        lsp.make_env(Reach(), action_repeat=1).reset(seed=0),
    )
    assert agent.act(observation).shape == (2,)


@pytest.mark.parametrize("env", [Reach(), Reach], ids=["env", "function"])
def test_evaluating_and_loading_take_the_env(reached: Any, env: Any) -> None:
    outcome = lsp.evaluate(reached, episodes=2, env=env)
    assert len(outcome.returns) == 2
    agent, task = lsp.load(reached, env=env), lsp.make_env(env, action_repeat=1)
    observation, _ = task.reset(seed=0)
    action = agent.act(observation)
    assert action.shape == (2,)
    task.step(action)
    reach = task.unwrapped
    assert isinstance(reach, Reach)
    assert np.abs(reach.position).max() <= 1 + STEP


def test_evaluating_on_another_env_is_refused(reached: Any) -> None:
    said = complaint(lsp.evaluate, reached, env=reach_with_pictures)
    assert f"was trained on {REACH} with other observations or actions" in said


def test_an_episode_is_filmed(reached: Any, tmp_path: Any) -> None:
    lsp.evaluate(reached, 1, tmp_path / "film.mp4", env=Reach)
    assert (tmp_path / "film.mp4").stat().st_size > 1000


def test_a_film_that_cannot_be_is_one_line_and_no_file(reached: Any, tmp_path: Any) -> None:
    def unseen() -> Any:
        env = Reach()
        env.render_mode = None
        return env

    film = tmp_path / "film.mp4"
    assert "render_mode is None" in complaint(lsp.evaluate, reached, 1, film, env=unseen)
    assert not film.exists()


def test_vectors_and_images_are_learned_side_by_side(tmp_path: Any) -> None:
    assert train(reach_with_pictures, tmp_path / "run", 250)
    last = [x for x in read_metrics(tmp_path / "run") if "model/loss" in x][-1]
    errors = {key for key in last if key.startswith("model/error/")}
    assert errors == {f"model/error/{key}" for key in ("goal", "image", "position", "time_left")}


@pytest.mark.parametrize(
    "task", ["gymnasium:Pendulum-v1", "gymnasium:Hopper-v5", "own_tasks:Reach"]
)
def test_a_task_is_trained_by_its_name(tmp_path: Any, task: Any) -> None:
    folder = tmp_path / "run"
    assert train(task, folder, 300)
    assert lsp.train(tiny(task=task), folder, 300, RUNTIME)  # the same run, put otherwise
    assert settings(folder)["task"] == task
    assert len(lsp.evaluate(folder, episodes=1).returns) == 1


@pytest.mark.parametrize("env", [Reach(), Reach], ids=["env", "function"])
def test_a_task_is_collected_from_in_several_processes(tmp_path: Any, env: Any) -> None:
    assert lsp.train(env, tmp_path / "run", 300, RUNTIME, config=tiny(num_envs=2))
    assert settings(tmp_path / "run")["task"] == REACH


def test_a_refused_task_leaves_no_folder(tmp_path: Any) -> None:
    said = complaint(train, Echo(actions=Discrete(2)), tmp_path / "run")
    assert said.startswith("python:test_custom_envs.Echo: its actions must be a Box")
    assert not (tmp_path / "run").exists()


def test_settings_are_given_once(tmp_path: Any) -> None:
    said = complaint(lsp.train, tiny(), tmp_path / "run", config=tiny())
    assert "not both" in said
    assert dataclasses.asdict(make_config())["model"]["termination"] is None


@pytest.mark.parametrize("task", ["gymnasium:CartPole-v1", "own_tasks:nobody"])
def test_the_command_line_says_it_in_one_line(tmp_path: Any, capsys: Any, task: Any) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(shlex.split(f"train --preset debug --task {task} --logdir {tmp_path / 'run'}"))
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"lsp: {task}: ")
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_command_line_trains_plots_and_collects_a_users_task(
    tmp_path: Any, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    lsp.cli.main.main(
        ["train", "--task", "gymnasium:Pendulum-v1", "--preset", "debug", "--steps", "400"]
    )
    run = tmp_path / "runs" / "gymnasium-Pendulum-v1-lsp-debug-0"
    assert (run / "curve.png").exists()
    lsp.cli.main.main(["collect", str(run)])
    assert (tmp_path / "results" / "gymnasium-Pendulum-v1" / "lsp.csv").exists()
    assert "Evaluation after 400 env steps" in capsys.readouterr().out
