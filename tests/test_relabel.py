"""Old episodes paid for another task: the arithmetic, on the simulator's own rewards."""

from typing import Any

import numpy as np
import pytest

from lsp.envs import make_env
from lsp.envs.dmc import load_control
from lsp.training.relabel import by_states, relabelled, rewards_of


def play(task: Any, steps: Any, repeat: Any = 2, seed: Any = 0) -> Any:
    """An episode as the replay stores it, and its environment."""
    env: Any = make_env(task, action_repeat=repeat)
    rng = np.random.default_rng(seed)
    _, info = env.reset(seed=seed)
    rows = [(np.zeros(env.action_space.shape, np.float32), 0.0, info)]
    for _ in range(steps):
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        _, reward, _, _, info = env.step(action)
        rows.append((action, reward, info))
    actions, rewards, infos = zip(*rows, strict=True)
    return {
        "action": np.stack(actions),
        "reward": np.array(rewards, np.float32),
        "sim_state": np.stack([info["sim_state"] for info in infos]),
        "env_steps": np.array([info["env_steps"] for info in infos], np.int32),
    }


@pytest.mark.parametrize(
    ("before", "after"),
    [("walker_walk", "walker_run"), ("quadruped_upright_walk", "quadruped_reach")],
)
def test_relabelled_rewards_are_what_the_target_pays_for_these_states(
    tmp_path: Any, before: Any, after: Any
) -> None:
    episode = play(before, 30)
    paid = relabelled(episode, rewards_of(make_env(after), after), tmp_path)["reward"]
    env = load_control(*after.split("_", 1))
    env.reset()
    for t in range(1, 31):
        total = 0.0
        for state in episode["sim_state"][t]:
            if hasattr(env.task, "goal"):
                env.task.goal[:] = state[57:60]
                state = state[:57]
            with env.physics.reset_context():
                env.physics.set_state(state)
            total += float(env.task.get_reward(env.physics))
        assert paid[t] == pytest.approx(total, rel=1e-6)
    assert paid[0] == 0
    assert not np.allclose(paid, episode["reward"])


def test_relabelling_for_the_same_task_changes_nothing(tmp_path: Any) -> None:
    for task, repeat in (("walker_walk", 2), ("quadruped_obstacles_reach", 3)):
        episode = play(task, 20, repeat)
        again = relabelled(episode, rewards_of(make_env(task), task), tmp_path)
        np.testing.assert_array_equal(again["reward"], episode["reward"])


def test_control_steps_after_the_end_are_not_paid(tmp_path: Any) -> None:
    episode = play("walker_walk", 5, repeat=4)
    episode["env_steps"][-1] = 1  # ended within the last action
    paid = relabelled(episode, by_states(lambda states, actions: np.ones(len(states))), tmp_path)[
        "reward"
    ]
    assert paid.tolist() == [0, 4, 4, 4, 4, 1]


def forward(states: Any, actions: Any) -> Any:
    """The direction of movement, which a state at rest has not."""
    with np.errstate(invalid="ignore"):
        return states[:, 9] / np.abs(states[:, 9])


def test_a_reward_need_not_be_defined_where_nothing_is_paid(tmp_path: Any) -> None:
    episode = play("walker_walk", 5, repeat=4)
    episode["sim_state"][0] = 0
    env = make_env("walker_walk", reward="test_relabel:forward")
    paid = relabelled(episode, rewards_of(env, "walker_walk"), tmp_path)["reward"]
    assert np.isfinite(paid).all()
    assert paid[0] == 0
