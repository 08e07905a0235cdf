"""The cross-entropy method finds what is known to be best, on functions and on small worlds."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from builders import make_latent, make_networks, seeded

import lsp.algorithm.skill_planning
from lsp.algorithm.cem import Plan, candidate_noise, plan, standard_plan
from lsp.algorithm.skill_planning import plan_skills
from lsp.config import PlannerConfig
from lsp.models.imagination import RolloutNoise, imagine
from lsp.models.world_model import Latent

THOROUGH = PlannerConfig(num_candidates=64, num_elites=8, num_iterations=10)
CPU = torch.device("cpu")


def search(evaluate: Any, prior: Any, config: Any, generator: Any) -> Any:
    """`plan` with noise from `generator`, for values that do not depend on the iteration."""
    shared = config.scope == "shared"
    sizes = config.num_iterations, config.num_candidates
    noise = candidate_noise(prior, *sizes, generator, shared)

    def score(candidates: Any, iteration: Any) -> Any:
        return evaluate(candidates)

    return plan(score, prior, config.num_elites, noise, shared)


def distance_to(target: Any) -> Any:
    """Values of plans: minus the squared distance to the target of each start."""
    return lambda candidates: -(candidates - target).square().sum((-1, -2))


def test_the_optimum_of_a_quadratic_is_found() -> None:
    target = torch.tensor([[[0.5, -1.0, 1.5], [-0.5, 0.0, 1.0]]])
    zeta, _ = search(distance_to(target), standard_plan(1, 2, 3, CPU), THOROUGH, seeded())
    torch.testing.assert_close(zeta.mean, target, atol=0.05, rtol=0)
    assert zeta.std.max() < 0.1


def test_the_settings_of_the_paper_get_most_of_the_way() -> None:
    target = torch.randn(200, 1, 3, generator=seeded(1))
    zeta, _ = search(distance_to(target), standard_plan(200, 1, 3, CPU), PlannerConfig(), seeded())
    before, after = target.square().sum((-1, -2)), (zeta.mean - target).square().sum((-1, -2))
    assert after.mean() < 0.15 * before.mean()


def test_every_start_gets_the_plan_that_is_best_for_it() -> None:
    target = torch.tensor([[[1.0]], [[-1.0]], [[0.0]]])
    zeta, _ = search(distance_to(target), standard_plan(3, 1, 1, CPU), THOROUGH, seeded())
    torch.testing.assert_close(zeta.mean, target, atol=0.05, rtol=0)


def test_a_shared_plan_is_one_for_all_and_best_on_average() -> None:
    # Values of -1 to 3 pull a shared plan to their mean, 1; the nearest start alone would not.
    target, shared = torch.tensor([[[-1.0]], [[1.0]], [[3.0]]]), replace(THOROUGH, scope="shared")
    zeta, _ = search(distance_to(target), standard_plan(3, 1, 1, CPU), shared, seeded())
    torch.testing.assert_close(zeta.mean, torch.ones(3, 1, 1), atol=0.05, rtol=0)
    assert (zeta.mean == zeta.mean[:1]).all()
    assert (zeta.std == zeta.std[:1]).all()


def test_a_shared_candidate_is_tried_from_every_start() -> None:
    seen = []

    def evaluate(candidates: Any) -> Any:
        seen.append(candidates)
        return distance_to(torch.zeros(3, 1, 1))(candidates)

    search(evaluate, standard_plan(3, 1, 1, CPU), replace(THOROUGH, scope="shared"), seeded())
    assert len(seen) == THOROUGH.num_iterations
    for candidates in seen:
        assert candidates.shape == (64, 3, 1, 1)
        assert (candidates == candidates[:, :1]).all()


def test_the_elites_refit_mean_and_population_deviation() -> None:
    config, seen = PlannerConfig(num_candidates=6, num_elites=3, num_iterations=1), []
    values = torch.tensor([[1.0, 0.0], [5.0, 1.0], [2.0, 2.0], [4.0, 3.0], [3.0, 4.0], [0.0, 5.0]])

    def evaluate(candidates: Any) -> Any:
        seen.append(candidates.numpy())
        return values

    zeta, stats = search(evaluate, standard_plan(2, 2, 3, CPU), config, seeded())
    for start, elites in ((0, [1, 3, 4]), (1, [5, 4, 3])):
        best = seen[0][elites, start]
        np.testing.assert_allclose(zeta.mean[start], best.mean(0), rtol=1e-5)
        np.testing.assert_allclose(zeta.std[start], best.std(0, ddof=0), rtol=1e-5)
    # The elites' mean is 4, that of all 2.5.
    assert stats["planner/elite_advantage"].item() == pytest.approx(1.5)


def test_the_first_candidates_come_from_the_prior() -> None:
    seen = []

    def evaluate(candidates: Any) -> Any:
        seen.append(candidates)
        return candidates.sum((-1, -2))

    config = PlannerConfig(num_candidates=4000, num_elites=4, num_iterations=1)
    search(evaluate, Plan(torch.full((1, 1, 1), 3.0), torch.full((1, 1, 1), 0.5)), config, seeded())
    assert seen[0].mean().item() == pytest.approx(3.0, abs=0.05)
    assert seen[0].std().item() == pytest.approx(0.5, abs=0.05)


def streets(latent: Any, skill: Any, noise: Any) -> Any:
    """Blocks of 0.2 in the compass direction of the skill's larger part; east first, then north.

    The only way north is at x = 1, and there is nothing beyond x = 1 and y = 1.
    """
    size, sign = skill.abs(), skill.sign()
    along = size[:, 0] > size[:, 1]
    x, y = latent.deter.unbind(-1)
    east = torch.where(along, 0.2 * sign[:, 0], 0.0)
    north = torch.where(~along & (x > 0.99), 0.2 * sign[:, 1], 0.0)
    moved = torch.stack([(x + east).clamp(0, 1), (y + north).clamp(0, 1)], -1)
    return Latent(moved, latent.stoch), torch.stack([east, north], -1)


def value_of_walks(candidates: Any) -> Any:
    """Minus the distance from where a plan of two skills ends to the north-east corner."""
    count, starts, length, dim = candidates.shape
    rows = count * starts
    noise = RolloutNoise(torch.zeros(10, rows, 2), torch.zeros(10, rows, 0))
    start = Latent(torch.zeros(rows, 2), torch.zeros(rows, 0))
    plans = candidates.reshape(rows, length, dim)
    end = imagine(start, plans, 5, streets, noise).feature[-1]
    return -(end - 1).norm(dim=-1).reshape(count, starts)


def test_two_different_skills_are_found_where_one_does_not_get_there() -> None:
    compass = torch.tensor([[1.0, 0], [-1.0, 0], [0, 1.0], [0, -1.0]])
    one_skill = value_of_walks(compass[:, None, None].expand(4, 1, 2, 2))
    assert one_skill.max().item() == pytest.approx(-1.0, abs=1e-5)

    zeta, _ = search(value_of_walks, standard_plan(8, 2, 2, CPU), THOROUGH, seeded())
    torch.testing.assert_close(
        value_of_walks(zeta.mean[None]), torch.zeros(1, 8), atol=1e-5, rtol=0
    )
    east, north = zeta.mean.unbind(1)
    assert (east[:, 0] > east[:, 1].abs()).all()
    assert (north[:, 1] > north[:, 0].abs()).all()


def planning(**planner: Any) -> Any:
    """Networks with these settings of the planner."""
    return make_networks(planner=planner)


@pytest.mark.parametrize(
    ("horizon", "length", "skills"), [(10, 10, 1), (20, 10, 2), (25, 10, 3), (5, 10, 1)]
)
@pytest.mark.parametrize("scope", ["per_state", "shared"])
def test_a_plan_has_one_skill_for_every_k_steps_begun(
    horizon: Any, length: Any, skills: Any, scope: Any
) -> None:
    networks = planning(horizon=horizon, skill_length=length, scope=scope)
    zeta, _ = plan_skills(networks, make_latent(networks, 4), seeded())
    assert zeta.mean.shape == zeta.std.shape == (4, skills, 3)
    assert (zeta.std > 0).all()


def test_planning_raises_the_imagined_value() -> None:
    networks = planning(num_candidates=64, num_elites=8, num_iterations=6)
    with torch.no_grad():
        networks.policy.net[-1].weight.mul_(5)  # a policy that listens to its skill
        networks.world_model.reward_head[-1].weight.mul_(5)
    _, stats = plan_skills(networks, make_latent(networks, 16), seeded())
    gained = stats["planner/value"] - stats["planner/first_value"]
    assert gained > stats["planner/candidate_spread"]


def values_of_one_skill(rollout_noise: Any) -> Any:
    """Statistics of planning where all candidates are the same: the prior has no width."""
    networks = planning(
        rollout_noise=rollout_noise, num_candidates=16, num_elites=4, num_iterations=1
    )
    same = Plan(torch.ones(64, 1, 3), torch.zeros(64, 1, 3))
    return plan_skills(networks, make_latent(networks, 64), seeded(), prior=same)[1]


def test_with_common_noise_the_same_skills_are_worth_the_same() -> None:
    stats = values_of_one_skill("common")
    assert stats["planner/candidate_spread"] < 1e-5
    assert stats["planner/elite_advantage"].abs() < 1e-5


def test_with_independent_noise_the_elites_of_the_same_skills_are_just_lucky() -> None:
    stats = values_of_one_skill("independent")
    assert stats["planner/candidate_spread"] > 1e-3
    # The best 4 of 16 draws from one Normal stand 1.2 deviations above the mean.
    luck = stats["planner/elite_advantage"] / stats["planner/candidate_spread"]
    assert luck.item() == pytest.approx(1.2, abs=0.15)


def test_each_iteration_imagines_with_noise_of_its_own(monkeypatch: Any) -> None:
    seen, original = [], lsp.algorithm.skill_planning.score_plans

    def watched(networks: Any, starts: Any, candidates: Any, noise: Any, generator: Any) -> Any:
        seen.append(noise)
        return original(networks, starts, candidates, noise, generator)

    monkeypatch.setattr(lsp.algorithm.skill_planning, "score_plans", watched)
    networks = planning()
    plan_skills(networks, make_latent(networks, 4), seeded())
    assert len(seen) == networks.config.planner.num_iterations == 2
    for one, other in zip(*seen, strict=True):
        assert not torch.equal(one, other)


def test_the_same_seed_gives_the_same_plan() -> None:
    networks = planning()
    starts = make_latent(networks, 4)
    one, other = (plan_skills(networks, starts, seeded(5))[0] for _ in range(2))
    assert torch.equal(one.mean, other.mean)
    assert torch.equal(one.std, other.std)
