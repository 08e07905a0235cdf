"""A policy that adapts is held to what its source's policy does in the same observations."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from builders import make_batch, make_networks, seeded

from lsp.algorithm.agent import Agent
from lsp.algorithm.behavior import anchor_loss
from lsp.algorithm.learner import Learner
from lsp.backends.backends import EagerBackend, NativeBackend
from lsp.config import TransferConfig
from lsp.errors import UserError
from lsp.models.distributions import TanhNormal


def transferred(method: Any = "lsp", **transfer: Any) -> Any:
    """Networks of a transfer whose model hardly learns."""
    return make_networks(
        method,
        transfer={"source": "somewhere", "anchor": 0.5} | transfer,
        model={"learning_rate": 1e-6},
        policy={"min_std": 0.1, "learning_rate": 1e-2},
    )


def observe(step: int) -> dict[str, np.ndarray]:
    return {"position": np.random.default_rng(step).normal(size=5).astype(np.float32)}


def kl_now(networks: Any, batch: Any) -> Any:
    """Of the policy from the anchor's, on the posteriors of a batch."""
    data = {key: torch.as_tensor(x) for key, x in batch.items()}
    generator = seeded(7)
    noise = networks.world_model.posterior_noise(data, generator)
    _, latents, _ = networks.world_model.loss(data, generator, None, noise)
    return anchor_loss(networks, latents, data, noise, generator)[0].item()


def test_the_kl_of_squashed_normals_is_that_of_the_normals() -> None:
    one = TanhNormal(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 2.0]]))
    other = TanhNormal(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 1.0]]))
    # log 2 + (1/4 + 1) / 2 - 1/2, and -log 2 + 4 / 2 - 1/2
    expected = (np.log(2) + 0.125) + (-np.log(2) + 1.5)
    torch.testing.assert_close(one.kl(other), torch.tensor([expected], dtype=torch.float32))
    # And what samples of it say of the squashed densities.
    noise = torch.randn(200_000, 2, generator=seeded())
    before = one.mean + one.std * noise
    densities = [
        torch.distributions.TransformedDistribution(
            torch.distributions.Normal(each.mean, each.std), torch.distributions.TanhTransform()
        )
        for each in (one, other)
    ]
    actions = torch.tanh(before.double()).clamp(-1 + 1e-12, 1 - 1e-12)
    log_ratio = (densities[0].log_prob(actions) - densities[1].log_prob(actions)).sum(-1)
    assert abs(log_ratio.mean().item() - expected) < 0.02


@pytest.mark.parametrize("method", ["lsp", "dreamer"])
def test_nothing_is_held_back_before_anything_is_learned(method: Any) -> None:
    networks = transferred(method)
    assert kl_now(networks, make_batch(networks.config)) == 0


def test_an_anchor_reads_observations_and_not_latents() -> None:
    """With another model the policy of the same weights does something else, and that shows."""
    networks = transferred()
    with torch.no_grad():
        for weight in networks.world_model.rssm.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=seeded(1)))
    assert kl_now(networks, make_batch(networks.config)) > 0.05


def test_a_frozen_policy_with_an_anchor_follows_its_source_and_nothing_else() -> None:
    """The policy's weights are disturbed: with the KL alone to descend it finds back."""
    networks = transferred(freeze_policy=True)
    with torch.no_grad():
        networks.policy.net[-1].bias.add_(0.5)
    batch = make_batch(networks.config)
    before, learner = kl_now(networks, batch), Learner(networks, seed=0)
    frozen = {name: x.clone() for name, x in networks.anchor.state_dict().items()}
    predictor = networks.skill_predictor.net[0].weight.clone()
    for seed in range(60):
        metrics = learner.update(make_batch(networks.config, seed=seed), env_steps=10**6)
    assert kl_now(networks, batch) < 0.1 * before
    assert metrics["policy/anchor_kl"] < 0.1 * before
    assert all(torch.equal(x, frozen[name]) for name, x in networks.anchor.state_dict().items())
    assert torch.equal(networks.skill_predictor.net[0].weight, predictor)


@pytest.mark.parametrize("backend", [EagerBackend, NativeBackend])
@pytest.mark.parametrize("mode", ["evaluate", "collect"])
def test_a_fixed_behavior_stays_what_it_was_whatever_is_learned(backend: Any, mode: Any) -> None:
    """Under given skills the agent does the same before and after model and policy change."""
    networks = transferred(freeze_policy=True)
    skills = np.random.default_rng(0).normal(size=(8, networks.config.skills.dim))

    def actions() -> Any:
        agent = Agent(networks, mode, seed=3, backend=backend(networks.for_acting()))
        return np.array([agent.act(observe(t), skill) for t, skill in enumerate(skills)])

    before = actions()
    with torch.no_grad():
        for part in (networks.world_model, networks.policy):
            for weight in part.parameters():
                weight.add_(0.3 * torch.randn(weight.shape, generator=seeded(1)))
    np.testing.assert_array_equal(actions(), before)
    networks.config = replace(networks.config, transfer=TransferConfig("a", anchor=0.5))
    assert np.abs(actions() - before).max() > 0.1


@pytest.mark.parametrize("kind", [EagerBackend, NativeBackend])
def test_an_anchor_filters_in_full_precision_whatever_the_rest_does(kind: Any) -> None:
    networks = transferred()
    backend = kind(networks, torch.bfloat16)
    assert {x.dtype for x in backend.frozen_copy.anchor.parameters()} == {torch.float32}
    metrics = Learner(networks, 0, backend).update(make_batch(networks.config))
    assert metrics["policy/anchor_kl"] == pytest.approx(0, abs=0.1)


def test_until_something_is_learned_a_fixed_behavior_is_the_policys() -> None:
    networks = transferred(freeze_policy=True)
    fixed, free = Agent(networks, seed=3), Agent(transferred(), seed=3)
    for step in range(4):
        np.testing.assert_array_equal(fixed.act(observe(step)), free.act(observe(step)))


def test_a_fixed_behavior_goes_on_from_its_state() -> None:
    networks = transferred(freeze_policy=True)
    with torch.no_grad():
        networks.world_model.rssm.enter.weight.mul_(2)
    agent, resumed = (Agent(networks, "collect", seed=seed) for seed in (1, 9))
    for step in range(5):
        agent.act(observe(step))
    resumed.load_state({name: x.clone() for name, x in agent.state().items()})
    np.testing.assert_array_equal(agent.act(observe(5)), resumed.act(observe(5)))


def test_an_anchor_weighs_in_units_of_returns_and_fades(monkeypatch: Any) -> None:
    """Without gradient from returns the loss that is descended is weight · size · KL."""
    networks = transferred(anchor=0.5, anchor_steps=1000)
    networks.return_size.fill_(8.0)
    learner, losses = Learner(networks, seed=0), {}
    kl = torch.tensor(3.0)
    monkeypatch.setattr("lsp.algorithm.learner.policy_loss", lambda *_: (torch.tensor(-2.0), {}))
    monkeypatch.setattr(
        "lsp.algorithm.learner.anchor_loss", lambda *_: (kl, {"policy/anchor_kl": kl})
    )
    monkeypatch.setattr(networks, "track_return_size", lambda *_: None)

    def descend(name: Any, loss: Any, again: Any = False) -> Any:
        losses[name] = loss.item()
        return {}

    monkeypatch.setattr(learner, "descend", descend)
    for env_steps, weight in ((0, 0.5), (500, 0.25), (1000, 0.0), (5000, 0.0)):
        learner.update(make_batch(networks.config), env_steps)
        assert losses["policy"] == pytest.approx(-2 + weight * 8 * 3)


@pytest.mark.parametrize("method", ["lsp", "dreamer"])
def test_a_moving_anchor_takes_over_a_share_of_the_policy(method: Any) -> None:
    networks = transferred(method, anchor_rate=0.25)
    assert kl_now(networks, make_batch(networks.config)) == 0
    before = {name: x.clone() for name, x in networks.policy.state_dict().items()}
    Learner(networks, seed=0).update(make_batch(networks.config))
    for name, now in networks.policy.state_dict().items():
        expected = 0.75 * before[name] + 0.25 * now
        torch.testing.assert_close(networks.anchor.policy.state_dict()[name], expected)
    assert kl_now(networks, make_batch(networks.config)) > 0


def test_a_moving_anchor_reads_latents() -> None:
    networks = transferred(anchor_rate=0.1)
    with torch.no_grad():
        for weight in networks.world_model.rssm.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=seeded(1)))
    assert kl_now(networks, make_batch(networks.config)) == 0


@pytest.mark.parametrize("backend", [EagerBackend, NativeBackend])
def test_a_moving_anchor_keeps_the_policy_slow(backend: Any) -> None:
    def change(**transfer: Any) -> float:
        networks = transferred(**transfer)
        before = networks.policy.net[0].weight.clone()
        learner = Learner(networks, 0, backend(networks))
        for seed in range(10):
            learner.update(make_batch(networks.config, seed=seed))
        distance: float = (networks.policy.net[0].weight - before).norm().item()
        return distance

    assert change(anchor=10.0, anchor_rate=0.01) < 0.7 * change(anchor=0.0)


def test_an_anchor_without_steps_stays() -> None:
    assert TransferConfig(anchor=0.3).anchor_at(10**9) == 0.3


@pytest.mark.parametrize(
    ("method", "transfer", "complaint"),
    [
        ("cem", {}, "which cem lacks"),
        ("hiro", {}, "which hiro lacks"),
        ("hiro", {"anchor": 0.0, "keep_replay": True}, "which hiro lacks"),
        ("lsp", {"anchor": -1.0}, "transfer.anchor must be at least 0"),
        ("lsp", {"anchor_steps": 0}, "transfer.anchor_steps must be at least 1"),
        ("lsp", {"anchor": 0.0, "anchor_steps": 5}, "anchor_steps needs a transfer.anchor"),
        ("lsp", {"anchor": 0.0, "anchor_rate": 0.5}, "anchor_rate needs a transfer.anchor"),
        ("lsp", {"anchor_rate": 1.0}, "anchor_rate must be at least 0 and below 1"),
        ("lsp", {"anchor_rate": 0.5, "freeze_policy": True}, "would be held to itself"),
        ("lsp", {"new_share": 1.0, "relabel": True}, "new_share must be at least 0 and below 1"),
        ("lsp", {"new_share": 0.5}, "new_share is that of a relabelled replay"),
    ],
)
def test_an_anchor_that_holds_nothing_is_refused(
    method: Any, transfer: Any, complaint: Any
) -> None:
    with pytest.raises(UserError, match=complaint):
        transferred(method, **transfer)


def test_policy_and_predictor_can_be_left_as_they_are() -> None:
    networks = transferred(anchor=0.0)
    before = {name: x.clone() for name, x in networks.state_dict().items()}
    Learner(networks, seed=0).update(make_batch(networks.config), hold_policy=True)
    after = networks.state_dict()
    changed = [name for name in after if not torch.equal(before[name], after[name])]
    assert {name.partition(".")[0] for name in changed} == {
        "world_model",
        "value",
        "slow_value",
        "return_size",
    }


def test_from_the_sources_episodes_the_model_learns_alone(monkeypatch: Any) -> None:
    """Half of the batch: behaviour starts in the other half, and unpaid rewards count nothing."""
    networks = transferred(anchor=0.0, keep_replay=True)
    config, seen = networks.config, {}
    learner, own = Learner(networks, seed=0), config.own_sequences
    assert own == config.replay.batch // 2

    def starts(latents: Any, is_terminal: Any, *rest: Any) -> Any:
        seen["starts"] = latents.deter.shape[0], is_terminal.shape[0]
        return original(latents, is_terminal, *rest)

    from lsp.algorithm.behavior import draw_starts as original

    monkeypatch.setattr("lsp.algorithm.learner.draw_starts", starts)
    batch = make_batch(config)
    batch["is_paid"] = np.ones_like(batch["is_first"])
    batch["is_paid"][own:] = False
    learner.update(batch)
    assert seen["starts"] == (own, own)


def test_a_reward_that_is_not_known_is_not_learned() -> None:
    networks = transferred(anchor=0.0, keep_replay=True)
    batch = make_batch(networks.config)
    half = networks.config.own_sequences
    batch["is_paid"] = np.ones_like(batch["is_first"])
    batch["is_paid"][half:] = False

    def learned(reward: Any) -> Any:
        data = {key: torch.as_tensor(x) for key, x in (batch | {"reward": reward}).items()}
        generator = seeded()
        loss, _, metrics = networks.world_model.loss(data, generator)
        return loss, metrics["model/reward_error"]

    other = batch["reward"].copy()
    other[half:] += 100
    assert torch.equal(learned(batch["reward"])[0], learned(other)[0])
    # The mean over the rows that are paid.
    data = {key: torch.as_tensor(x) for key, x in batch.items()}
    _, latents, _ = networks.world_model.loss(data, seeded())
    error = networks.world_model.reward_head(latents.feature).squeeze(-1) - data["reward"]
    expected = error[:half].square().mean().sqrt()
    torch.testing.assert_close(learned(batch["reward"])[1], expected.detach())
