"""The forward estimator (A.6) on worlds whose mutual information is known."""

from math import log
from typing import Any

import pytest
import torch
from builders import change, linear, make_batch, make_latent, make_networks, seeded
from unchecked import mostly_unchecked

from lsp.algorithm.diagnostics import forward_probe
from lsp.algorithm.forward_information import (
    forward_information,
    information,
    others_of_start,
)
from lsp.algorithm.learner import Learner
from lsp.config import make_config, validated
from lsp.errors import UserError
from lsp.models.distributions import Normal
from lsp.models.imagination import RolloutNoise
from lsp.models.networks import Networks
from lsp.models.world_model import Latent

K = 3


def make_world(
    monkeypatch: Any, spread: float, segments: int = 1, action_noise: float = 0.0
) -> Networks:
    """A body that goes z (and some noise of its own) at every step, and is seen through noise: the
    first of four numbers seen is where it is, the others are noise alone."""
    networks = make_networks(planner={"horizon": K * segments, "skill_length": K})

    def predict(latent: Any, skill: Any, noise: Any) -> Any:
        deter = latent.deter.clone()
        deter[:, 0] += skill[:, 0] + action_noise * noise[:, 0]
        mean = torch.zeros_like(latent.stoch)
        mean[:, 0] = deter[:, 0]
        return deter, Normal(mean, torch.full_like(mean, spread))

    def transition(latent: Any, skill: Any, noise: Any) -> Any:
        deter, seen = predict(latent, skill, noise.action)
        return Latent(deter, seen.sample(noise.latent)), noise.action

    monkeypatch.setattr(networks, "predict", predict)
    monkeypatch.setattr(networks, "transition", transition)
    return networks


def estimate(networks: Any, skills: Any, starts: int, plans: Any = None) -> Any:
    """Of each segment, for so many rollouts from each of some starts."""
    config, rows = networks.config, starts * skills
    start = make_latent(networks, starts)
    start = Latent(*(x.repeat_interleave(skills, 0) for x in start))
    if plans is None:
        plans = torch.randn(rows, config.plan_length, 3, generator=seeded(3))
    noise = networks.draw_noise(config.behavior_horizon, rows, generator=seeded(4))
    rollout = networks.imagine(start, plans, noise)
    rivals = others_of_start(plans, skills)
    return forward_information(networks, rollout, plans, noise, rivals)


def known(spread: float) -> float:
    """Nats that K places z, 2z, 3z, seen through noise, tell of z from N(0, 1)."""
    return 0.5 * log(1 + (1 + 4 + 9) / spread**2)


@pytest.mark.parametrize("spread", [8.0, 3.0, 1.0])
def test_the_estimate_is_the_mutual_information_of_a_small_world(
    monkeypatch: Any, spread: Any
) -> None:
    networks = make_world(monkeypatch, spread)
    found = estimate(networks, skills=64, starts=40)
    assert found.mean().item() == pytest.approx(known(spread), abs=0.1)


def test_every_segment_counts_from_where_the_last_one_ended(monkeypatch: Any) -> None:
    found = estimate(make_world(monkeypatch, 3.0, segments=3), skills=64, starts=40)
    assert found.shape == (3, 64 * 40)
    assert found.mean(1).tolist() == pytest.approx([known(3.0)] * 3, abs=0.1)


def test_noise_of_the_actions_is_known_to_it(monkeypatch: Any) -> None:
    """It is I(z; {s}, noise | s0): the noise is no part of what is not known."""
    networks = make_world(monkeypatch, 3.0, action_noise=5.0)
    found = estimate(networks, skills=64, starts=40)
    assert found.mean().item() == pytest.approx(known(3.0), abs=0.1)


@pytest.mark.parametrize("skills", [2, 4, 16])
def test_it_never_exceeds_the_log_of_the_number_of_skills(monkeypatch: Any, skills: Any) -> None:
    networks = make_world(monkeypatch, 1e-3)
    found = estimate(networks, skills, starts=20)
    assert known(1e-3) > log(16) + 5
    assert found.max().item() <= log(skills) + 1e-5
    assert found.mean().item() == pytest.approx(log(skills), abs=0.1)


def test_few_skills_estimate_too_little_and_never_too_much(monkeypatch: Any) -> None:
    networks = make_world(monkeypatch, 1.0)
    few, more, many = (estimate(networks, n, 2560 // n).mean().item() for n in (2, 8, 64))
    assert few < more < many < known(1.0) + 0.1


def test_skills_that_nothing_shows_or_that_are_alike_give_nothing(monkeypatch: Any) -> None:
    networks = make_world(monkeypatch, 3.0)
    alike = torch.ones(64, 1, 3)
    assert estimate(networks, 8, 8, alike).abs().max() < 1e-5
    unseen = torch.randn(64, 1, 3, generator=seeded())
    unseen[:, :, 0] = 0.0
    assert estimate(networks, 8, 8, unseen).abs().max() < 1e-5


def test_information_by_hand() -> None:
    """p = 0.6 under its own skill, 0.2 and 0.1 under two others: log (0.6 / 0.3)."""
    densities = torch.tensor([[0.6], [0.2], [0.1]]).log()
    assert information(densities).item() == pytest.approx(log(2))


def test_rivals_are_the_skills_of_the_other_rollouts_of_the_same_start() -> None:
    plans = torch.arange(6.0)[:, None, None]  # two starts of three
    rivals = others_of_start(plans, 3)[:, :, 0, 0].T.tolist()
    assert [set(x) for x in rivals] == [{1, 2}, {0, 2}, {0, 1}, {4, 5}, {3, 5}, {3, 4}]


def test_the_density_of_what_a_rollout_drew_is_the_density_that_it_was_drawn_from() -> None:
    """In the networks themselves: under its own plan every state's noise is the rollout's."""
    networks, rows = make_networks(), 5
    config = networks.config
    start, plans = make_latent(networks, rows), torch.randn(rows, 1, 3, generator=seeded(3))
    noise = networks.draw_noise(10, rows, generator=seeded(4))
    feature = networks.imagine(start, plans, noise).feature[1:]
    prior = networks.world_model.rssm.prior(feature[..., : config.model.deter])
    standard = Normal(torch.zeros_like(prior.mean), torch.ones_like(prior.std))
    expected = (standard.log_prob(noise.latent) - prior.std.log().sum(-1)).sum(0)
    stoch = feature[..., config.model.deter :]
    found = networks.log_likelihood(start, plans, noise.action, stoch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    elsewhere = networks.log_likelihood(start, plans + 1, noise.action, stoch)
    assert (elsewhere - expected).abs().min() > 1e-4


FORWARD = {"estimator": "forward", "intrinsic_scale": 1.0, "intrinsic_unit": "reward"}


def forward_update(scale: float = 1.0) -> Any:
    """Of networks whose rewards and values are nothing, and stay so."""
    networks = make_networks(
        skills=FORWARD | {"intrinsic_scale": scale}, model={"learning_rate": 1e-30}
    )
    with torch.no_grad():
        for head in (networks.world_model.reward_head, networks.value.net, networks.slow_value.net):
            linear(head).weight.zero_()
            linear(head).bias.zero_()
    before = {name: x.clone() for name, x in networks.policy.named_parameters()}
    learner = Learner(networks, seed=0)
    metrics = learner.update(make_batch(networks.config))
    after = dict(networks.policy.named_parameters())
    return metrics, max((before[name] - after[name]).abs().max().item() for name in before)


def test_it_alone_moves_the_policy_and_the_predictor_learns_on() -> None:
    metrics, moved = forward_update()
    assert moved > 1e-6
    assert metrics["gradient/policy"] > 1e-6
    assert metrics["gradient/skills"] > 1e-6
    names = {"skills/mutual_information", "skills/mutual_information_forward"}
    assert all(torch.isfinite(metrics[name]) for name in names)
    assert metrics["skills/mutual_information_forward"] <= log(2)
    paid = metrics["skills/intrinsic_reward"]
    torch.testing.assert_close(paid, metrics["skills/mutual_information_forward"])
    metrics, moved = forward_update(scale=0.0)
    assert metrics["gradient/policy"] < 1e-20
    assert moved < 1e-20


def test_both_estimates_are_probed_whatever_trains() -> None:
    names = {"skills/mutual_information_prior", "skills/mutual_information_prior_forward"}
    for estimator in ("backward", "forward"):
        networks = make_networks(skills={"estimator": estimator})
        learner = Learner(networks, seed=0)
        learner.update(make_batch(networks.config))
        assert names <= learner.probe_skills().keys()


def test_a_probe_knows_the_small_world(monkeypatch: Any) -> None:
    """Of one skill's trace under N(0, I), against 64 skills; χ is not asked."""
    networks = make_world(monkeypatch, 1.0)
    starts = make_latent(networks, 16)
    found = forward_probe(networks, starts, seeded(), num_rollouts=40)
    assert found["skills/mutual_information_prior_forward"] == pytest.approx(known(1.0), abs=0.1)


def test_skills_that_nobody_pays_for_are_probed_all_the_same() -> None:
    networks = make_networks("no_mi")
    learner = Learner(networks, seed=0)
    learner.update(make_batch(networks.config))
    probed = learner.probe_skills()
    assert "skills/mutual_information_prior_forward" in probed
    assert "skills/mutual_information_prior" not in probed


@pytest.mark.parametrize(
    ("method", "parts", "why"),
    [
        ("lsp", {"behavior": {"rollouts_per_start": 1}}, "at least 2, not 1"),
        ("no_mi", {}, "not no_mi"),
        ("dreamer", {}, "not dreamer"),
        ("cem", {}, "not cem"),
        ("hiro", {}, "not hiro"),
    ],
)
def test_it_is_refused_where_there_is_nothing_to_compare(method: Any, parts: Any, why: Any) -> None:
    config = change(make_config(method), **({"skills": {"estimator": "forward"}} | parts))
    with pytest.raises(UserError, match=f"skills.estimator = forward.*{why}|{why}.*forward"):
        validated(config)


def test_the_noise_is_the_rollouts_own() -> None:
    """Another action noise than the rollout's makes its own states unlikely."""
    networks = make_networks(policy={"init_std": 2.0})
    start, plans = make_latent(networks, 5), torch.randn(5, 1, 3, generator=seeded(3))
    noise = networks.draw_noise(10, 5, generator=seeded(4))
    other = networks.draw_noise(10, 5, generator=seeded(5))
    rollout = networks.imagine(start, plans, noise)
    stoch = rollout.feature[1:, :, networks.config.model.deter :]
    own, wrong = (networks.log_likelihood(start, plans, x.action, stoch) for x in (noise, other))
    assert (own > wrong).float().mean() >= 0.8
    assert isinstance(noise, RolloutNoise)


@pytest.mark.parametrize("stopped", [True, False])
def test_a_policy_that_ascends_it_shows_its_skills(stopped: Any) -> None:
    """Also those, and from those starts, that it did not learn from."""
    networks = make_networks(
        planner={"horizon": 5, "skill_length": 5},
        policy={"stop_input_gradient": stopped},
        model={"min_std": 0.5},
    )
    elsewhere = Latent(torch.zeros(16, 16), torch.randn(16, 4, generator=seeded(8)))
    name = "skills/mutual_information_prior_forward"
    before = forward_probe(networks, elsewhere, seeded())[name]
    starts = Latent(*(x.repeat_interleave(8, 0) for x in make_latent(networks, 8)))
    weights = list(networks.policy.parameters())
    optimizer, generator = torch.optim.Adam(weights, 1e-2), seeded(9)
    for _ in mostly_unchecked(range(40)):
        plans = torch.randn(64, 1, 3, generator=generator)
        noise = networks.draw_noise(5, 64, generator=generator)
        rollout = networks.imagine(starts, plans, noise)
        rivals = others_of_start(plans, 8)
        nats = forward_information(networks, rollout, plans, noise, rivals).mean()
        for weight, gradient in zip(weights, torch.autograd.grad(-nats, weights), strict=True):
            weight.grad = gradient
        optimizer.step()
    assert forward_probe(networks, elsewhere, seeded())[name] > 1.5 * before > 0
