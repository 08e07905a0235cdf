"""Evaluation: no noise, the same questions to all, one row of results for each episode."""

from typing import Any

import gymnasium
import numpy as np
import torch
from builders import make_networks

from lsp.training.evaluation import evaluate


class Target(gymnasium.Env):
    """A point that starts anywhere and moves by the action; episode i lasts as long as it says."""

    made: list["Target"] = []  # noqa: RUF012
    observation_space = gymnasium.spaces.Dict(
        {"position": gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)}
    )
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self) -> None:
        self.length, self.closed = 3 + len(Target.made), False
        Target.made.append(self)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.began = self.position = self.np_random.uniform(-1, 1)
        self.time = 0
        return self._observe(), {"env_steps": 0}

    def step(self, action: Any) -> Any:
        self.position += float(action[0])
        self.time += 1
        info = {"env_steps": 2, "success": self.time == 2 and self.length == 4}
        return self._observe(), self.position, False, self.time == self.length, info

    def _observe(self) -> Any:
        return {"position": np.array([self.position], np.float32)}

    def close(self) -> None:
        self.closed = True


def make_pointed(method: Any = "lsp", **parts: Any) -> Any:
    """Networks for the task above."""
    return make_networks(method, {"position": (1,)}, 1, **parts)


def run(networks: Any, seed: Any = 0, episodes: Any = 3) -> Any:
    Target.made = []
    return evaluate(networks, Target, episodes, seed)


def test_no_noise_is_added_to_plans_or_actions() -> None:
    quiet = make_pointed(planner={"mean_noise": 0.0}, policy={"exploration_noise": 0.0})
    loud = make_pointed(planner={"mean_noise": 9.0}, policy={"exploration_noise": 9.0})
    assert np.array_equal(run(quiet).returns, run(loud).returns)


def test_actions_are_those_of_the_mode_of_the_policy() -> None:
    # The policy's spread is seen by the planner's rollouts alone; without skills there are none.
    networks = make_pointed("dreamer")
    with torch.no_grad():
        networks.policy.net[-1].weight.zero_()
        networks.policy.net[-1].bias.copy_(torch.tensor([0.3, 2.0]))
    outcome = run(networks, episodes=1)
    action = np.tanh(5 * np.tanh(0.3 / 5))
    steps = np.arange(1, 4) * action
    assert np.isclose(outcome.returns[0], (Target.made[0].began + steps).sum(), atol=1e-5)


def test_each_episode_ends_when_its_env_does() -> None:
    outcome = run(make_pointed())
    assert outcome.lengths.tolist() == [6, 8, 10]
    assert outcome.success is not None
    assert outcome.success.tolist() == [0.0, 1.0, 0.0]
    assert all(env.closed for env in Target.made)
    metrics = outcome.metrics()
    assert metrics["eval/episodes"] == 3
    assert np.isclose(metrics["eval/return"], outcome.returns.mean())
    assert np.isclose(metrics["eval/std"], outcome.returns.std())
    assert np.isclose(metrics["eval/success"], 1 / 3)


def test_every_agent_is_asked_the_same_questions() -> None:
    began = []
    for seed in (0, 1):
        run(make_pointed(), seed)
        began.append([env.began for env in Target.made])
    assert began[0] == began[1]
    assert len(set(began[0])) == 3


def test_many_episodes_are_not_all_there_at_once(monkeypatch: Any) -> None:
    networks = make_pointed()
    whole = run(networks, episodes=5)
    monkeypatch.setattr("lsp.training.evaluation.MOST_AT_ONCE", 2)
    open_at_once: list[int] = []
    parted = evaluate_counting(networks, open_at_once)
    assert max(open_at_once) == 2
    assert [len(x) for x in parted] == [5, 5, 5]
    np.testing.assert_array_equal(parted.lengths, whole.lengths)
    np.testing.assert_array_equal(parted.success, whole.success)


def evaluate_counting(networks: Any, counts: Any) -> Any:
    def make() -> Any:
        target = Target()
        counts.append(sum(not each.closed for each in Target.made))
        return target

    Target.made = []
    return evaluate(networks, make, 5)
