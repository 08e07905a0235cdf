"""Rewards to ask of a trained agent: each pays for what it says."""

from typing import Any

import numpy as np
import pytest

from lsp.envs import make_env
from lsp.rewards import quadruped, walker

NO_ACTIONS = np.zeros((1, 12))


def seen(**changes: Any) -> Any:
    """What an upright quadruped at rest observes, 5 m from a goal, but for some numbers."""
    upright: Any = {"torso_upright": [[1.0]], "torso_velocity": [[0.0, 0, 0]], "imu": [[0.0] * 6]}
    return {k: np.array(x) for k, x in (upright | {"goal": [[5.0, 0, 5]]} | changes).items()}


@pytest.mark.parametrize(
    ("name", "does", "does_not"),
    [
        ("reach", {"goal": [[0.4, 0, 0]]}, {"goal": [[9.0, 0, 0]]}),
        ("turn_left", {"imu": [[0, 0, 9, 0, 0, 0.5]]}, {"imu": [[0, 0, 9, 0, 0, -0.5]]}),
        ("turn_right", {"imu": [[0, 0, 9, 0, 0, -0.5]]}, {"imu": [[0, 0, 9, 0, 0, 0.5]]}),
        ("walk_backwards", {"torso_velocity": [[-0.5, 0, 0]]}, {"torso_velocity": [[0.5, 0, 0]]}),
        ("walk_sideways", {"torso_velocity": [[0, 0.5, 0]]}, {"torso_velocity": [[0.5, 0, 0]]}),
        ("walk_slowly", {"torso_velocity": [[0.2, 0, 0]]}, {"torso_velocity": [[0.5, 0, 0]]}),
        ("stand", {}, {"torso_velocity": [[2.0, 0, 0]]}),
    ],
)
def test_a_quadruped_is_paid_for_what_the_name_says(name: Any, does: Any, does_not: Any) -> None:
    reward = getattr(quadruped, name)
    assert reward(seen(**does), NO_ACTIONS) == pytest.approx([1.0])
    assert reward(seen(**does_not), NO_ACTIONS) == pytest.approx([0.0], abs=1e-6)
    fallen = reward(seen(torso_upright=[[-1.0]], **does), NO_ACTIONS)
    assert fallen == pytest.approx([0.0])


def test_what_is_read_is_where_the_environment_shows_it() -> None:
    """Signs and places, against the simulator: a body that is pushed."""
    env: Any = make_env("quadruped_reach", reward=quadruped.turn_left)
    inner = env.unwrapped
    for name, index, value in (("turn_left", 5, 2.0), ("walk_sideways", 1, 1.0)):
        env.reset(seed=0)
        inner._physics.data.qvel[index] = value  # free joint: linear, then angular in its own frame
        inner._physics.forward()
        rows = {key: x[None].astype(np.float64) for key, x in inner.observe().items()}
        assert getattr(quadruped, name)(rows, NO_ACTIONS)[0] > 0.9
    env.reset(seed=0)
    state = env.step(np.zeros(12, np.float32))[4]["sim_state"][:1]
    assert quadruped.crouch(state, NO_ACTIONS)[0] < 0.5
    state[:, 2] = 0.25
    assert quadruped.crouch(state, NO_ACTIONS)[0] > 0.9


def test_reach_is_what_its_task_pays() -> None:
    env: Any = make_env("quadruped_reach", reward=quadruped.reach)
    env.reset(seed=0)
    for _ in range(5):
        _, paid, _, _, info = env.step(env.action_space.sample())
        own = make_env(
            "quadruped_reach"
        ).unwrapped.reward_at(  # type: ignore[attr-defined]
            info["sim_state"][-1:], NO_ACTIONS
        )
        assert paid == pytest.approx(2 * own[0], rel=1e-4)


def test_a_walker_is_paid_for_what_the_name_says() -> None:
    env: Any = make_env("walker_stand")
    inner = env.unwrapped

    def pays(reward: Any, **places: Any) -> float:
        env.reset(seed=0)
        names = inner._physics.named.data
        names.qpos[:], names.qvel[:] = 0, 0
        for place, value in places.items():
            kind, joint = place.split("_")
            getattr(names, kind)[joint] = value
        inner._physics.forward()
        rows = {key: x[None].astype(np.float64) for key, x in inner.observe().items()}
        return float(reward(rows, np.zeros((1, 6)))[0])

    assert pays(walker.stand) == pytest.approx(1)
    assert pays(walker.stand, qvel_rootx=2.0) < 0.1
    assert pays(walker.walk_backwards, qvel_rootx=-1.0) == pytest.approx(1)
    assert pays(walker.walk_backwards, qvel_rootx=1.0) == 0
    assert pays(walker.hop, qvel_rootz=1.0) == pytest.approx(1)
    assert pays(walker.hop) == 0
    assert pays(walker.lean, qpos_rooty=0.5) > 0.9  # turned forwards
    assert pays(walker.lean, qpos_rooty=-0.5) == 0
