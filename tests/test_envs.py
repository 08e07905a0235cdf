"""Invariants that hold for every environment, whatever the task."""

import gc
import json
import os
import subprocess
import sys
import threading
from typing import Any

import gymnasium
import numpy as np
import pytest
from dm_control.rl.control import PhysicsError

from lsp.envs import make_env, rendering_problem, task_names
from lsp.envs.action_repeat import ActionRepeat
from lsp.envs.dmc import DMControlEnv, load_control, split_task
from lsp.errors import UserError

TASKS = [
    "walker_walk",
    "cheetah_run",
    "hopper_hop",
    "quadruped_walk",
    "ball_in_cup_catch",
    "acrobot_swingup",
]


@pytest.fixture(scope="module")
def envs() -> Any:
    """One environment per task, shared by the tests: building one is the slow part."""
    return {task: DMControlEnv(task) for task in TASKS}


def actions_for(env: Any, steps: Any, seed: Any = 0) -> Any:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, *env.action_space.shape))


def play(env: Any, seed: Any, actions: Any) -> Any:
    """Everything an episode shows: observations, rewards and simulator states."""
    observation, info = env.reset(seed=seed)
    seen = [(observation, 0.0, info["sim_state"])]
    for action in actions:
        observation, reward, _, _, info = env.step(action.astype(np.float32))
        seen.append((observation, reward, info["sim_state"]))
    return seen


def assert_identical(first: Any, second: Any) -> None:
    for (obs_1, reward_1, state_1), (obs_2, reward_2, state_2) in zip(first, second, strict=True):
        assert reward_1 == reward_2
        np.testing.assert_array_equal(state_1, state_2)
        for key in obs_1:
            np.testing.assert_array_equal(obs_1[key], obs_2[key])


@pytest.mark.parametrize("task", TASKS)
def test_spaces_match_what_is_observed(envs: Any, task: Any) -> None:
    env = envs[task]
    for observation, reward, state in play(env, 0, actions_for(env, 5)):
        assert observation in env.observation_space
        assert list(observation) == list(env.observation_space.spaces)
        assert isinstance(reward, float)
        assert state.dtype == np.float64
        assert state.ndim == 1
    assert env.action_space.dtype == np.float32
    assert (env.action_space.low == -1).all()
    assert (env.action_space.high == 1).all()


@pytest.mark.parametrize("task", TASKS)
def test_an_episode_is_a_pure_function_of_its_seed(envs: Any, task: Any) -> None:
    env = envs[task]
    actions = actions_for(env, 20)
    fresh = play(DMControlEnv(task), 1, actions)
    play(env, 7, actions[::-1])
    other = play(env, 8, actions)
    assert_identical(fresh, play(env, 1, actions))
    assert not np.array_equal(fresh[0][2], other[0][2])


@pytest.mark.parametrize("task", [*TASKS, "quadruped_reach"])
def test_an_episode_is_dm_controls_own(task: Any) -> None:
    env, theirs = DMControlEnv(task), load_control(*split_task(task))
    actions = actions_for(env, 50)
    shown = play(env, 5, actions)
    seed = gymnasium.utils.seeding.np_random(5)[0].integers(2**32)
    theirs.task._random = np.random.RandomState(seed)
    theirs.reset()
    for action, (observation, reward, _) in zip(actions, shown[1:], strict=True):
        step = theirs.step(env._to_control(action.astype(np.float32)))
        assert step.reward == reward
        for key, value in step.observation.items():
            np.testing.assert_array_equal(np.float32(value).reshape(-1), observation[key])


def test_a_simulation_that_becomes_unstable_says_so(envs: Any) -> None:
    env = envs["walker_walk"]
    env.reset(seed=0)
    env._env.physics.data.qvel[:] = 1e30
    with pytest.raises(PhysicsError, match="walker_walk: the simulation has become unstable"):
        env.step(np.zeros(6, np.float32))


def test_reset_without_a_seed_continues_the_generator(envs: Any) -> None:
    env = envs["walker_walk"]
    starts = [env.reset(seed=3)[1]["sim_state"], env.reset()[1]["sim_state"]]
    again = [env.reset(seed=3)[1]["sim_state"], env.reset()[1]["sim_state"]]
    np.testing.assert_array_equal(starts, again)
    assert not np.array_equal(starts[0], starts[1])


@pytest.mark.parametrize("task", TASKS)
def test_the_time_limit_truncates_after_1000_control_steps(envs: Any, task: Any) -> None:
    env = envs[task]
    env.reset(seed=0)
    action = np.zeros(env.action_space.shape, np.float32)
    ends = [env.step(action)[2:4] for _ in range(1000)]
    assert ends[:-1] == [(False, False)] * 999
    assert ends[-1] == (False, True)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(action)


def test_lqr_has_a_time_limit_too_and_ends_itself_at_rest() -> None:
    env = DMControlEnv("lqr_lqr_2_1")
    env.reset(seed=0)
    action = np.ones(1, np.float32)
    for _ in range(999):
        assert env.step(action)[2:4] == (False, False)
    assert env.step(action)[2:4] == (False, True)
    env.reset(seed=0)
    with env._env.physics.reset_context():
        env._env.physics.data.qpos[:] = 0
        env._env.physics.data.qvel[:] = 0
    assert env.step(np.zeros(1, np.float32))[2:4] == (True, False)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_actions_reach_the_limits_of_the_actuators(envs: Any, task: Any, side: Any) -> None:
    env = envs[task]
    env.reset(seed=0)
    env.step(np.full(env.action_space.shape, 3 * side, np.float32))  # out of range: clipped
    spec = env._env.action_spec()
    limit = spec.maximum if side > 0 else spec.minimum
    np.testing.assert_array_equal(env._env.physics.data.ctrl, limit)


def test_the_middle_of_the_action_space_is_the_middle_of_an_unequal_range(envs: Any) -> None:
    env = envs["quadruped_walk"]
    spec = env._env.action_spec()
    assert set(spec.maximum) != {1.0}  # the quadruped's actuators differ
    env.reset(seed=0)
    env.step(np.zeros(12, np.float32))
    middle = (spec.minimum + spec.maximum) / 2
    np.testing.assert_allclose(env._env.physics.data.ctrl, middle, atol=1e-12)


def test_actuators_without_a_range_keep_minus_one_to_one() -> None:
    env = DMControlEnv("lqr_lqr_2_1")
    env.reset(seed=0)
    env.step(np.array([0.5], np.float32))
    assert env._env.physics.data.ctrl == pytest.approx([0.5])


@pytest.mark.parametrize("action", [np.zeros(5), np.full(6, np.nan)])
def test_a_bad_action_is_refused(envs: Any, action: Any) -> None:
    env = envs["walker_walk"]
    env.reset(seed=0)
    with pytest.raises(UserError, match="walker_walk"):
        env.step(action)


@pytest.mark.parametrize("task", ["walker_walk", "cheetah_run", "quadruped_walk"])
def test_the_reward_can_be_recomputed_from_stored_states(envs: Any, task: Any) -> None:
    env = envs[task]
    actions = actions_for(env, 50)
    seen = play(env, 5, actions)
    env.reset(seed=6)
    before = env._env.physics.get_state()
    for action, (_, reward, state) in zip(actions, seen[1:], strict=True):
        assert env.reward_at(state, action.astype(np.float32)) == reward
    assert len({reward for _, reward, _ in seen[1:]}) > 10  # not a comparison of zeros
    np.testing.assert_array_equal(env._env.physics.get_state(), before)


def test_recomputing_a_reward_that_needs_more_than_the_state_is_refused() -> None:
    env = DMControlEnv("reacher_easy")
    _, info = env.reset(seed=0)
    with pytest.raises(UserError, match="reacher_easy"):
        env.reward_at(info["sim_state"], np.zeros(2, np.float32))


@pytest.mark.parametrize("repeat", [1, 2, 3])
def test_action_repeat_sums_rewards_and_keeps_every_state(envs: Any, repeat: Any) -> None:
    plain = envs["walker_walk"]
    actions = actions_for(plain, 4)
    seen = play(plain, 2, np.repeat(actions, repeat, axis=0))[1:]
    env = ActionRepeat(plain, repeat)
    _, info = env.reset(seed=2)
    assert info["env_steps"] == 0
    assert info["sim_state"].shape == (repeat, seen[0][2].size)
    assert (info["sim_state"] == info["sim_state"][0]).all()
    for number, action in enumerate(actions):
        inner = seen[number * repeat : (number + 1) * repeat]
        observation, reward, _, _, info = env.step(action.astype(np.float32))
        assert reward == sum(each[1] for each in inner)
        assert info["env_steps"] == repeat
        np.testing.assert_array_equal(info["sim_state"], [each[2] for each in inner])
        for key, value in inner[-1][0].items():
            np.testing.assert_array_equal(observation[key], value)


def test_action_repeat_stops_at_the_end_and_pads_the_states(envs: Any) -> None:
    env = ActionRepeat(envs["cheetah_run"], 7)
    env.reset(seed=0)
    action = env.action_space.sample()
    steps = []
    truncated = False
    while not truncated:
        *_, truncated, info = env.step(action)
        steps.append(info["env_steps"])
    assert steps == [7] * 142 + [6]
    states = info["sim_state"]
    np.testing.assert_array_equal(states[6], states[5])
    assert all(not np.array_equal(states[row], states[row + 1]) for row in range(5))


class Counter(gymnasium.Env):
    """Pays 1, 2, 3, … and terminates after the fifth step; knows no simulator."""

    observation_space = gymnasium.spaces.Discrete(6)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.count = 0
        return 0, {}

    def step(self, action: Any) -> Any:
        self.count += 1
        return self.count, self.count, self.count == 5, False, {"count": self.count}


def test_action_repeat_works_for_any_environment() -> None:
    env = ActionRepeat(Counter(), 2)
    assert env.reset() == (0, {"env_steps": 0})
    assert env.step(0) == (2, 3.0, False, False, {"count": 2, "env_steps": 2})
    assert env.step(0) == (4, 7.0, False, False, {"count": 4, "env_steps": 2})
    assert env.step(0) == (5, 5.0, True, False, {"count": 5, "env_steps": 1})


def test_make_env_repeats_twice_by_default() -> None:
    env = make_env("ball_in_cup_catch")
    env.reset(seed=0)
    assert env.step(env.action_space.sample())[4]["env_steps"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "walker_wlak"}, "walker_walk.*task_names"),
        ({"task": "nonsense"}, "nonsense.*task_names"),
        ({"task": "walker_walk", "obs": "sound"}, "walker_walk.*proprio or pixels.*sound"),
        ({"task": "walker_walk", "action_repeat": 0}, "walker_walk.*at least 1.*0"),
        ({"task": "walker_walk", "render_quality": "best"}, "walker_walk.*faithful.*best"),
    ],
)
def test_wrong_arguments_are_explained(arguments: Any, message: Any) -> None:
    with pytest.raises(UserError, match=message):
        make_env(**arguments)


def test_every_name_of_the_suite_finds_its_domain_and_task() -> None:
    assert split_task("humanoid_CMU_run") == ("humanoid_CMU", "run")
    assert split_task("ball_in_cup_catch") == ("ball_in_cup", "catch")
    names = task_names()
    assert len(names) == len(set(names)) > 40
    assert all("_".join(split_task(name)) == name for name in names)


def test_pixels_show_the_state() -> None:
    if (problem := rendering_problem()) is not None:
        pytest.skip(problem)
    env: Any = make_env("walker_walk", obs="pixels")
    observation, _ = env.reset(seed=0)
    first = observation["image"].copy()
    assert observation in env.observation_space
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    assert first.std() > 5  # something is to be seen
    for _ in range(5):
        observation, *_ = env.step(env.action_space.high)
    assert not np.array_equal(first, observation["image"])
    np.testing.assert_array_equal(first, env.reset(seed=0)[0]["image"])
    frame = env.render()
    assert frame.shape == (256, 256, 3)
    assert frame.dtype == np.uint8


WITHOUT_GL = """
import json
import os
import sys

# All that takes long to import and reads none of the variables: each case is a fork of this.
import gymnasium
import lsp.config
import scipy.ndimage


def show():
    from lsp.envs import make_env, rendering_problem
    from lsp.errors import UserError

    env = make_env("cartpole_balance")
    env.reset(seed=0)
    env.step(env.action_space.high)
    print(rendering_problem())
    for attempt in (env.render, lambda: make_env("cartpole_balance", obs="pixels")):
        try:
            attempt()
        except UserError as error:
            print(error)


assert not {"mujoco", "dm_control", "OpenGL"} & sys.modules.keys()
for number, variables in enumerate(json.loads(sys.argv[1])):
    child = os.fork()
    if not child:
        os.environ.update(variables)
        with open(f"{sys.argv[2]}/{number}", "w") as sys.stdout:
            show()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, variables
"""

NO_DRIVER = {"__EGL_VENDOR_LIBRARY_DIRS": "/nonexistent"}  # the EGL loader finds none
GL_CASES: list[tuple[dict[str, str], str]] = [
    ({"MUJOCO_GL": "disabled"}, "MUJOCO_GL"),
    # Asked for and not asked for.
    (NO_DRIVER | {"MUJOCO_GL": "egl"}, "apt-get install"),
    (NO_DRIVER | {"MUJOCO_GL": ""}, "apt-get install"),
    # Variables that a cluster or a script sets.
    ({"MUJOCO_GL": "bogus"}, "MUJOCO_GL=bogus is none of egl, osmesa, glfw"),
    ({"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "egl"}, "PYOPENGL_PLATFORM=egl keeps osmesa"),
    ({"MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "bogus"}, "PYOPENGL_PLATFORM=bogus keeps egl"),
    ({"MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "77"}, "MUJOCO_EGL_DEVICE_ID=77 is no EGL"),
    ({"MUJOCO_GL": " EGL", "MUJOCO_EGL_DEVICE_ID": "a"}, "MUJOCO_EGL_DEVICE_ID=a is no EGL"),
]


@pytest.fixture(scope="module")
def said_without_gl(tmp_path_factory: Any) -> Any:
    """What is printed in each of GL_CASES, in processes of their own."""
    folder = tmp_path_factory.mktemp("gl")
    cases = json.dumps([variables for variables, _ in GL_CASES])
    # Each case says by itself what it wants.
    named = {"MUJOCO_GL", "PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID"}
    environment = {key: x for key, x in os.environ.items() if key not in named}
    command = [sys.executable, "-c", WITHOUT_GL, cases, str(folder)]
    subprocess.run(command, env=environment, timeout=240, check=True)
    return [(folder / str(number)).read_text().splitlines() for number in range(len(GL_CASES))]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux chooses a backend")
@pytest.mark.parametrize("number", range(len(GL_CASES)), ids=[str(x) for x, _ in GL_CASES])
def test_without_opengl_all_but_rendering_works(number: int, said_without_gl: Any) -> None:
    (variables, expected), (problem, *errors) = GL_CASES[number], said_without_gl[number]
    if problem == "None" and variables["MUJOCO_GL"] == "":
        pytest.skip("another backend than EGL renders here")
    assert expected in problem
    assert errors == [f"cartpole_balance: {problem}"] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux chooses a backend")
def test_another_process_says_why_as_well() -> None:
    program = "import lsp.envs, subprocess, sys; subprocess.run([sys.executable, '-c', "
    program += "'from lsp.envs import rendering_problem; print(rendering_problem())'])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "MUJOCO_GL": "bogus"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "MUJOCO_GL=bogus is none of" in done.stdout


def test_making_a_task_says_nothing() -> None:
    """cheetah's model has MuJoCo warn its authors; a user's screen is for what a user can mend."""
    program = "from lsp.envs import make_env; make_env('cheetah_run')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""


@pytest.mark.skipif(rendering_problem() is not None, reason=str(rendering_problem()))
def test_what_a_closed_environment_rendered_with_is_no_other_threads_matter(
    monkeypatch: Any,
) -> None:
    problems: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", problems.append)
    env = make_env("quadruped_upright_walk")
    env.reset(seed=0)
    env.render()
    env.close()
    circle: list[Any] = [env]
    circle.append(circle)  # which the garbage collector alone undoes, in whatever thread
    del env, circle
    collecting = threading.Thread(target=gc.collect)
    collecting.start()
    collecting.join()
    assert problems == []
