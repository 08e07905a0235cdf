"""Evaluation: no noise, the same questions to all, one row of results for each episode."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from builders import make_networks

from lsp.algorithm.agent import Agent
from lsp.errors import UserError
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


class Sides(gymnasium.Env):
    """Episode i has a side of 1, 2 or 4, its number, and lasts as many steps; the reward is the
    action where it has the side's sign, and costs as much elsewhere."""

    made: list["Sides"] = []  # noqa: RUF012
    observation_space = Target.observation_space
    action_space = gymnasium.spaces.Box(-9, 9, (1,), np.float32)
    sides = (1, -2, 4)

    def __init__(self) -> None:
        self.side = self.sides[len(Sides.made) % 3]
        Sides.made.append(self)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.time = 0
        return {"position": np.array([self.side], np.float32)}, {"env_steps": 0}

    def step(self, action: Any) -> Any:
        self.time += 1
        reward = float(np.sign(self.side) * action[0])
        observation = {"position": np.array([self.side], np.float32)}
        return observation, reward, False, self.time == abs(self.side), {"env_steps": 1}


class SideAgent:
    """Plans its episode's side times 10, plus the time, as a skill; and does what its skill is."""

    def __init__(self, count: int):
        self.skill, self.time, self.planned = torch.zeros(count, 1), 0, 0

    def act(self, observation: Any, skill: Any = None) -> Any:
        if skill is None:
            self.planned += 1
            skill = 10 * observation["position"] + self.time
        self.skill = torch.as_tensor(np.array(skill))
        self.time += 1
        return self.skill.numpy()


def side_returns(monkeypatch: Any, skills: Any, at_once: int = 100) -> tuple[Any, Any]:
    """Returns of three episodes, and the agents that acted in them."""
    agents: list[SideAgent] = []

    def build(networks: Any, mode: Any, count: int, *rest: Any) -> SideAgent:
        agents.append(SideAgent(count))
        return agents[-1]

    monkeypatch.setattr("lsp.training.evaluation.build_agent", build)
    monkeypatch.setattr("lsp.training.evaluation.MOST_AT_ONCE", at_once)
    Sides.made = []
    return evaluate(make_pointed(), Sides, 3, skills=skills).returns.tolist(), agents


# What is planned: [10], [-20, -19], [40, 41, 42, 43].
PLANNED = [10, 20 + 19, 40 + 41 + 42 + 43]
MEAN = (10 - 20 - 19 + 166) / 7


def test_planned_skills_are_those_of_each_episode(monkeypatch: Any) -> None:
    assert side_returns(monkeypatch, "planned")[0] == PLANNED


@pytest.mark.parametrize("at_once", [100, 2])
def test_constant_skills_are_the_mean_of_what_is_planned(monkeypatch: Any, at_once: Any) -> None:
    found, agents = side_returns(monkeypatch, "constant", at_once)
    np.testing.assert_allclose(found, [MEAN, -2 * MEAN, 4 * MEAN], rtol=1e-6)
    half = len(agents) // 2
    assert all(agent.planned > 0 for agent in agents[:half])
    assert all(agent.planned == 0 for agent in agents[half:])


@pytest.mark.parametrize("at_once", [100, 2])
def test_shuffled_skills_are_planned_in_another_episode(monkeypatch: Any, at_once: Any) -> None:
    # The first holds what the second plans, the second what the third does, and the third what the
    # first planned, then the second, which holds its last one on when it has ended.
    found, _ = side_returns(monkeypatch, "shuffled", at_once)
    assert found == [-20, -(40 + 41), 10 - 19 - 19 - 19]


def test_a_lone_episode_cannot_be_shuffled() -> None:
    with pytest.raises(UserError, match="other episodes"):
        evaluate(make_pointed(), Target, 1, skills="shuffled")


def test_an_agent_holds_the_mean_of_what_it_planned() -> None:
    networks = make_pointed()
    Target.made = []
    held: list[Any] = []
    act = Agent.act

    def watch(self: Any, observation: Any, skill: Any = None) -> Any:
        held.append((skill, act(self, observation, skill), self.skill.clone()))
        return held[-1][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Agent, "act", watch)
        evaluate(networks, Target, 2, skills="constant")
    planned = [state for skill, _, state in held if skill is None]
    given = np.stack([skill for skill, *_ in held if skill is not None])
    assert len(planned) > 0
    assert np.ptp(given, axis=(0, 1)).max() == 0
    lengths = [3, 4]  # of the first two that were made
    skills = torch.cat([torch.stack(planned)[:n, i] for i, n in enumerate(lengths)])
    np.testing.assert_allclose(given[0, 0], skills.mean(0), atol=1e-6)


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


def test_a_success_that_is_told_only_where_there_is_one_counts(monkeypatch: Any) -> None:
    step = Target.step

    def told_if_true(self: Target, action: Any) -> Any:
        *given, info = step(self, action)
        return *given, info if info["success"] else {"env_steps": 2}

    monkeypatch.setattr(Target, "step", told_if_true)
    outcome = run(make_pointed())
    assert outcome.success is not None
    assert outcome.success.tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("skills", [None, "constant", "shuffled"])
def test_what_there_is_one_of_is_evaluated_one_episode_after_another(
    skills: Any, monkeypatch: Any
) -> None:
    tries: list[bool] = []

    def only() -> Target:
        busy = any(not env.closed for env in Target.made)
        tries.append(busy)
        if busy:
            raise UserError("the port is in use")
        return Target()

    networks = make_pointed()
    Target.made = []
    outcome = evaluate(networks, only, 4, skills=skills)
    passes = 1 if skills is None else 2
    assert len(Target.made) == 4 * passes
    assert outcome.lengths.tolist() == [2 * env.length for env in Target.made[-4:]]
    assert sum(tries) == 1  # a second one is asked for once


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
    assert [len(x) for x in parted[:3]] == [5, 5, 5]
    assert parted.failed == 0
    np.testing.assert_array_equal(parted.lengths, whole.lengths)
    np.testing.assert_array_equal(parted.success, whole.success)


def evaluate_counting(networks: Any, counts: Any) -> Any:
    def make() -> Any:
        target = Target()
        counts.append(sum(not each.closed for each in Target.made))
        return target

    Target.made = []
    return evaluate(networks, make, 5)
