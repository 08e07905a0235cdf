"""Acting: when the agent plans, what it holds on to, and what it depends on."""

from typing import Any

import numpy as np
import pytest
import torch
from builders import SHAPES, linear, make_networks
from unchecked import unchecked

import lsp.algorithm.agent
from lsp.algorithm.agent import Agent
from lsp.algorithm.skill_planning import plan_skills
from lsp.errors import UserError


def observe(step: Any, envs: Any = None, seed: Any = 0) -> Any:
    shape = (5,) if envs is None else (envs, 5)
    rng = np.random.default_rng([seed, step])
    return {"position": rng.normal(size=shape).astype(np.float32)}


def act(agent: Any, steps: Any, envs: Any = None, first: Any = 0) -> Any:
    """Actions and held skills of so many steps, `[steps, ...]`."""
    actions, skills = [], []
    for step in range(first, first + steps):
        actions.append(agent.act(observe(step, envs)))
        skills.append(agent.skill.numpy().copy())
    return np.stack(actions), np.stack(skills)


@pytest.fixture
def plannings(monkeypatch: Any) -> Any:
    """Grows by one whenever an agent plans."""
    calls = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return plan_skills(*args, **kwargs)

    monkeypatch.setattr(lsp.algorithm.agent, "plan_skills", counted)
    return calls


@pytest.mark.parametrize("mode", ["collect", "evaluate"])
@pytest.mark.parametrize(("horizon", "length"), [(10, 10), (8, 4), (5, 3)])
def test_the_agent_plans_every_k_steps_and_holds_the_skill_between(
    plannings: Any, mode: Any, horizon: Any, length: Any
) -> None:
    networks = make_networks(planner={"horizon": horizon, "skill_length": length})
    agent = Agent(networks, mode)
    planned_at, skills = [], []
    for step in range(3 * length):
        before = len(plannings)
        agent.act(observe(step))
        planned_at += [step] * (len(plannings) - before)
        skills.append(agent.skill.numpy().copy())
    assert planned_at == [0, length, 2 * length]
    for step in range(3 * length):
        same = np.array_equal(skills[step], skills[step - 1])
        assert same == (step % length != 0), step


def test_evaluation_takes_the_mean_of_the_plan_and_the_mode_of_the_policy() -> None:
    networks = make_networks()
    agent = Agent(networks, "evaluate")
    action = agent.act(observe(0))
    assert torch.equal(agent.skill, agent.plan.mean[:, 0])
    policy = networks.policy(agent.latent.feature, agent.skill)
    np.testing.assert_array_equal(action, policy.mode()[0].detach().numpy())


def test_collecting_explores() -> None:
    networks = make_networks()
    agent = Agent(networks, "collect")
    with torch.no_grad():  # the policy itself hardly varies
        linear(networks.policy.net).weight.zero_()
        linear(networks.policy.net).bias.copy_(torch.tensor([0.0, 0.0, -20.0, -20.0]))
    actions, _ = act(agent, 400)
    assert actions.std() == pytest.approx(0.3, abs=0.03)
    assert np.abs(actions).max() <= 1
    assert not torch.equal(agent.skill, agent.plan.mean[:, 0])


@pytest.mark.parametrize("mode", ["collect", "evaluate"])
@pytest.mark.parametrize("method", ["lsp", "dreamer"])
def test_the_same_seed_acts_the_same_and_another_does_not(mode: Any, method: Any) -> None:
    networks = make_networks(method)
    one, same, other = (act(Agent(networks, mode, seed=s), 12)[0] for s in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_the_best_of_samples_is_deterministic_too() -> None:
    networks = make_networks(policy={"mode_samples": 20})
    one, same = (act(Agent(networks, "evaluate", seed=3), 4)[0] for _ in range(2))
    np.testing.assert_array_equal(one, same)


def test_one_env_has_no_batch_axis_and_several_have() -> None:
    networks = make_networks()
    assert Agent(networks).act(observe(0)).shape == (2,)
    assert Agent(networks, num_envs=1).act(observe(0, envs=1)).shape == (1, 2)
    actions = Agent(networks, num_envs=3).act(observe(0, envs=3))
    assert actions.shape == (3, 2)
    assert actions.dtype == np.float32


def test_a_batch_of_one_acts_as_a_single_env() -> None:
    networks = make_networks()
    single, batched = Agent(networks, "collect", seed=1), Agent(networks, "collect", 1, seed=1)
    for step in range(12):
        observation = observe(step)
        batch = {key: x[None] for key, x in observation.items()}
        np.testing.assert_array_equal(single.act(observation), batched.act(batch)[0])


def test_an_env_that_begins_again_plans_alone() -> None:
    networks = make_networks()
    agent = Agent(networks, "evaluate", num_envs=3)
    act(agent, 4, envs=3)
    before = agent.skill.clone()
    agent.begin(1)
    agent.act(observe(4, envs=3))
    assert torch.equal(agent.skill[[0, 2]], before[[0, 2]])
    assert not torch.equal(agent.skill[1], before[1])
    # Its clock starts anew: the others plan again at step 10, it does so at step 14.
    _, skills = act(agent, 10, envs=3, first=5)
    changes = [
        [5 + t for t in range(1, 10) if not np.array_equal(skills[t, env], skills[t - 1, env])]
        for env in range(3)
    ]
    assert changes == [[10], [14], [10]]


def test_an_env_that_begins_again_forgets_what_it_saw(monkeypatch: Any) -> None:
    # With the noise gone, an env that began again must be where a fresh one is.
    monkeypatch.setattr(Agent, "_noise", lambda self, *shape: torch.zeros(shape))
    networks = make_networks()
    old, fresh = Agent(networks, num_envs=2), Agent(networks, num_envs=2)
    act(old, 3, envs=2)
    old.begin(0)
    old.act(observe(7, envs=2))
    fresh.act(observe(7, envs=2))
    torch.testing.assert_close(old.latent.feature[0], fresh.latent.feature[0])
    assert (old.latent.feature[1] - fresh.latent.feature[1]).abs().max() > 1e-3


def test_a_reset_agent_forgets_everything() -> None:
    networks = make_networks()
    agent = Agent(networks, "evaluate")
    act(agent, 5)
    agent.reset()
    fresh = Agent(networks, "evaluate").state()
    assert all(
        torch.equal(x, fresh[name]) for name, x in agent.state().items() if name != "generator"
    )


@pytest.mark.parametrize("method", ["lsp", "dreamer"])
@pytest.mark.parametrize("envs", [None, 2])
def test_an_agent_goes_on_from_its_state_as_if_never_stopped(method: Any, envs: Any) -> None:
    networks = make_networks(method)
    agent = Agent(networks, "collect", envs, seed=1)
    act(agent, 7, envs)
    state = {name: x.clone() for name, x in agent.state().items()}
    resumed = Agent(networks, "collect", envs, seed=99)
    resumed.load_state(state)
    expected, expected_skills = act(agent, 15, envs, first=7)
    actions, skills = act(resumed, 15, envs, first=7)
    np.testing.assert_array_equal(actions, expected)
    np.testing.assert_array_equal(skills, expected_skills)


def test_with_a_shared_plan_the_agent_takes_the_learners_and_does_not_plan(plannings: Any) -> None:
    networks = make_networks(planner={"scope": "shared"})
    with torch.no_grad():
        networks.shared_mean.copy_(torch.tensor([[[0.5, -1.0, 2.0]]]))
        networks.shared_std.fill_(0.01)
    agent = Agent(networks, "evaluate", num_envs=2)
    _, skills = act(agent, 12, envs=2)
    assert not plannings
    np.testing.assert_array_equal(skills, np.broadcast_to([0.5, -1.0, 2.0], (12, 2, 3)))
    # Collecting draws a new skill near it every K steps, with ε on its mean.
    _, skills = act(Agent(networks, "collect"), 400)
    assert len(np.unique(skills[:, 0, 0])) == 40
    np.testing.assert_allclose(skills[:, 0].mean(0), [0.5, -1.0, 2.0], atol=0.1)
    np.testing.assert_allclose(skills[:, 0].std(0), 0.1, atol=0.05)


def test_a_warm_start_begins_from_n_0_1_in_a_new_episode(monkeypatch: Any) -> None:
    priors = []

    def watched(networks: Any, latent: Any, generator: Any, prior: Any, rounds: Any) -> Any:
        priors.append(prior)
        return plan_skills(networks, latent, generator, prior, rounds)

    monkeypatch.setattr(lsp.algorithm.agent, "plan_skills", watched)
    networks = make_networks(planner={"warm_start": True})
    agent = Agent(networks, "collect", num_envs=2)
    act(agent, 11, envs=2)
    first, second = priors
    assert (first.mean == 0).all()
    assert (first.std == 1).all()
    assert not torch.equal(second.mean, first.mean)
    agent.begin(0)
    agent.act(observe(11, envs=2))
    assert priors[-1].mean.shape[0] == 1  # the other env holds its skill
    assert (priors[-1].mean == 0).all()
    assert (priors[-1].std == 1).all()


def test_a_warm_start_goes_on_with_the_rest_of_the_plan(monkeypatch: Any) -> None:
    plans, priors = [], []

    def watched(networks: Any, latent: Any, generator: Any, prior: Any, rounds: Any) -> Any:
        priors.append(prior.mean)
        zeta, metrics = plan_skills(networks, latent, generator, prior, rounds)
        plans.append(zeta.mean)
        return zeta, metrics

    monkeypatch.setattr(lsp.algorithm.agent, "plan_skills", watched)
    networks = make_networks(planner={"warm_start": True, "skill_length": 2, "horizon": 6})
    act(Agent(networks, "collect"), 4)
    torch.testing.assert_close(priors[1], plans[0][:, [1, 2, 2]])


def test_only_envs_that_are_due_are_planned_for_and_from_their_own_states(monkeypatch: Any) -> None:
    planned = []

    def watched(networks: Any, latent: Any, generator: Any, prior: Any, rounds: Any) -> Any:
        zeta, metrics = plan_skills(networks, latent, generator, prior, rounds)
        planned.append((latent, zeta))
        return zeta, metrics

    monkeypatch.setattr(lsp.algorithm.agent, "plan_skills", watched)
    agent = Agent(make_networks(), "collect", num_envs=4)
    act(agent, 3, envs=4)
    before = agent.plan
    agent.begin(1)
    agent.begin(3)
    agent.act(observe(3, envs=4))
    latent, zeta = planned[-1]
    assert torch.equal(latent.deter, agent.latent.deter[[1, 3]])
    assert torch.equal(latent.stoch, agent.latent.stoch[[1, 3]])
    for now, earlier, new in zip(agent.plan, before, zeta, strict=True):
        assert torch.equal(now[[0, 2]], earlier[[0, 2]])
        assert torch.equal(now[[1, 3]], new)


def test_a_given_skill_is_held_and_nothing_is_planned(plannings: Any) -> None:
    skills = np.array([[1.0, 0, 0], [0, -1, 2]], np.float32)
    agent = Agent(make_networks(), num_envs=2)
    for step in range(3):
        agent.act(observe(step, 2), skills)
        assert np.array_equal(agent.skill.numpy(), skills)
    assert not plannings


def test_a_given_skill_is_what_the_policy_reads() -> None:
    agent, actions = Agent(make_networks(), seed=1), []
    for skill in ([0, 0, 3], [0, 0, -3], [0, 0, 3]):
        agent = Agent(agent.networks, seed=1)
        actions.append(agent.act(observe(0), np.array(skill)))
    assert np.array_equal(actions[0], actions[2])
    assert not np.array_equal(actions[0], actions[1])


def test_a_skill_of_another_shape_is_refused() -> None:
    with pytest.raises(UserError, match=r"must be \[3\] numbers, not \[2\]"):
        Agent(make_networks()).act(observe(0), np.zeros(2))
    with pytest.raises(UserError, match="dreamer has no skills"):
        Agent(make_networks("dreamer")).act(observe(0), np.zeros(3))


@pytest.mark.parametrize(
    ("skill", "complaint"),
    [
        (np.array([0, np.nan, 0]), "a skill is not finite"),
        ("abc", "a skill must be an array of numbers, not 'abc'"),
        ([[1], [1, 2]], "a skill must be an array of numbers"),
    ],
)
def test_a_skill_is_finite_numbers(skill: Any, complaint: str) -> None:
    with unchecked(), pytest.raises(UserError, match=complaint):
        Agent(make_networks()).act(observe(0), skill)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_observation_is_finite(value: float) -> None:
    agent, seen = Agent(make_networks(), "evaluate"), observe(0)
    key = next(key for key, x in seen.items() if x.dtype == np.float32)
    broken = seen | {key: np.full_like(seen[key], value)}
    with pytest.raises(UserError, match=f"observation '{key}' is not finite"):
        agent.act(broken)
    assert np.isfinite(agent.act(seen)).all()  # nothing of it stays


@pytest.mark.parametrize(
    ("seen", "complaint"),
    [
        (np.zeros(3, np.float32), "a dict of arrays, .* not ndarray: give what reset and step"),
        ({}, "'.*' is missing: this agent sees '"),
        ({key: np.zeros((2, *shape)) for key, shape in SHAPES.items()}, r"has shape \[2, "),
    ],
)
def test_what_is_no_observation_is_said(seen: Any, complaint: str) -> None:
    agent = Agent(make_networks(), "evaluate")
    with unchecked(), pytest.raises(UserError, match=complaint):
        agent.act(seen)


def test_one_observation_is_not_that_of_several_environments() -> None:
    agent = Agent(make_networks(), "evaluate", 2)
    seen = {key: np.zeros(shape, np.float32) for key, shape in SHAPES.items()}
    with unchecked(), pytest.raises(UserError, match="of 2 environments at once"):
        agent.act(seen)
