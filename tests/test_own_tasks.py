"""Anybody's task: its name, copies of it, and the settings that it has of its own."""

import sys
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from own_tasks import Reach, reach_with_pictures
from test_custom_envs import REACH, complaint

from lsp.config import from_dict, make_config, to_dict, validated
from lsp.envs import make_env
from lsp.envs.lookup import Maker, task_name
from lsp.errors import UserError

# Names

MODULE = """
import gymnasium
from own_tasks import Reach

def make(): return Reach()
def broken(): raise ValueError("no\\nmap")
def nothing(): return 3
def leave(): raise SystemExit(2)
number = 3

class Inside:
    make = staticmethod(make)
"""
MISTAKES = {
    "no_such_module:make": "there is no module 'no_such_module'",
    "no_such.module:make": "there is no module 'no_such'",
    "mine.inner:make": "there is no module 'mine.inner'",
    "mine:mkae": "module 'mine' has no 'mkae'",
    "mine:": "module 'mine' has no ''",
    "mine:number": "'number' must be a function or class that makes an environment, not 3",
    "mine:broken": "making it failed: ValueError: no map",
    "mine:nothing": "it must return a gymnasium.Env, not 3",
    "needs_more:make": "importing it failed: ModuleNotFoundError: No module named 'no_such'",
    "mine:leave": "making it failed: RuntimeError: it called sys.exit(2)",
    "script:make": "importing it failed: RuntimeError: it called sys.exit(0)",
    "gymnasium:script:Hopper-v5": "making it failed: RuntimeError: it called sys.exit(0)",
    "torn:make": "importing it failed: SyntaxError",
    ":make": "importing it failed",
    "gymnasium:Hoper-v5": "Did you mean: `Hopper`?",
    "gymnasium:Hopper-v99": "`v5` ]",
    "gymnasium:what is this": "Malformed environment ID",
    "gymnasium:no_such:Task-v0": "No module named 'no_such'",
    "gymnasium:CartPole-v1": "its actions must be a Box",
    "python:mine.Reach": "pass it again",
}


@pytest.fixture
def mine(tmp_path: Any, monkeypatch: Any) -> Any:
    """A folder with a user's modules, in which the program is started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "needs_more.py").write_text("import no_such")
    (tmp_path / "torn.py").write_text("def make(:")
    (tmp_path / "script.py").write_text("import sys\nsys.exit(0)")
    yield tmp_path
    for name in ("mine", "needs_more", "script", "torn"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["mine:make", "mine:Reach", "mine:Inside.make"])
def test_a_name_in_a_module_of_the_working_directory_is_found(mine: Any, name: Any) -> None:
    env = make_env(name)
    assert isinstance(env.unwrapped, Reach)
    assert env.reset(seed=0)[1] == {"env_steps": 0}


@pytest.mark.parametrize(("task", "problem"), MISTAKES.items(), ids=MISTAKES.keys())
def test_a_mistake_in_a_name_is_one_line(mine: Any, task: Any, problem: Any) -> None:
    said = complaint(make_env, task)
    assert said.startswith(f"{task}: ")
    assert problem in said


def test_an_extra_that_is_not_installed_is_named(monkeypatch: Any) -> None:
    def make(*arguments: Any, **named: Any) -> None:
        raise gymnasium.error.DependencyNotInstalled('run `pip install "gymnasium[box2d]"`')

    monkeypatch.setattr(gymnasium, "make", make)
    said = complaint(make_env, "gymnasium:BipedalWalker-v3")
    assert 'gymnasium:BipedalWalker-v3: run `pip install "gymnasium[box2d]"`' in said


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [({"obs": "pixels"}, "obs must be proprio"), ({"action_repeat": 0}, "at least 1")],
)
def test_settings_of_other_tasks_are_refused(arguments: Any, problem: Any) -> None:
    assert problem in complaint(make_env, "gymnasium:Pendulum-v1", **arguments)


@pytest.mark.parametrize(
    ("task", "limit", "size", "actions"), [("Pendulum-v1", 200, 3, 1), ("Hopper-v5", 1000, 11, 3)]
)
def test_tasks_of_gymnasium_keep_their_time_limit(
    task: Any, limit: Any, size: Any, actions: Any
) -> None:
    env: Any = make_env(f"gymnasium:{task}", action_repeat=2)
    assert env.observation_space["observation"].shape == (size,)
    assert env.action_space.shape == (actions,)
    assert env.render_mode == "rgb_array"
    first, second = (env.reset(seed=5)[0]["observation"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    steps, ended = 0, False
    while not ended:
        _, _, terminated, truncated, info = env.step(np.zeros(actions, np.float32))
        steps += info["env_steps"]
        ended = terminated or truncated
    if task == "Pendulum-v1":
        assert (steps, terminated, truncated) == (limit, False, True)
    else:  # it falls
        assert steps < limit
        assert (terminated, truncated) == (True, False)


def test_actions_reach_the_limits_of_the_pendulum() -> None:
    env: Any = make_env("gymnasium:Pendulum-v1", action_repeat=1)
    env.reset(seed=0)
    env.step(np.ones(1, np.float32))
    assert env.unwrapped.last_u == 2.0


def test_a_task_that_can_only_be_made_without_pictures_is_made_without(monkeypatch: Any) -> None:
    make = gymnasium.make

    def fussy(identifier: Any, **named: Any) -> Any:
        if named:
            raise RuntimeError("no display")
        return make(identifier)

    monkeypatch.setattr(gymnasium, "make", fussy)
    env: Any = make_env("gymnasium:Pendulum-v1")
    env.reset(seed=0)
    assert "render_mode is None" in complaint(env.env.render)


def test_pictures_that_fail_are_one_line() -> None:
    class Blind(Reach):
        def render(self) -> None:
            raise RuntimeError("no\ndisplay")

    env: Any = make_env(Blind())
    env.reset(seed=0)
    assert "cannot render: RuntimeError: no display" in complaint(env.render)
    env = make_env(Reach())
    assert env.env.metadata["render_fps"] == 20


# Copies


def test_an_env_is_made_again_from_its_spec() -> None:
    env: Any = gymnasium.make("Pendulum-v1", g=3.0, max_episode_steps=7)
    env.unwrapped.l = 9.0  # no part of its spec
    other: Any = Maker(env)()
    assert other.unwrapped.l == 1.0
    assert other.unwrapped is not env.unwrapped
    assert other.unwrapped.g == 3.0
    assert other.spec.max_episode_steps == 7


def test_an_env_without_a_spec_is_copied_as_it_is() -> None:
    env = Reach(pictures=True)
    copies: list[Any] = [Maker(env)() for _ in range(2)]
    first, second = copies
    assert first is not second
    assert first.pictures is True


def test_an_env_in_a_wrapper_that_gymnasium_cannot_repeat_is_copied() -> None:
    class Doubled(gymnasium.RewardWrapper):
        def reward(self, reward: Any) -> Any:
            return 2 * reward

    env = Doubled(gymnasium.make("Pendulum-v1"))
    assert isinstance(Maker(env)(), Doubled)


def test_an_env_that_cannot_be_copied_asks_for_a_function() -> None:
    class Held(Reach):
        def __deepcopy__(self, memo: Any) -> None:
            raise TypeError("a socket")

    assert "pass a function that makes it" in complaint(Maker(Held()))


def test_a_function_must_make_a_new_env_each_time() -> None:
    env = Reach()
    make = Maker(lambda: env)
    make()
    assert "the same environment twice" in complaint(make)


def test_the_name_of_a_task_says_where_it_is_from() -> None:
    assert task_name(Reach()) == task_name(Reach) == REACH
    assert task_name(gymnasium.wrappers.TimeLimit(Reach(), 3)) == REACH
    env: Any = make_env(Maker(Reach()))
    assert task_name(Maker(Reach())) == Maker(Reach).name == env.env.task == REACH
    assert task_name(reach_with_pictures) == "python:own_tasks.reach_with_pictures"


# The termination head


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("walker_walk", False),
        ("lqr_lqr_2_1", True),
        ("gymnasium:Pendulum-v1", True),
        (REACH, True),
    ],
)
def test_episodes_can_end_in_users_tasks(task: Any, expected: Any) -> None:
    config = make_config("lsp", "debug", task=task)
    assert config.model.termination is None
    assert config.resolved().model.termination is expected
    for chosen in (False, True):
        explicit = replace(config, model=replace(config.model, termination=chosen))
        assert explicit.resolved().model == explicit.model


@pytest.mark.parametrize(
    ("task", "most"),
    [("walker_walk", 1.5), ("quadruped_reach", 0.5), ("gymnasium:Pendulum-v1", 0.5), (REACH, 0.5)],
)
def test_the_bound_of_the_decoders_std_is_lower_where_goals_may_be_observed(
    task: Any, most: Any
) -> None:
    config = make_config("lsp", "fast", task=task)
    assert config.resolved().model.decoder_std == (0.1, most)
    assert from_dict(to_dict(config)) == config
    papers = make_config("lsp", "paper", task=task)
    assert papers.resolved().model.decoder_std == (0.1, 1.5)  # A.3


@pytest.mark.parametrize(
    ("task", "states"),
    [("walker_walk", "imagined"), ("quadruped_walk", "observed"), (REACH, "imagined")],
)
def test_v_is_fitted_in_observed_states_on_quadrupeds_alone(task: Any, states: Any) -> None:
    config = make_config("lsp", "fast", task=task)
    assert validated(config).resolved().value.states == states
    assert from_dict(to_dict(config)) == config
    imagined = replace(config, value=replace(config.value, states="imagined"))
    assert imagined.resolved().value == imagined.value
    assert make_config("lsp", "paper", task=task).resolved().value.states == "imagined"
    total = replace(config, value=replace(config.value, covers="total"))
    total = replace(total, skills=replace(config.skills, intrinsic_unit="reward"))
    if states == "imagined":
        validated(total)
    else:
        with pytest.raises(UserError, match=r"needs value\.states = imagined"):
            validated(total)
