"""Every task of the paper's experiments, from proprioception and from pixels."""

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from lsp.envs import make_env, rendering_problem
from lsp.envs.arena import (
    CLEARANCE,
    COVE,
    COVE_GOAL,
    LINE,
    OBSTACLE_RADIUS,
    OBSTACLE_SPACING,
    RANGE_LIMIT,
    TASKS,
    ranges,
)
from lsp.envs.dmc import DMControlEnv
from lsp.envs.quadruped import GOAL_RADIUS, REACH_MARGIN, Measurements
from lsp.report.plots import STANDING_STILL
from lsp.tasks import PAPER_TASKS, ids

CASES = [pytest.param(task, obs, id=f"{task}-{obs}") for _, task, obs in ids()]
# How pictures are made depends on the body alone, and on whether an arena of ours is around it.
SEEN = ("walker_walk", "cheetah_run", "hopper_hop", "quadruped_walk", "quadruped_cove")
DIFFERENT = [x for x in CASES if x.values[1] == "proprio" or x.values[0] in SEEN]
SPEED, CONTROL_STEP = 0.5, 0.02  # metres a second, seconds
WIDTH = 1.34  # metres from the quadruped's left toes to its right ones
# Families of tasks between which an agent is transferred.
GOAL = [name for name in TASKS if not TASKS[name].sees_obstacles]
OBSTACLES = [name for name in TASKS if TASKS[name].sees_obstacles]


@pytest.fixture(scope="module")
def env_of() -> Any:
    """One environment per task and kind of observation, shared: building one is the slow part."""
    made = {}

    def get(task: Any, obs: Any = "proprio") -> Any:
        if obs == "pixels" and (problem := rendering_problem()) is not None:
            pytest.skip(problem)
        if (task, obs) not in made:
            made[task, obs] = DMControlEnv(task, obs)
        return made[task, obs]

    yield get
    for env in made.values():
        env.close()


def play(env: Any, seed: Any, steps: Any, actions_seed: Any = 0) -> Any:
    """Observations, rewards and simulator states of some random steps."""
    rng = np.random.default_rng(actions_seed)
    observation, info = env.reset(seed=seed)
    seen = [(observation, 0.0, info["sim_state"])]
    for _ in range(steps):
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        observation, reward, _, _, info = env.step(action)
        seen.append((observation, reward, info["sim_state"]))
    return seen


def same(one: Any, other: Any) -> Any:
    return all(
        x[1] == y[1]
        and np.array_equal(x[2], y[2])
        and all(np.array_equal(x[0][key], y[0][key]) for key in x[0])
        for x, y in zip(one, other, strict=True)
    )


@pytest.mark.parametrize(("name", "task", "obs"), ids())
def test_gymnasium_makes_and_checks_it(name: Any, task: Any, obs: Any) -> None:
    if obs == "pixels" and (problem := rendering_problem()) is not None:
        pytest.skip(problem)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for bound in ("minimum", "maximum"):
            message = rf".*Box observation space {bound} value is -?infinity.*"
            warnings.filterwarnings("ignore", message=message)
        env: Any = gymnasium.make(name)
        assert (env.unwrapped.task, env.unwrapped.obs) == (task, obs)
        if obs == "proprio" or task in SEEN:
            check_env(env.unwrapped, skip_render_check=obs == "proprio")  # the renderer is the same
        env.close()


@pytest.mark.parametrize(("task", "obs"), CASES)
def test_what_is_observed_fits_the_spaces(env_of: Any, task: Any, obs: Any) -> None:
    env = env_of(task, obs)
    for observation, reward, _ in play(env, 0, 8):
        assert observation in env.observation_space
        assert list(observation) == list(env.observation_space.spaces)
        assert all(np.isfinite(value).all() for value in observation.values())
        assert 0 <= reward <= 1
    frame = env.render()
    assert (frame.shape, frame.dtype) == ((256, 256, 3), np.uint8)
    assert frame.std() > 5


@pytest.mark.parametrize(("task", "obs"), CASES)
def test_the_seed_alone_decides_an_episode(env_of: Any, task: Any, obs: Any) -> None:
    env = env_of(task, obs)
    first = play(env, 1, 6)
    other = play(env, 2, 6)  # begun in the middle of an episode
    assert same(first, play(env, 1, 6))
    assert same(first, play(DMControlEnv(task, obs), 1, 6))
    assert not same(first, other)


@pytest.mark.parametrize(("task", "obs"), DIFFERENT)
def test_two_environments_share_nothing(env_of: Any, task: Any, obs: Any) -> None:
    env, twin = env_of(task, obs), DMControlEnv(task, obs)
    alone = play(env, 3, 6)
    rng = np.random.default_rng(0)
    together = [env.reset(seed=3)]
    twin.reset(seed=4)
    for _ in range(6):
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        twin.step(-action)
        together.append(env.step(action))
    assert all(
        np.array_equal(x[2], y[-1]["sim_state"]) for x, y in zip(alone, together, strict=True)
    )


def episode_of(env: Any) -> Any:
    """Env steps of each action of a whole episode, which a time limit ends."""
    env.reset(seed=0)
    taken, truncated = [], False
    while not truncated:
        _, _, terminated, truncated, info = env.step(np.zeros(env.action_space.shape, np.float32))
        taken.append(info["env_steps"])
        assert not terminated
    return taken


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_an_episode_lasts_1000_env_steps(task: Any) -> None:
    env = make_env(task, "proprio", 7)
    assert episode_of(env) == [7] * 142 + [6]
    env.close()


# The clock does not depend on the task.
@pytest.mark.parametrize("repeat", [1, 2, 7, 100])
@pytest.mark.parametrize("obs", ["proprio", "pixels"])
@pytest.mark.parametrize("task", ["walker_walk", "quadruped_cove"])
def test_an_episode_lasts_as_many_env_steps_however_long_an_action_is_held(
    env_of: Any, short_episodes: Any, task: Any, obs: Any, repeat: Any
) -> None:
    env_of(task, obs)  # skips where nothing can be rendered
    env = make_env(task, obs, repeat)
    taken = episode_of(env)
    assert sum(taken) == 100
    assert set(taken[:-1]) <= {repeat}
    assert len(taken) == -(-100 // repeat)
    env.close()


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_a_whole_episode_is_paid_again_from_its_states(env_of: Any, task: Any) -> None:
    env = env_of(task)
    rng = np.random.default_rng(0)
    env.reset(seed=5)
    actions, rewards, states = [], [], []
    for _ in range(300):
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        _, reward, _, _, info = env.step(action)
        actions.append(action)
        rewards.append(reward)
        states.append(info["sim_state"])
    again = env.reward_at(np.stack(states), np.stack(actions))
    np.testing.assert_array_equal(again, rewards)
    assert env.reward_at(states[7], actions[7]) == rewards[7]


@pytest.mark.parametrize("obs", ["proprio", "pixels"])
@pytest.mark.parametrize("family", [GOAL, OBSTACLES], ids=["goal", "obstacles"])
def test_a_family_has_one_observation_space(env_of: Any, family: Any, obs: Any) -> None:
    first, *others = (env_of(task, obs) for task in family)
    for env in others:
        assert env.observation_space == first.observation_space
        assert env.action_space == first.action_space
    assert "goal" in first.observation_space.spaces


def test_getup_walk_is_the_suites_walk_with_a_goal_observed(env_of: Any) -> None:
    ours, suites = env_of("quadruped_getup_walk"), env_of("quadruped_walk")
    rng = np.random.default_rng(0)
    ours.reset(seed=0)
    rewards = []
    for _ in range(200):
        action = rng.uniform(-1, 1, 12).astype(np.float32)
        observation, reward, _, _, info = ours.step(action)
        physics_state = info["sim_state"][:57]
        assert reward == pytest.approx(float(suites.reward_at(physics_state, action)), abs=1e-12)
        rewards.append(reward)
    assert np.ptp(rewards) > 0.01
    assert set(observation) - {"goal"} == set(suites.observation_space.spaces)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_measured_is_what_the_simulator_says(env_of: Any, task: Any) -> None:
    env = env_of(task)
    seen = play(env, 6, 40)
    physics = env._env.physics
    observation, _, state = seen[-1]
    now = Measurements(state)
    assert now.upright == pytest.approx(float(physics.torso_upright()))
    assert now.forward_speed == pytest.approx(physics.torso_velocity()[0])
    np.testing.assert_allclose(now.goal, physics.named.data.site_xpos["goal"])
    distance, *aside = observation["goal"]
    assert distance == pytest.approx(np.linalg.norm((now.goal - now.position)[:2]), rel=1e-5)
    assert distance == pytest.approx(np.linalg.norm(aside), rel=1e-5)
    front = physics.named.data.xmat["torso"].reshape(3, 3)[:, 0]
    assert now.heading == pytest.approx(np.arctan2(front[1], front[0]))
    for number, place in enumerate(now.obstacles):
        stands = physics.named.data.geom_xpos[f"obstacle_{number}"]
        np.testing.assert_allclose(stands, [*place, 0.5])
    np.testing.assert_array_equal(now.joint_angles, physics.data.qpos[7:])
    np.testing.assert_array_equal(now.joint_velocities, physics.data.qvel[6:])


@pytest.mark.parametrize("roll", [0, 1.0, 3.0])
def test_the_goal_is_seen_along_the_robots_heading_however_it_lies(env_of: Any, roll: Any) -> None:
    env = env_of("quadruped_cove")
    env.reset(seed=0)
    physics = env._env.physics
    facing_y, rolled = np.sqrt(0.5), (np.cos(roll / 2), np.sin(roll / 2))
    orientation = facing_y * np.array([rolled[0], rolled[1], rolled[1], rolled[0]])
    physics.data.qpos[:7] = [1.0, -1.0, 0.5, *orientation]
    physics.forward()
    right = COVE_GOAL[0] - 1  # of whoever faces along +y
    expected = [np.hypot(1, right), 1, -right]
    np.testing.assert_allclose(env.observe()["goal"], expected, rtol=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_starts_are_upright_or_any_way_up(env_of: Any, task: Any) -> None:
    env = env_of(task)
    upright = [float(Measurements(env.reset(seed=s)[1]["sim_state"]).upright) for s in range(12)]
    if TASKS[task].upright:
        assert min(upright) > 0.98
    else:
        assert min(upright) < 0 < max(upright)


@pytest.mark.parametrize("task", ["quadruped_obstacles_walk", "quadruped_obstacles_reach"])
def test_random_obstacles_leave_room(env_of: Any, task: Any) -> None:
    env = env_of(task)
    arenas = [Measurements(env.reset(seed=s)[1]["sim_state"]) for s in range(10)]
    for now in arenas:
        places = now.obstacles
        gaps = np.linalg.norm(places[:, None] - places[None], axis=-1)
        assert gaps[~np.eye(len(places), dtype=bool)].min() > OBSTACLE_SPACING
        for centre in (np.zeros(2), now.goal[:2]):
            assert np.linalg.norm(places - centre, axis=-1).min() > CLEARANCE
    assert not np.array_equal(arenas[0].obstacles, arenas[1].obstacles)


@pytest.mark.parametrize("task", ["quadruped_line", "quadruped_cove"])
def test_fixed_arenas_are_the_same_in_every_episode(env_of: Any, task: Any) -> None:
    env = env_of(task)
    one, other = (Measurements(env.reset(seed=s)[1]["sim_state"]) for s in (0, 1))
    np.testing.assert_array_equal(one.obstacles, other.obstacles)
    np.testing.assert_array_equal(one.goal, other.goal)
    np.testing.assert_allclose(one.obstacles, COVE if task.endswith("cove") else LINE)


def test_range_finders() -> None:
    wall = np.array([[2.0, 0.0], [0.0, 3.0], [40.0, 0.0]])
    found = ranges(np.zeros(2), 0.0, wall)
    assert found[0] == pytest.approx(2 - OBSTACLE_RADIUS)
    assert found[4] == pytest.approx(3 - OBSTACLE_RADIUS)  # a quarter turn to the left
    assert (np.delete(found, [0, 4]) == RANGE_LIMIT).all()
    turned = ranges(np.zeros(2), np.pi / 2, wall)
    assert turned[0] == pytest.approx(found[4])
    assert turned[12] == pytest.approx(found[0])
    assert (ranges(np.zeros(2), 0.0, np.zeros((0, 2))) == RANGE_LIMIT).all()


def test_reaching_is_paid_linearly_in_the_distance(env_of: Any) -> None:
    env = env_of("quadruped_reach")
    states = np.tile(env.reset(seed=0)[1]["sim_state"], (4, 1))
    states[:, 3:7] = [1, 0, 0, 0]
    states[:, :2] = states[:, 57:59]
    states[:, 0] += GOAL_RADIUS + REACH_MARGIN * np.array([0, 0.5, 1, 2])
    rewards = env.reward_at(states, np.zeros((4, 12)))
    np.testing.assert_allclose(rewards, [1, 0.5, 0, 0], atol=1e-6)


def test_walking_straight_pays_far_more_than_standing_still() -> None:
    """Row by row: where a robot at walking speed would be, and one that never moves."""
    env = DMControlEnv("quadruped_reach")
    idle, walking = [], []
    for seed in range(20):
        start = env.reset(seed=seed)[1]["sim_state"]
        start[3:7] = [1, 0, 0, 0]
        actions = np.zeros((1000, 12))
        states = np.tile(start, (1000, 1))
        idle.append(env.reward_at(states, actions).sum())
        goal = start[57:59]
        distance = np.linalg.norm(goal)
        along = np.minimum(SPEED * CONTROL_STEP * np.arange(1, 1001), distance)
        states[:, :2] = along[:, None] * goal / distance
        walking.append(env.reward_at(states, actions).sum())
    assert np.mean(idle) < 400
    assert np.mean(walking) > 700


@pytest.mark.parametrize("task", sorted(STANDING_STILL.keys() & TASKS.keys()))
def test_standing_still_earns_what_curves_are_drawn_against(env_of: Any, task: Any) -> None:
    env, earned = env_of(task), []
    for seed in range(60):
        state = env.reset(seed=seed)[1]["sim_state"]
        state[3:7] = [1, 0, 0, 0]
        earned.append(1000 * env.reward_at(state[None], np.zeros((1, 12))).item())
    assert np.mean(earned) == pytest.approx(STANDING_STILL[task], rel=0.1)


class Probe:
    """A quadruped whose root is moved at walking speed and stops where it would touch a wall."""

    def __init__(self) -> None:
        self.env = DMControlEnv("quadruped_cove")
        self.env.reset(seed=0)
        self.physics = self.env._env.physics
        self.place = np.zeros(2)
        self.steps = 0
        self.earned: list[Any] = []

    def walk_to(self, target: Any, give_up: Any = 1000) -> None:
        """Head for `target` until there, or the episode is over."""
        while np.linalg.norm(target - self.place) > SPEED * CONTROL_STEP and self.steps < give_up:
            way = target - self.place
            self._stand_at(self.place + SPEED * CONTROL_STEP * way / np.linalg.norm(way), way)
            if self._touches():
                self._stand_at(self.place, way)
            else:
                self.place = self.physics.data.qpos[:2].copy()
            _, reward, _, _, info = self.env.step(np.zeros(12, np.float32))
            self.steps += 1
            self.earned.append(reward)
            if info["success"]:
                return

    def _stand_at(self, place: Any, way: Any) -> None:
        half = np.arctan2(way[1], way[0]) / 2
        self.physics.data.qpos[:7] = [*place, 0.5, np.cos(half), 0, 0, np.sin(half)]
        self.physics.data.qpos[7:] = 0
        self.physics.data.qvel[:] = 0
        self.physics.forward()

    def _touches(self) -> Any:
        names = self.physics.model.id2name
        touching = self.physics.data.contact
        ids = {int(each) for pair in (touching.geom1, touching.geom2) for each in pair}
        return any(names(each, "geom").startswith("obstacle") for each in ids)


def test_the_straight_way_into_the_cove_is_a_dead_end() -> None:
    probe = Probe()
    probe.walk_to(np.array(COVE_GOAL), give_up=990)
    assert probe.steps == 990
    assert sum(probe.earned) == 0
    stuck = np.linalg.norm(np.array(COVE_GOAL) - probe.place)
    # From where it is stuck, the way out leads farther from the goal.
    around = np.array(COVE[0]) - [0, OBSTACLE_RADIUS + WIDTH / 2]
    assert GOAL_RADIUS + 1 < stuck < np.linalg.norm(np.array(COVE_GOAL) - around) - 0.2


@pytest.mark.parametrize("side", [-1, 1])
def test_the_detour_around_the_cove_takes_less_than_600_steps(side: Any) -> None:
    probe = Probe()
    for point in [(0.5, 2.0 * side), (2.2, 2.0 * side), COVE_GOAL]:
        probe.walk_to(np.array(point), give_up=600)
    assert probe.steps < 600
    assert probe.earned[-1] == 1


def test_success_lasts_for_the_episode() -> None:
    env = DMControlEnv("quadruped_cove")
    _, info = env.reset(seed=0)
    assert info["success"] is False
    action = np.zeros(12, np.float32)
    env._env.physics.data.qpos[:2] = COVE_GOAL
    assert env.step(action)[4]["success"] is True
    env._env.physics.data.qpos[:2] = 0, 0
    _, reward, _, _, info = env.step(action)
    assert (reward, info["success"]) == (0, True)
    assert env.reset(seed=0)[1]["success"] is False


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_success_is_reported_where_there_is_a_goal_to_seek(env_of: Any, task: Any) -> None:
    _, info = env_of(task).reset(seed=0)
    seeks = task in TASKS and TASKS[task].seeks_goal
    assert ("success" in info) == seeks
