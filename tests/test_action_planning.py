"""Planning over actions around the policy: what it finds, where it begins, what it remembers."""

from typing import Any

import numpy as np
import pytest
import torch
from builders import ACTIONS, change, make_latent, make_networks, seeded
from test_agent import act, observe

from lsp.algorithm.action_planning import plan_actions, policy_actions, value_of
from lsp.algorithm.agent import Agent
from lsp.cli.main import main
from lsp.config import from_dict, make_config, to_dict, validated
from lsp.errors import UserError
from lsp.models.networks import HeadOutputs, Networks
from lsp.runs.metrics import read_metrics


def refining(method: str = "lsp", **actions: Any) -> Networks:
    """Networks whose agents plan over actions."""
    some = {"num_candidates": 32, "num_elites": 4, "policy_candidates": 2}
    return make_networks(method, actions=some | actions)


def held(networks: Networks, starts: int) -> torch.Tensor:
    return torch.randn(starts, networks.config.skills.dim, generator=seeded(5))


def plan(networks: Networks, starts: int = 3, before: Any = None, seed: int = 0) -> Any:
    length = networks.config.actions.length
    before = torch.zeros(starts, length, ACTIONS) if before is None else before
    given = make_latent(networks, starts), held(networks, starts), before
    return plan_actions(networks, *given, seeded(seed))


def pays_for(networks: Networks, wanted: torch.Tensor, monkeypatch: Any) -> list[torch.Tensor]:
    """Rewards fall with the distance of each action to `wanted` `[starts, length, action]`."""
    seen = []

    def judge(start: Any, actions: torch.Tensor) -> HeadOutputs:
        seen.append(actions)
        times = len(actions) // len(start.deter)
        reward = -(actions - wanted.repeat(times, 1, 1)).square().sum(-1).T
        return HeadOutputs(reward, torch.ones_like(reward), torch.zeros_like(reward))

    monkeypatch.setattr(networks, "judge_actions", judge)
    return seen


@pytest.mark.parametrize("method", ["lsp", "dreamer"])
def test_the_plan_is_what_pays_in_the_model_each_start_its_own(
    method: str, monkeypatch: Any
) -> None:
    networks = refining(method, num_candidates=256, num_elites=16, num_iterations=12)
    wanted = torch.tensor([-0.9, 0.0, 0.7])[:, None, None].expand(-1, 3, ACTIONS)
    seen = pays_for(networks, wanted, monkeypatch)
    found = plan(networks)
    assert (found.mean - wanted).abs().max() < 0.1
    assert (found.action - wanted[:, 0]).abs().max() < 0.25
    assert all(each.abs().max() <= 1 for each in seen)


def test_the_policys_own_sequences_are_among_the_candidates(monkeypatch: Any) -> None:
    networks = refining(num_candidates=1, num_elites=1, policy_candidates=3, momentum=0.0)
    latent, skill = make_latent(networks, 2), held(networks, 2)
    own = policy_actions(networks, latent, skill, seeded(0))
    assert own.shape == (3, 2, 3, ACTIONS)
    pays_for(networks, own[1], monkeypatch)
    found = plan_actions(networks, latent, skill, torch.zeros(2, 3, ACTIONS), seeded(0))
    assert torch.equal(found.mean, own[1])
    assert torch.equal(found.action, own[1][:, 0])


def test_the_policy_proposes_under_the_skill_in_force() -> None:
    networks = refining()
    latent, skill = make_latent(networks, 2), held(networks, 2)
    own, other = (policy_actions(networks, latent, x, seeded(0)) for x in (skill, skill + 1))
    assert not torch.allclose(own, other)
    assert not torch.allclose(own[0], own[1])


def test_a_sequence_is_worth_its_rewards_and_v_where_it_ends() -> None:
    networks = refining(length=2)
    latent, actions = make_latent(networks, 1), torch.full((1, 1, 2, ACTIONS), 0.3)
    rssm, reward, now, total = networks.world_model.rssm, [], latent, 0.0
    for step in range(2):
        deter, prior = rssm.predict(now, actions[0, :, step])
        now = type(now)(deter, prior.mean)
        reward.append(networks.world_model.reward_head(now.feature).squeeze(-1))
    gamma = networks.config.behavior.discount
    total = reward[0] + gamma * (reward[1] + gamma * networks.slow_value(now.feature))
    assert torch.allclose(value_of(networks, latent, actions)[0], total, atol=1e-6)


def test_the_search_begins_where_the_plan_before_has_left_it(monkeypatch: Any) -> None:
    networks = refining(num_iterations=1, max_std=0.05)
    before = torch.full((3, 3, ACTIONS), 0.5)
    seen = pays_for(networks, before, monkeypatch)
    plan(networks, before=before)
    sampled = seen[0].unflatten(0, (34, 3))[:32]
    assert (sampled - 0.5).abs().max() < 0.3


@pytest.mark.parametrize("envs", [None, 2])
def test_an_agent_hands_on_what_is_left_of_its_plan_within_an_episode(
    envs: Any, monkeypatch: Any
) -> None:
    agent, given = Agent(refining(), "evaluate", num_envs=envs), []

    def noted(*args: Any) -> Any:
        given.append(args[3])
        return plan_actions(*args)

    monkeypatch.setattr("lsp.algorithm.agent.plan_actions", noted)
    act(agent, 2, envs)
    assert given[0].abs().max() == 0
    left = agent.ahead
    agent.act(observe(2, envs))
    assert torch.equal(given[2][:, :-1], left[:, 1:])
    assert given[2][:, -1].abs().max() == 0
    agent.begin(0)
    agent.act(observe(3, envs))
    assert given[3][0].abs().max() == 0
    assert envs is None or given[3][1].abs().max() > 0


@pytest.mark.parametrize("mode", ["collect", "evaluate"])
def test_a_refining_agent_goes_on_from_its_state_as_if_never_stopped(mode: Any) -> None:
    networks = refining()
    agent, other = Agent(networks, mode), Agent(networks, mode, seed=7)
    act(agent, 5)
    other.load_state(agent.state())
    expected, _ = act(agent, 5, first=5)
    found, _ = act(other, 5, first=5)
    assert np.array_equal(found, expected)


def test_collecting_adds_the_policys_noise(monkeypatch: Any) -> None:
    networks = refining(num_candidates=256, num_elites=16, num_iterations=8)
    still = torch.zeros(1, 3, ACTIONS)
    pays_for(networks, still, monkeypatch)
    spread = {mode: act(Agent(networks, mode), 200)[0].std() for mode in ("collect", "evaluate")}
    assert spread["evaluate"] < 0.15
    assert 0.25 < spread["collect"] < 0.4


def test_without_candidates_the_policy_acts_as_before() -> None:
    plain = make_networks()
    agent = Agent(plain, "evaluate")
    actions, skills = act(agent, 3)
    policy = plain.policy(agent.latent.feature, torch.as_tensor(skills[-1]))
    assert np.allclose(actions[-1], policy.mode().detach().numpy(), atol=1e-6)
    assert "ahead" not in agent.state()


@pytest.mark.parametrize(
    ("method", "actions", "complaint"),
    [
        ("cem", {"num_candidates": 8}, "needs a policy in a world model: not cem"),
        ("hiro", {"num_candidates": 8}, "needs a policy in a world model: not hiro"),
        ("lsp", {"length": 2}, "need actions.num_candidates above 0"),
        ("lsp", {"num_candidates": -1}, "actions.num_candidates must be at least 0"),
        ("lsp", {"num_candidates": 8, "num_elites": 15}, "num_elites must be at most 14, not 15"),
        ("lsp", {"num_candidates": 8, "length": 0}, "actions.length must be at least 1"),
        ("lsp", {"num_candidates": 16, "temperature": 0.0}, "temperature must be above 0"),
        ("lsp", {"num_candidates": 16, "momentum": 1.5}, "momentum must lie between 0 and 1"),
        ("lsp", {"num_candidates": 16, "min_std": 3.0}, "at most actions.max_std"),
        ("lsp", {"num_candidates": 10**7}, "actions.num_candidates must be at most 1,000,000"),
    ],
)
def test_settings_that_make_no_sense_are_named(method: Any, actions: Any, complaint: str) -> None:
    config = change(make_config(method, "debug"), actions=actions)
    with pytest.raises(UserError, match=complaint):
        validated(config)


def test_older_runs_have_no_plans_over_actions() -> None:
    older = to_dict(make_config("lsp", "debug"))
    del older["actions"]
    assert from_dict(older) == make_config("lsp", "debug")


@pytest.mark.usefixtures("short_episodes")
def test_a_run_that_refines_resumes_where_it_stopped(tmp_path: Any) -> None:
    def train(name: str, steps: int) -> None:
        given = "--task walker_walk --preset debug --actions.num-candidates 16 --actions.num-elites"
        run = f"{given} 4 --schedule.eval-every 0 --steps {steps} --logdir {tmp_path / name}"
        main(["train", *run.split()])

    train("whole", 400)
    train("parts", 200)
    train("parts", 400)
    whole, parts = (read_returns(tmp_path / name) for name in ("whole", "parts"))
    assert whole == parts


def read_returns(folder: Any) -> list[float]:
    rows = read_metrics(folder)
    return [row["episode/return"] for row in rows if row["kind"] == "episode"]
