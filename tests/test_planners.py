"""Planners besides CEM find what is known to be best; when plans are made while acting."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from builders import SHAPES, change, linear, make_latent, make_networks, seeded

from lsp.algorithm.agent import Agent
from lsp.algorithm.ascent import ascend
from lsp.algorithm.cem import Plan, candidate_noise, plan, soft_mean_and_std, standard_plan
from lsp.algorithm.skill_planning import plan_skills
from lsp.backends.backends import CompiledBackend, EagerBackend, NativeBackend
from lsp.backends.hardware import compiler
from lsp.config import make_config, validated, with_refit
from lsp.errors import UserError
from lsp.models.networks import NewTask
from lsp.training.new_reward import NewReward

CPU = torch.device("cpu")
REFITS = ["cem", "mppi", "gradient"]


def distance_to(target: Any) -> Any:
    """Values of plans: minus the squared distance to the target of each start."""
    return lambda plans, iteration: -(plans - target).square().sum((-1, -2))


def by_mppi(evaluate: Any, prior: Any, shared: bool = False, temperature: float = 0.5) -> Any:
    def refit(elites: Any, values: Any) -> Plan:
        return soft_mean_and_std(elites, values, temperature, 0.02)

    noise = candidate_noise(prior, 10, 64, seeded(), shared)
    return plan(evaluate, prior, 8, noise, shared, refit)[0]


def by_gradient(evaluate: Any, prior: Any, shared: bool = False) -> Any:
    noise = candidate_noise(prior, 1, 64, seeded(), shared)[0]
    return ascend(evaluate, prior, 8, noise, 20, 0.5, 0.02, shared)[0]


PLANNERS = [by_mppi, by_gradient]


@pytest.mark.parametrize("planner", PLANNERS)
def test_the_optimum_of_a_quadratic_is_found_for_every_start(planner: Any) -> None:
    target = torch.tensor([[[0.5, -1.0, 1.5], [-0.5, 0.0, 1.0]], [[0.0, 1.0, 0.0]] * 2])
    zeta = planner(distance_to(target), standard_plan(2, 2, 3, CPU))
    torch.testing.assert_close(zeta.mean, target, atol=0.1, rtol=0)
    assert zeta.std.max() < 0.1
    assert zeta.std.min() >= 0.02


@pytest.mark.parametrize("planner", PLANNERS)
def test_a_shared_plan_is_one_for_all_and_best_on_average(planner: Any) -> None:
    target = torch.tensor([[[-1.0]], [[1.0]], [[3.0]]])
    zeta = planner(distance_to(target), standard_plan(3, 1, 1, CPU), shared=True)
    torch.testing.assert_close(zeta.mean, torch.ones(3, 1, 1), atol=0.06, rtol=0)
    assert (zeta.std == zeta.std[:1]).all()


def value_of_walks(plans: Any, iteration: Any = 0) -> Any:
    """Minus the distance from where a plan of two skills ends to (1, 1), and slopes everywhere: the
    first skill walks east or west, as its first number says; north or south, as its second says, is
    open to the second skill, as far as the first one has come to x = 1."""
    (x, _), (_, y) = (skill.unbind(-1) for skill in plans.tanh().unbind(-2))
    gate = torch.sigmoid(10 * (x - 0.5))
    return -((x - 1).square() + (gate * y - 1).square())


@pytest.mark.parametrize("planner", PLANNERS)
def test_two_different_skills_are_found_where_one_does_not_get_there(planner: Any) -> None:
    compass = torch.tensor([[3.0, 0], [-3.0, 0], [0, 3.0], [0, -3.0]])
    one_skill = value_of_walks(compass[:, None, None].expand(4, 1, 2, 2))
    assert one_skill.max() < -0.9
    zeta = planner(value_of_walks, standard_plan(8, 2, 2, CPU))
    assert value_of_walks(zeta.mean[None]).min() > -0.1


def test_ascent_climbs_beyond_all_that_was_sampled() -> None:
    target = torch.full((1, 1, 3), 3.0)  # where N(0, I) hardly comes
    seen = []

    def evaluate(plans: Any, iteration: Any) -> Any:
        seen.append((plans - target).norm(dim=-1).min().item())
        return distance_to(target)(plans, iteration)

    zeta = by_gradient(evaluate, standard_plan(1, 1, 3, CPU))
    assert seen[0] > 1.5
    assert (zeta.mean - target).norm() < 0.1


def test_of_two_summits_the_higher_one_is_taken() -> None:
    def evaluate(plans: Any, iteration: Any) -> Any:
        x = plans.squeeze(-1).squeeze(-1)
        return torch.exp(-2 * (x + 1.5) ** 2) + 1.2 * torch.exp(-2 * (x - 1.5) ** 2)

    zeta = by_gradient(evaluate, standard_plan(4, 1, 1, CPU))
    torch.testing.assert_close(zeta.mean, torch.full((4, 1, 1), 1.5), atol=0.05, rtol=0)


def test_a_plan_without_a_gradient_stays_where_it_is() -> None:
    def flat(plans: Any, iteration: Any) -> Any:
        return (0 * plans).sum((-1, -2))

    zeta = by_gradient(flat, standard_plan(2, 1, 3, CPU))
    assert zeta.mean.isfinite().all()
    assert zeta.mean.abs().max() < 4


def test_mppi_weighs_elites_by_the_exponential_of_their_values() -> None:
    # Values 0 and T log 3 below: weights 3/4 and 1/4.
    elites = torch.tensor([[[[1.0]]], [[[-1.0]]]])
    values = torch.tensor([[0.0], [-0.2 * np.log(3)]])
    zeta = soft_mean_and_std(elites, values, 0.2)
    assert zeta.mean.item() == pytest.approx(0.5)
    assert zeta.std.item() == pytest.approx(np.sqrt(0.75))


def test_mppi_is_cem_at_a_high_temperature_and_takes_the_best_at_a_low_one() -> None:
    elites = torch.randn(4, 2, 1, 3, generator=seeded())
    values = torch.tensor([[4.0, 1.0], [3.0, 0.5], [2.0, 0.2], [1.0, 0.1]])
    hot, cold = (soft_mean_and_std(elites, values, t, 0.05) for t in (1e6, 1e-4))
    torch.testing.assert_close(hot.mean, elites.mean(0))
    torch.testing.assert_close(hot.std, elites.std(0, correction=0))
    torch.testing.assert_close(cold.mean, elites[0])
    assert (cold.std == 0.05).all()


def hearing(refit: str, **planner: Any) -> Any:
    """Networks whose policy listens to its skill and is paid for it."""
    networks = make_networks(
        planner={"refit": refit, "num_candidates": 32, "num_elites": 8, "num_iterations": 6}
        | planner
    )
    with torch.no_grad():
        linear(networks.policy.net).weight.mul_(5)
        linear(networks.world_model.reward_head).weight.mul_(5)
    return networks


@pytest.mark.parametrize("refit", REFITS)
@pytest.mark.parametrize(
    "planner",
    [
        {},
        {"scope": "shared"},
        {"rollout_noise": "independent"},
        {"intrinsic_weight": 1.0, "prior_weight": 0.1, "horizon": 20},
    ],
)
def test_every_planner_raises_the_imagined_value(refit: str, planner: Any) -> None:
    networks = hearing(refit, **planner)
    zeta, stats = plan_skills(networks, make_latent(networks, 16), seeded())
    assert zeta.mean.shape == (16, networks.config.plan_length, 3)
    assert stats["planner/value"] > stats["planner/first_value"]


@pytest.mark.parametrize("refit", REFITS)
def test_actions_are_planned_by_all(refit: str) -> None:
    networks = make_networks("cem", planner={"refit": refit})
    agent = Agent(networks, "collect")
    action = agent.act({key: np.zeros(shape, np.float32) for key, shape in SHAPES.items()})
    assert np.isfinite(action).all()


def test_the_temperature_is_in_units_of_the_size_of_returns() -> None:
    networks = hearing("mppi", temperature=0.1)
    starts = make_latent(networks, 4)
    one = plan_skills(networks, starts, seeded())[0]
    networks.return_size.fill_(1e6)
    hot = plan_skills(networks, starts, seeded())[0]
    cem = plan_skills(hearing("cem"), starts, seeded())[0]
    torch.testing.assert_close(hot.mean, cem.mean, atol=1e-4, rtol=0)
    assert not torch.allclose(one.mean, cem.mean, atol=1e-2)


def test_of_a_new_task_the_temperature_is_in_units_of_the_best_plans_values() -> None:
    class Paid(torch.nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scale = scale

        def forward(self, networks: Any, rollout: Any) -> Any:
            return self.scale * rollout.feature[1:].mean(-1)

    def planned(refit: str, scale: float, size: float = 1.0) -> Any:
        networks = hearing(refit, horizon=20)
        networks.new_task = NewTask(Paid(scale))
        networks.return_size.fill_(size)
        return plan_skills(networks, make_latent(networks, 4), seeded())[0].mean

    same = planned("mppi", 1.0)
    torch.testing.assert_close(planned("mppi", 1000.0, size=1e6), same, atol=1e-3, rtol=0)
    assert not torch.allclose(planned("cem", 1.0), same, atol=1e-2)
    for flushed in (False, True):  # as it is in training
        torch.set_flush_denormal(flushed)
        try:
            assert planned("mppi", 0.0).isfinite().all()
        finally:
            torch.set_flush_denormal(False)


def in_pieces(networks: Any) -> CompiledBackend:
    """What torch.compile is given, not compiled."""
    return CompiledBackend(networks, wrap=lambda function: function)


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("backend", [NativeBackend, in_pieces])
def test_other_backends_climb_where_the_reference_does(backend: Any, stopped: bool) -> None:
    if backend is NativeBackend and compiler() is None:
        pytest.skip("no C++ compiler")
    networks = hearing("gradient", intrinsic_weight=1.0, prior_weight=0.1)
    policy = replace(networks.config.policy, stop_input_gradient=stopped)
    networks.config = replace(networks.config, policy=policy)
    starts = make_latent(networks, 4)
    copy = backend(networks).frozen_copy
    found, expected = (plan_skills(x, starts, seeded())[0] for x in (copy, networks))
    torch.testing.assert_close(found.mean, expected.mean, atol=1e-3, rtol=0)


def test_planning_by_gradient_leaves_no_gradient_behind() -> None:
    networks = hearing("gradient")
    zeta, _ = plan_skills(networks, make_latent(networks, 4), seeded())
    assert not zeta.mean.requires_grad
    assert all(weight.grad is None for weight in networks.parameters())


def observe(step: int) -> Any:
    rng = np.random.default_rng(step)
    return {key: rng.normal(size=shape).astype(np.float32) for key, shape in SHAPES.items()}


def held(steps: int, mode: Any = "evaluate", **planner: Any) -> Any:
    """The skills of an agent, and the steps at which it planned."""
    agent = Agent(make_networks(planner=planner), mode)
    skills, planned = [], []
    for step in range(steps):
        before = agent.plan.mean
        agent.act(observe(step))
        skills.append(agent.skill[0].numpy().copy())
        planned += [step] * (agent.plan.mean is not before)
    return np.stack(skills), planned


@pytest.mark.parametrize("mode", ["collect", "evaluate"])
def test_replanning_early_begins_with_a_fresh_skill(mode: Any) -> None:
    skills, planned = held(12, mode, skill_length=6, horizon=6, replan_every=4)
    assert planned == [0, 4, 8]
    changed = [t for t in range(1, 12) if (skills[t] != skills[t - 1]).any()]
    assert changed == [4, 8]


@pytest.mark.parametrize("mode", ["collect", "evaluate"])
def test_a_plan_in_force_goes_on_to_its_next_skill_after_k_steps(mode: Any) -> None:
    skills, planned = held(20, mode, skill_length=4, horizon=12, replan_every=10)
    assert planned == [0, 10]
    changed = [t for t in range(1, 20) if (skills[t] != skills[t - 1]).any()]
    assert changed == [4, 8, 10, 14, 18]


def test_the_next_skill_is_that_of_the_plan() -> None:
    agent = Agent(make_networks(planner={"skill_length": 2, "horizon": 6, "replan_every": 6}))
    for step in range(6):
        agent.act(observe(step))
        assert torch.equal(agent.skill, agent.plan.mean[:, step // 2])


def test_a_warm_start_begins_where_the_plan_will_have_got() -> None:
    warm = {"warm_start": True, "horizon": 6, "skill_length": 2}
    for every, expected in ((1, [0, 1, 2]), (2, [1, 2, 2]), (5, [2, 2, 2])):
        agent = Agent(make_networks(planner=warm | {"replan_every": every}))
        mean = torch.arange(3.0)[None, :, None].expand(1, 3, 3)
        rest = agent._rest(mean)
        assert rest.mean[0, :, 0].tolist() == expected
        assert (rest.std == 1).all()


def test_acting_has_iterations_of_its_own(monkeypatch: Any) -> None:
    seen = []

    def watched(*args: Any) -> Any:
        seen.append(args[-1])
        return plan_skills(*args)

    monkeypatch.setattr("lsp.algorithm.agent.plan_skills", watched)
    for iterations in (None, 5):
        held(1, num_iterations=2, acting_iterations=iterations)
    assert seen == [2, 5]
    networks = make_networks(planner={"num_iterations": 2})
    starts = make_latent(networks, 2)
    two, one = (plan_skills(networks, starts, seeded(), None, n)[0] for n in (None, 1))
    assert not torch.equal(two.mean, one.mean)


FAR: Any = {"skill_length": 2, "horizon": 4, "acting_horizon": 6}


@pytest.mark.parametrize("backend", [EagerBackend, NativeBackend])
@pytest.mark.parametrize("mode", ["collect", "evaluate"])
def test_an_agent_can_look_further_ahead_under_one_skill(mode: Any, backend: Any) -> None:
    one, other = make_networks(planner=FAR), make_networks(planner=FAR)
    long = {"skill_length": 6, "horizon": 6, "acting_horizon": None, "replan_every": 2}
    other.config = change(other.config, planner=long)
    agents = [Agent(x, mode, backend=backend(x.for_acting()), seed=3) for x in (one, other)]
    for step in range(8):
        mine, theirs = (agent.act(observe(step)) for agent in agents)
        np.testing.assert_array_equal(mine, theirs)
        assert agents[0].plan.mean.shape == (1, 1, 3)
        assert agents[0].planned.item() == (step % 2 == 0)  # K of updates


@pytest.mark.parametrize("method", ["lsp", "random_skills"])
def test_an_agent_that_looks_less_far_than_k_plans_sooner(method: Any) -> None:
    near = {"skill_length": 4, "horizon": 4, "acting_horizon": 2 if method == "lsp" else None}
    networks = make_networks(method, planner=near)
    every = 2 if method == "lsp" else 4
    agent = Agent(networks, "collect", seed=3)
    for step in range(9):
        before = agent.skill.clone()
        agent.act(observe(step))
        assert torch.equal(agent.skill, before) == (step % every != 0)


def test_updates_plan_as_before_where_acting_looks_further() -> None:
    near, far = make_networks(planner=FAR | {"acting_horizon": None}), make_networks(planner=FAR)
    starts = make_latent(far, 2)
    one, other = (plan_skills(networks, starts, seeded())[0] for networks in (near, far))
    assert other.mean.shape == (2, 2, 3)
    assert torch.equal(one.mean, other.mean)


def test_agents_of_a_learner_see_its_weights() -> None:
    networks = make_networks(planner=FAR)
    acting = networks.for_acting()
    assert acting is not networks
    for one, other in zip(acting.parameters(), networks.parameters(), strict=True):
        assert one is other


@pytest.mark.parametrize("planner", [{"replan_every": 3}, {"acting_iterations": 3}, FAR])
@pytest.mark.parametrize("refit", REFITS)
def test_an_agent_resumes_with_any_planner(refit: str, planner: Any) -> None:
    networks = make_networks(planner={"refit": refit, "skill_length": 2, "horizon": 6} | planner)
    agent, resumed = Agent(networks, "collect", seed=1), Agent(networks, "collect", seed=2)
    for step in range(4):
        agent.act(observe(step))
    resumed.load_state({name: x.clone() for name, x in agent.state().items()})
    for step in range(4, 12):
        one, other = (x.act(observe(step)) for x in (agent, resumed))
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("method", "planner", "complaint"),
    [
        ("lsp", {"temperature": 0.5}, "temperature needs planner.refit = mppi"),
        ("lsp", {"step_size": 0.5}, "step_size needs planner.refit = gradient"),
        ("lsp", {"min_std": 0.5}, "min_std needs planner.refit = mppi or gradient"),
        ("lsp", {"refit": "mppi", "temperature": 0.0}, "temperature must be above 0"),
        ("lsp", {"replan_every": 0}, "replan_every must be at least 1"),
        ("lsp", {"replan_every": 11}, "replan_every must be at most the 10 agent steps"),
        ("lsp", {"replan_every": 5, "scope": "shared"}, "acting plans nothing"),
        ("lsp", {"acting_iterations": 0}, "acting_iterations must be at least 1"),
        ("lsp", {"acting_horizon": 5, "replan_every": 6}, "at most the 5 agent steps"),
        ("lsp", {"acting_horizon": 0}, "acting_horizon must be at least 1"),
        ("lsp", {"acting_horizon": 20, "replan_every": 21}, "at most the 20 agent steps"),
        ("cem", {"acting_horizon": 20}, "acting_horizon needs skills that are planned"),
        ("dreamer", {"acting_horizon": 5}, "dreamer plans nothing while acting"),
        ("dreamer", {"replan_every": 5}, "dreamer plans nothing while acting"),
        ("hiro", {"replan_every": 5}, "hiro plans nothing while acting"),
        ("hiro", {"refit": "mppi"}, "hiro plans nothing"),
        ("random_skills", {"acting_iterations": 1}, "random_skills plans nothing while acting"),
    ],
)
def test_settings_of_planners_that_make_no_sense(method: str, planner: Any, complaint: str) -> None:
    config = make_config(method, "debug")
    with pytest.raises(UserError, match=complaint):
        validated(change(config, planner=planner))


def test_an_evaluation_under_other_skills_holds_them_for_k_steps() -> None:
    config = make_networks(planner={"replan_every": 2}).config
    prior = replace(config, skills=replace(config.skills, source="prior"))
    assert (config.replan_every, prior.replan_every) == (2, 10)
    far = Agent(make_networks(planner=FAR | {"replan_every": 6}), skills="prior").config
    assert (far.planner.skill_length, far.replan_every) == (2, 2)


def test_another_refit_leaves_out_what_it_does_not_read() -> None:
    config = make_config("lsp", "debug", **{"planner.refit": "mppi", "planner.temperature": 0.5})
    other = with_refit(config.planner, "cem")
    assert validated(replace(config, planner=other)).planner.refit == "cem"
    assert NewReward().settings(config).planner.refit == "cem"
    assert with_refit(config.planner, "mppi") == config.planner
