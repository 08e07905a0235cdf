"""Anybody's task: what agents see of it and do to it, and what is refused."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Text
from own_tasks import Reach
from unchecked import unchecked

from lsp.config import RuntimeConfig
from lsp.envs import custom as user_module
from lsp.envs import make_env
from lsp.envs.custom import UserEnv, make_user_env
from lsp.errors import RunWarning, UserError

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


@pytest.mark.parametrize("told", [0, 1])
def test_a_success_that_is_told_once_is_told_of_the_agent_step(told: int) -> None:
    class Once(Echo):
        render_mode = None

        def step(self, action: Any) -> Any:
            *given, _ = super().step(action)
            return *given, {"success": True} if len(self.got) == told + 1 else {}

    env = make_env(Once(), action_repeat=2)
    env.reset(seed=0)
    first, second = (env.step(np.zeros(2, np.float32))[-1] for _ in range(2))
    assert first["success"] is True
    assert "success" not in second


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


# Pictures


class Painter(Echo):
    render_mode = "rgb_array"

    def __init__(self, *pictures: Any) -> None:
        super().__init__()
        self.pictures = list(pictures)

    def render(self) -> Any:
        return self.pictures.pop(0)


def test_pictures_are_bytes_of_one_size() -> None:
    picture = np.zeros((4, 6, 3), np.uint8)
    env = UserEnv(Painter(picture, picture, picture[:2]), "painter")
    assert env.render() is picture
    assert env.render().shape == (4, 6, 3)
    assert "[2, 6, 3] now, and gave [4, 6, 3] before" in complaint(env.render)


@pytest.mark.parametrize(
    ("picture", "found"),
    [
        (None, "not None"),
        ([np.zeros((4, 6, 3), np.uint8)], "not "),
        (np.zeros((4, 6), np.uint8), r"not [4, 6]"),
        (np.zeros((4, 6, 4), np.uint8), r"not [4, 6, 4]"),
        (np.zeros((4, 6, 3)), "uint8, 0 to 255, not float64"),
    ],
)
def test_what_is_no_picture_is_refused(picture: Any, found: str) -> None:
    told = complaint(UserEnv(Painter(picture), "painter").render)
    assert told.startswith("painter: render must give")
    assert found in told


def test_images_are_chosen_in_tasks_of_ones_own() -> None:
    assert "images are chosen in tasks of your own" in complaint(
        make_env, "walker_walk", images=["orientations"]
    )


@pytest.mark.parametrize("repeat", [0, 1.5, "a"])
def test_an_action_is_held_a_whole_number_of_steps(repeat: Any) -> None:
    with unchecked():
        told = complaint(make_env, "walker_walk", action_repeat=repeat)
    assert told.startswith("walker_walk: action_repeat must be a whole number of at least 1")


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
