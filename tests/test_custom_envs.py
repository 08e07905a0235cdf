"""Anybody's task: what agents see of it and do to it, what is refused, and runs on it."""

import dataclasses
import json
import shlex
import sys
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Text
from own_tasks import STEP, Reach, reach_with_pictures

import lsp
import lsp.cli.main
from lsp.cli.main import main
from lsp.config import Config, RuntimeConfig, from_dict, make_config, to_dict, validated
from lsp.envs import custom as user_module
from lsp.envs import make_env
from lsp.envs.custom import UserEnv, make_user_env
from lsp.envs.lookup import Maker, task_name
from lsp.errors import RunWarning, UserError
from lsp.runs.folder import RunFolder
from lsp.runs.metrics import read_metrics
from lsp.training.episode_files import episode_files, read_episodes

RUNTIME = RuntimeConfig(compile=False, threads=1)
REACH = "python:own_tasks.Reach"


class Echo(gymnasium.Env):
    """Shows `shown`, keeps the actions it gets, pays `pay`; never ends."""

    def __init__(
        self, observations: Any = None, shown: Any = None, actions: Any = None, pay: Any = 0.0
    ) -> None:
        self.observation_space = Box(-1, 1, (2,)) if observations is None else observations
        self.action_space = Box(-1, 1, (2,)) if actions is None else actions
        self.shown = np.zeros(2, np.float32) if shown is None else shown
        self.pay = pay
        self.got: list[Any] = []
        self.seeds: list[Any] = []

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.seeds.append(seed)
        return self.shown, {"options": options, "sim_state": "mine"}

    def step(self, action: Any) -> Any:
        self.got.append(action)
        return self.shown, self.pay, False, False, {"sim_state": "mine"}


def shown(space: Any, value: Any) -> Any:
    """What the agent sees, which is in the space that it is told of."""
    env = UserEnv(Echo(space, value), "echo")
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    assert isinstance(env.observation_space, Dict)
    assert list(observation) == list(env.observation_space.spaces)
    return observation


def acted(space: Any, action: Any) -> Any:
    """What the environment gets."""
    env: Any = UserEnv(Echo(actions=space), "echo")
    env.reset(seed=0)
    env.step(np.asarray(action, np.float32))
    return env.unwrapped.got[-1]


def complaint(call: Any, *arguments: Any, **named: Any) -> Any:
    with pytest.raises(UserError) as raised:
        call(*arguments, **named)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# Actions


def test_actions_of_any_range_and_shape_are_reached_from_minus_one_to_one() -> None:
    low, high = np.array([[-3.0, 0.0, 5.0]]), np.array([[1.0, 0.1, 6.0]])
    space = Box(low, high, dtype=np.float64)
    assert UserEnv(Echo(actions=space), "echo").action_space == Box(-1, 1, (3,), np.float32)
    for action, expected in (([-1] * 3, low), ([1] * 3, high), ([0] * 3, (low + high) / 2)):
        got = acted(space, action)
        assert got.shape == (1, 3)
        assert got.dtype == np.float64
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_allclose(acted(space, [0.5, -0.5, 0.5]), [[0.0, 0.025, 5.75]])


def test_actions_beyond_one_are_clipped() -> None:
    np.testing.assert_array_equal(acted(Box(-2, 4, (2,)), [9, -9]), [4, -2])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.uint8])
def test_actions_have_the_dtype_of_the_env_and_are_in_its_space(dtype: Any) -> None:
    space = Box(0, 10, (3,), dtype)
    got = acted(space, [-1, 0.38, 1])
    assert got in space
    expected = [0, 7, 10] if np.issubdtype(dtype, np.integer) else [0, 6.9, 10]
    np.testing.assert_allclose(got, expected, rtol=1e-3)


def test_an_action_of_no_axes_is_one_number() -> None:
    got = acted(Box(-2, 2, ()), [0.5])
    assert got.shape == ()
    assert got == 1.0


def test_a_number_that_cannot_be_moved_is_left_where_it_is() -> None:
    space = Box(np.array([3.0, -1.0]), np.array([3.0, 1.0]), dtype=np.float64)
    np.testing.assert_array_equal(acted(space, [-1, 1]), [3, 1])


@pytest.mark.parametrize("action", [np.zeros(3), np.full(2, np.nan)])
def test_a_bad_action_is_refused(action: Any) -> None:
    env = UserEnv(Echo(), "echo")
    env.reset()
    assert "echo: an action must be 2 numbers" in complaint(env.step, action)


# Observations

BITS = Box(np.zeros(2, bool), np.ones(2, bool), dtype=np.bool_)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("space", "value", "expected"),
    [
        (Box(-9, 9, (2, 2), np.float64), np.array([[1.0, 2], [3, 4]]), [1, 2, 3, 4]),
        (Box(-9, 9, (), np.float32), np.float32(7), [7]),
        (Box(0, 9, (3,), np.int64), np.array([1, 2, 3]), [1, 2, 3]),
        (BITS, np.array([True, False]), [1, 0]),
        (Box(0, 255, (3,), np.uint8), np.array([0, 1, 255], np.uint8), [0, 1, 255]),
        (Box(0, 255, (2, 20), np.uint8), np.full((2, 20), 9, np.uint8), [9] * 40),
        (Box(0, 1, (9, 20, 3), np.float32), np.ones((9, 20, 3), np.float32), [1] * 540),
    ],
)
def test_all_but_images_is_a_vector_of_float32(space: Any, value: Any, expected: Any) -> None:
    seen = shown(space, value)
    assert seen.keys() == {"observation"}
    assert seen["observation"].dtype == np.float32
    np.testing.assert_array_equal(seen["observation"], expected)


def test_nested_dicts_are_flattened() -> None:
    inner = Dict(b=Box(0, 9, (1,)), c=Dict(d=Box(0, 9, (2, 1), np.float64)))
    space = Dict(a=inner, e=Box(0, 255, (32, 32), np.uint8), empty=Box(0, 1, (0,)))
    value = {
        "a": {"b": np.ones(1, np.float32), "c": {"d": np.array([[2.0], [3.0]])}},
        "e": np.zeros((32, 32), np.uint8),
        "empty": np.zeros(0, np.float32),
        "not in the space": "ignored",
    }
    seen = shown(space, value)
    assert {key: x.shape for key, x in seen.items()} == {
        "a/b": (1,),
        "a/c/d": (2,),
        "e": (64, 64, 1),
    }
    np.testing.assert_array_equal(seen["a/c/d"], [2, 3])


@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        ((64, 64, 3), 3),
        ((128, 96, 3), 3),
        ((16, 40), 1),
        ((3, 96, 96), 3),
        ((4, 84, 84), 4),
        ((84, 84, 1), 1),
        ((4, 20, 4), 4),
        ((7, 7, 3), 3),
    ],
)
def test_images_are_64_by_64_with_channels_last(shape: Any, channels: Any) -> None:
    first = channels in shape[:1] and channels != shape[-1]
    flat = np.full(shape, 9, np.uint8)
    for channel in range(channels if len(shape) == 3 else 0):
        flat[(channel,) if first else (..., channel)] = 50 * channel + 9
    seen = shown(Box(0, 255, shape, np.uint8), flat)
    assert seen.keys() == {"image"}
    assert seen["image"].shape == (64, 64, channels)
    assert seen["image"].dtype == np.uint8
    for channel in range(channels):
        assert (seen["image"][..., channel] == 50 * channel + 9).all()


def test_images_are_averaged_not_sampled() -> None:
    fine = np.indices((192, 192)).sum(0) % 2 * np.uint8(255)
    coarse = shown(Box(0, 255, (192, 192), np.uint8), fine.astype(np.uint8))["image"]
    assert abs(coarse.astype(float) - 127.5).max() < 15
    halves = np.zeros((128, 128, 3), np.uint8)
    halves[:, 64:, 1] = 200
    seen = shown(Box(0, 255, (128, 128, 3), np.uint8), halves)["image"]
    assert (seen[:, :30] == 0).all()
    assert (seen[:, 34:] == [0, 200, 0]).all()


def test_an_image_is_the_right_way_up() -> None:
    image = np.zeros((3, 96, 96), np.uint8)
    image[1, :48, 72:] = 255  # green, above, at the right
    seen = shown(Box(0, 255, (3, 96, 96), np.uint8), image)["image"]
    assert (seen[:30, 50:] == [0, 255, 0]).all()
    assert seen[34:].sum() == seen[:, :46].sum() == 0


@pytest.mark.parametrize("size", [64, 80])
def test_observations_are_copies(size: Any) -> None:
    values = {"v": np.zeros(2, np.float32), "i": np.zeros((size, size, 3), np.uint8)}
    space = Dict(v=Box(-1, 1, (2,)), i=Box(0, 255, (size, size, 3), np.uint8))
    seen = shown(space, values)
    for value in values.values():
        value += 1
    assert not seen["v"].any()
    assert not seen["i"].any()


def test_an_env_that_shows_something_else_than_its_space_is_told() -> None:
    pair = Dict(a=Box(-1, 1, (2,)), b=Box(-1, 1, (2,)))
    said = complaint(shown, pair, {"a": np.zeros(2, np.float32)})
    assert "echo: an observation lacks 'b'" in said
    said = complaint(shown, Box(-1, 1, (2,)), np.zeros(3, np.float32))
    assert "'observation' is float32 of shape (3,), not float32 of shape (2,)" in said
    said = complaint(shown, Box(0, 255, (64, 64, 3), np.uint8), np.zeros((64, 64, 3)))
    assert "'image' is float64" in said


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_named(bad: Any) -> None:
    space = Dict(good=Box(-1, 1, (1,)), inner=Dict(bad=Box(-np.inf, np.inf, (2,), np.float64)))
    value = {"good": np.zeros(1, np.float32), "inner": {"bad": np.array([0, bad])}}
    assert "echo: observation 'inner/bad' is not finite" in complaint(shown, space, value)


def test_a_reward_that_is_not_finite_is_an_error() -> None:
    env = UserEnv(Echo(pay=np.nan), "echo")
    env.reset()
    assert "echo: the reward is nan at step 1" in complaint(env.step, np.zeros(2))


# Episodes


def test_seeds_and_options_pass_through() -> None:
    env: Any = make_env(Echo())
    _, info = env.reset(seed=7, options={"easy": True})
    assert env.unwrapped.seeds == [7]
    assert info == {"options": {"easy": True}, "env_steps": 0}


def place(task: Any, position: Any, goal: Any) -> None:
    """Point and goal of a `Reach` where they are wanted."""
    task.position[:], task.goal[:] = position, goal


def test_action_repeat_counts_env_steps_and_stops_at_the_end() -> None:
    env: Any = make_env(Reach(), action_repeat=3)
    env.reset(seed=0)
    place(env.unwrapped, (-1, 0), (0.1, 0))
    steps, terminated, total = [], False, 0.0
    while not terminated:
        _, reward, terminated, truncated, info = env.step(np.array([1.0, 0.0], np.float32))
        total += reward
        steps.append(info["env_steps"])
    assert steps == [3, 3, 3, 1]  # ten steps of 0.1 leave less than 0.2
    assert total == pytest.approx(-sum(range(1, 11)) / 10)
    assert not truncated
    assert info["success"] is True


def test_a_time_limit_truncates() -> None:
    env = make_env(Reach(), action_repeat=1)
    env.reset(seed=0)
    place(env.unwrapped, (0, 0), (1, 1))
    ends = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(100)]
    assert ends == [(False, False)] * 99 + [(False, True)]


def test_an_episode_without_end_is_an_error_unless_a_limit_is_known(monkeypatch: Any) -> None:
    monkeypatch.setattr(user_module, "MAX_OPEN_STEPS", 20)
    for limit, fails in ((None, True), (30, False)):
        inner = Echo() if limit is None else gymnasium.wrappers.TimeLimit(Echo(), limit)
        env = make_env(inner, action_repeat=1)
        for steps in (15, 19):
            env.reset()
            for _ in range(steps):
                env.step(np.zeros(2, np.float32))
        if fails:
            assert "TimeLimit" in complaint(env.step, np.zeros(2, np.float32))
        else:
            assert env.step(np.zeros(2, np.float32))[2:4] == (False, False)


# What agents cannot act in

REFUSED = {
    "discrete actions": ({"actions": Discrete(3)}, "Discrete"),
    "a dict of actions": ({"actions": Dict(a=Box(-1, 1, (1,)))}, "a Box"),
    "no actions": ({"actions": Box(-1, 1, (0,))}, "no actions"),
    "unbounded actions": ({"actions": Box(-np.inf, np.inf, (2,))}, "finite bounds"),
    "half bounded actions": ({"actions": Box(0, np.inf, (2,))}, "finite bounds"),
    "the largest float": ({"actions": Box(-3e38, 3e38, (2,))}, "finite bounds"),
    "actions without room": ({"actions": Box(1, 1, (2,))}, "no room"),
    "discrete observations": ({"observations": Discrete(3)}, "Box or a Dict"),
    "text inside": ({"observations": Dict(a=Box(0, 1, (1,)), b=Text(9))}, "Box or a Dict"),
    "nothing observed": ({"observations": Dict()}, "observes nothing"),
    "only empty Boxes": ({"observations": Dict(a=Box(0, 1, (0,)))}, "observes nothing"),
    "the same name twice": (
        {"observations": Dict({"a/b": Box(0, 1, (1,)), "a": Dict(b=Box(0, 1, (1,)))})},
        "'a/b'",
    ),
    "many bounds": (
        {
            "actions": Discrete(3),
            "observations": Box(-np.arange(90.0), np.arange(90.0) + 1, dtype=float),  # type: ignore[arg-type]
        },
        "Discrete(3)",
    ),
}


@pytest.mark.parametrize(("spaces", "problem"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused_is_refused_when_it_is_made_with_both_spaces(
    spaces: Any, problem: Any
) -> None:
    env = Echo(**spaces)
    said = complaint(make_env, env)
    assert said.startswith("python:test_custom_envs.Echo: ")
    assert problem in said
    for space in (env.observation_space, env.action_space):
        assert " ".join(str(space).split())[:20] in said
    assert len(said) < 700


def test_an_env_that_forgot_its_spaces_is_refused() -> None:
    class Bare(gymnasium.Env):
        pass

    assert "action space None" in complaint(make_env, Bare)


# Names

MODULE = """
import gymnasium
from own_tasks import Reach

def make(): return Reach()
def broken(): raise ValueError("no\\nmap")
def nothing(): return 3
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
    yield tmp_path
    for name in ("mine", "needs_more", "torn"):
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
        assert explicit.resolved() == explicit


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


@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        ((84, 84, 9), 9),
        ((12, 84, 84), 12),
        ((84, 84, 2), 2),
        ((84, 84, 3, 1), 3),
        ((4, 84, 84, 3), 12),
        ((2, 3, 40, 30), 6),
    ],
)
def test_stacked_frames_and_all_other_axes_become_channels(shape: Any, channels: Any) -> None:
    sides = [i for i, n in enumerate(shape) if n >= 16][:2]
    others = [n for i, n in enumerate(shape) if i not in sides]
    numbers = np.arange(channels, dtype=np.uint8).reshape(others)
    value = np.broadcast_to(np.expand_dims(numbers, sides), shape)
    seen = shown(Box(0, 255, shape, np.uint8), np.array(value))["image"]
    assert seen.shape == (64, 64, channels)
    assert (seen == np.arange(channels)).all()


@pytest.mark.parametrize("brightest", [1, 255])
def test_numbers_between_black_and_white_are_an_image(brightest: Any) -> None:
    picture = np.full((20, 20, 3), brightest * 0.2, np.float32)
    seen = shown(Box(0, brightest, (20, 20, 3), np.float32), picture)
    assert (seen["image"] == 51).all()


def test_what_looks_like_a_picture_and_is_a_vector_is_said_and_a_setting_decides() -> None:
    space, value = Box(-5, 5, (20, 30, 2), np.float32), np.full((20, 30, 2), 5, np.float32)
    env = Echo(space, value)
    with pytest.warns(RunWarning, match=r"'observation' of shape \(20, 30, 2\) looks like a pict"):
        assert make_user_env(env).reset()[0]["observation"].shape == (1200,)
    chosen = make_user_env(env, images=("observation",))
    assert (chosen.reset()[0]["image"] == 255).all()
    grey = Echo(Box(0, 255, (20, 20, 3), np.uint8), np.zeros((20, 20, 3), np.uint8))
    assert make_user_env(grey, images=()).reset()[0]["observation"].shape == (1200,)
    with pytest.raises(UserError, match="no observation with the shape of a picture: there are"):
        make_user_env(Reach(), images=("position",))
