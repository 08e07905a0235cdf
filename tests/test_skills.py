"""Intrinsic reward alone makes skills distinguishable, on a world small enough to see why."""

from functools import cache
from typing import Any

import pytest
import torch
from builders import linear
from unchecked import mostly_unchecked

from lsp.config import PolicyConfig, SkillsConfig
from lsp.models.actor_critic import Policy
from lsp.models.imagination import RolloutNoise, imagine
from lsp.models.skills import (
    SkillPredictor,
    batch_density,
    intrinsic_reward,
    segments,
    standard_normal_entropy,
)
from lsp.models.world_model import Latent

K, ROWS, DIM = 10, 128, 2
STEP = 0.05


class Walker:
    """A point on a plane that moves by its actions, a policy that knows the skill, and χ."""

    def __init__(self, input_noise: Any, reward_scale: Any = 1.0, seed: Any = 0) -> None:
        torch.manual_seed(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.scale = reward_scale
        self.policy = Policy(2, DIM, 2, PolicyConfig(layers=(32, 32), init_std=0.5))
        with torch.no_grad():
            linear(self.policy.net).weight.mul_(0.1)  # hardly listens to its skill
        skills = SkillsConfig(dim=DIM, input_noise=input_noise, layers=(64, 64))
        self.predictor = SkillPredictor(2, skills)
        self.policy_optimizer = torch.optim.Adam(self.policy.parameters(), 3e-3)
        self.predictor_optimizer = torch.optim.Adam(self.predictor.parameters(), 3e-3)

    def transition(self, latent: Any, skill: Any, noise: Any) -> Any:
        action = self.policy(latent.feature, skill).sample(noise.action)
        return Latent(latent.deter + STEP * action, latent.stoch), action

    def rollout(self, skill: Any) -> Any:
        rows = skill.shape[0]
        start = Latent(0.3 * torch.randn(rows, 2, generator=self.generator), torch.zeros(rows, 0))
        actions = torch.randn(K, rows, 2, generator=self.generator)
        noise = RolloutNoise(actions, torch.zeros(K, rows, 0))
        return imagine(start, skill[:, None], K, self.transition, noise)

    def draw(self, rows: Any = ROWS) -> Any:
        return torch.randn(rows, DIM, generator=self.generator)

    def log_q(self, feature: Any, skill: Any) -> Any:
        return [self.predictor(x, self.generator).log_prob(skill) for x in segments(feature, K)]

    def update(self) -> None:
        skill = self.draw()
        feature = self.rollout(skill).feature
        reward = intrinsic_reward(self.log_q(feature, skill), K, K, DIM)
        loss = -self.scale * reward.sum(0).mean()
        self._step(self.policy_optimizer, self.policy, loss)
        self._step(
            self.predictor_optimizer, self.predictor, -self.log_q(feature.detach(), skill)[0].mean()
        )

    @staticmethod
    def _step(optimizer: Any, module: Any, loss: Any) -> None:
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        for weight, gradient in zip(module.parameters(), gradients, strict=True):
            weight.grad = gradient
        optimizer.step()

    @torch.no_grad()
    def information(self) -> Any:
        """Nats that χ has about the skill: log q minus the log density under the skills' own."""
        skill = self.draw(2000)
        log_q = self.log_q(self.rollout(skill).feature, skill)[0]
        return (log_q - batch_density(skill).log_prob(skill)).mean().item()

    @torch.no_grad()
    def spread(self) -> Any:
        """How far apart different skills end, from where they began."""
        feature = self.rollout(self.draw(2000)).feature
        return (feature[-1] - feature[0]).std(0).mean().item()


@cache
def trained(input_noise: Any, updates: Any = 200) -> Any:
    walker = Walker(input_noise)
    before = walker.information(), walker.spread()
    for _ in mostly_unchecked(range(updates)):
        walker.update()
    return before, (walker.information(), walker.spread())


@pytest.mark.long
def test_intrinsic_reward_alone_makes_skills_distinguishable() -> None:
    (before, _), (after, _) = trained(0.1)
    assert before < 0.1
    assert after > 1.0


@pytest.mark.long
def test_input_noise_pushes_skills_apart() -> None:
    (_, untrained), (_, near) = trained(0.01)
    (_, far) = trained(0.5)[1]
    assert near > 1.2 * untrained
    assert far > 1.3 * near


def test_what_no_skill_changes_tells_nothing_about_skills() -> None:
    walker = Walker(input_noise=0.1)
    linear(walker.policy.net, 0).weight.data[:, -DIM:] = 0  # a policy that is deaf to its skill
    for _ in mostly_unchecked(range(60)):
        skill = walker.draw()
        feature = walker.rollout(skill).feature.detach()
        loss = -walker.log_q(feature, skill)[0].mean()
        walker._step(walker.predictor_optimizer, walker.predictor, loss)
    assert walker.information() < 0.1


def test_the_entropy_of_three_standard_normals_is_four_and_a_quarter_nats() -> None:
    assert standard_normal_entropy(3) == pytest.approx(4.2568, abs=1e-4)
    base = torch.distributions.Normal(torch.zeros(5), torch.ones(5))
    assert standard_normal_entropy(5) == pytest.approx(base.entropy().sum().item())


def states_read(skill_length: Any, num_states: Any = 10) -> Any:
    """Which states of a segment χ reads: those that its output depends on."""
    predictor = SkillPredictor(1, SkillsConfig(input_noise=0.0, num_states=num_states))
    segment = torch.zeros(skill_length + 1, 1, 1, requires_grad=True)
    predictor(segment, torch.Generator()).mean.sum().backward()
    assert segment.grad is not None
    return [t for t, g in enumerate(segment.grad.flatten().tolist()) if g != 0]


@pytest.mark.parametrize(
    ("skill_length", "states"),
    [
        (10, list(range(11))),
        (30, [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30]),
        (15, [0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15]),
        (5, [0, 1, 2, 3, 4, 5]),
        (1, [0, 1]),
    ],
)
def test_the_first_state_and_ten_evenly_spaced_ones_are_read(
    skill_length: Any, states: Any
) -> None:
    assert states_read(skill_length) == states


def test_one_predictor_serves_any_skill_length() -> None:
    predictor = SkillPredictor(4, SkillsConfig())
    for skill_length in (5, 10, 30):
        segment = torch.zeros(skill_length + 1, 6, 4)
        assert predictor(segment, torch.Generator()).mean.shape == (6, 3)


def test_the_predictor_reads_through_noise_of_the_given_size() -> None:
    torch.manual_seed(0)
    predictor = SkillPredictor(1, SkillsConfig(dim=1, input_noise=0.5, layers=()))
    with torch.no_grad():
        linear(predictor.net).weight.zero_()
        linear(predictor.net).weight[0, 3] = 1.0  # the mean is what is read of s_3
    segment = torch.full((11, 20_000, 1), 2.0)
    read = predictor(segment, torch.Generator().manual_seed(0)).mean
    assert read.mean().item() == pytest.approx(2.0, abs=0.02)
    assert read.std().item() == pytest.approx(0.5, abs=0.02)


def test_a_predictor_never_claims_to_be_too_sure_or_too_unsure() -> None:
    predictor = SkillPredictor(2, SkillsConfig(std_bounds=(0.1, 1.5)))
    for size in (-1e4, 1e4):
        with torch.no_grad():
            linear(predictor.net).bias.fill_(size)
        std = predictor(torch.zeros(11, 1, 2), torch.Generator()).std
        assert (std >= 0.0999).all()
        assert (std <= 1.6001).all()


def test_the_density_of_a_batch_is_the_normal_fitted_to_it() -> None:
    fitted = batch_density(torch.tensor([[0.0, 5.0], [2.0, 5.0]]))
    assert fitted.mean.tolist() == [1.0, 5.0]
    assert fitted.std.tolist() == pytest.approx([1.0, 1e-3])
