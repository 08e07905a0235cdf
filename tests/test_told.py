"""Skills that differ in chosen observations: what χ reads is what the model decodes of them."""

from typing import Any

import numpy as np
import pytest
import torch
from builders import change, make_batch, make_networks, seeded

from lsp.algorithm.behavior import recognise_skills
from lsp.algorithm.learner import Learner
from lsp.backends.backends import NativeBackend
from lsp.config import make_config, validated
from lsp.errors import UserError

SHAPES = {"gyro": (3,), "joints": (5,), "speed": (1,)}


def make_told(reads: Any = ("speed", "gyro"), **parts: Any) -> Any:
    skills = {"reads": reads} | parts.pop("skills", {})
    return make_networks(shapes=SHAPES, skills=skills, **parts)


def test_what_is_told_is_what_is_decoded_in_the_order_that_was_asked_for() -> None:
    networks = make_told()
    feature = torch.randn(7, 4, networks.world_model.features, generator=seeded(0))
    decoded = networks.world_model.decoder(feature)
    expected = torch.cat([decoded["speed"], decoded["gyro"]], -1)
    assert torch.equal(networks.told(feature), expected)
    assert make_networks(shapes=SHAPES).told(feature) is feature


def test_the_predictor_reads_as_many_numbers() -> None:
    networks = make_told()
    count = networks.config.skills.num_states + 1
    assert networks.skill_predictor.net[0].in_features == 4 * count


def test_evidence_depends_on_what_is_told_alone() -> None:
    """States that are decoded alike in what is read are the same to χ, and others are not."""
    networks = make_told(reads=("speed",))
    generator = seeded(0)
    length, features = networks.config.planner.skill_length, networks.world_model.features
    feature = torch.randn(length + 1, 6, features, generator=generator)
    plans = torch.randn(6, networks.config.plan_length, 3, generator=generator)

    def evidence(of: Any) -> Any:
        return recognise_skills(networks, of, plans, seeded(1)).log_q[0]

    model = networks.world_model
    with torch.no_grad():  # the decoder sees the first number of a state alone
        model.decoder.mlp[0].weight[:, 1:] = 0.0
    changed = feature.clone()
    changed[..., 1:] += 1.0
    assert torch.equal(evidence(feature), evidence(changed))
    changed[..., 0] += 1.0
    assert not torch.allclose(evidence(feature), evidence(changed))


def test_the_reward_reaches_the_policy_through_the_decoder() -> None:
    networks = make_told(behavior={"horizon": 10})
    metrics = Learner(networks, seed=0).update(make_batch(networks.config, SHAPES))
    assert float(metrics["skills/loss"]) == float(metrics["skills/loss"])
    feature = torch.randn(11, 4, networks.world_model.features, generator=seeded(0))
    feature.requires_grad_()
    plans = torch.zeros(4, networks.config.plan_length, 3)
    reward = recognise_skills(networks, feature, plans, seeded(1)).reward
    (gradient,) = torch.autograd.grad(reward.sum(), feature)
    assert gradient.abs().sum() > 0


def test_the_decoder_is_not_learned_by_it() -> None:
    """The world model fits observations, not skills."""
    networks = make_told()
    learner = Learner(networks, seed=0)
    assert not any(x.requires_grad for x in learner.backend.frozen_copy.world_model.parameters())
    before = [x.clone() for x in networks.world_model.decoder.parameters()]
    learner.optimizers["model"].param_groups[0]["lr"] = 0.0
    learner.update(make_batch(networks.config, SHAPES))
    after = networks.world_model.decoder.parameters()
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


def test_kernels_agree() -> None:
    updated = []
    for native in (False, True):
        networks = make_told(behavior={"horizon": 10})
        learner = Learner(networks, 0, NativeBackend(networks) if native else None)
        for seed in range(3):
            metrics = learner.update(make_batch(networks.config, SHAPES, seed=seed))
        updated.append({name: float(x) for name, x in metrics.items()})
    for name, value in updated[0].items():
        assert updated[1][name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


@pytest.mark.parametrize("shapes", [SHAPES, {"image": (64, 64, 3)}])
def test_what_is_not_observed_cannot_be_told(shapes: Any) -> None:
    with pytest.raises(UserError, match=r"skills\.reads: .* has no vector gyroscope: choose of"):
        make_networks(shapes=shapes, skills={"reads": ("gyroscope",)})


def test_images_cannot_be_told() -> None:
    with pytest.raises(UserError, match="no vector image: choose of none, as it observes images"):
        make_networks(shapes={"image": (64, 64, 3)}, skills={"reads": ("image",)})


@pytest.mark.parametrize("method", ["hiro", "dreamer", "no_mi"])
def test_methods_that_pay_for_no_skills_refuse_it(method: str) -> None:
    with pytest.raises(UserError, match=r"skills\.reads"):
        validated(change(make_config(method, "debug"), skills={"reads": ("speed",)}))


def test_it_learns_to_tell_a_skill_that_shows_in_what_is_read() -> None:
    """χ finds a skill in the one observation that it reads, and none in what it does not read."""
    found = {}
    for key in ("speed", "joints"):
        networks = make_told(reads=(key,), skills={"dim": 1, "learning_rate": 1e-2})
        model, generator = networks.world_model, seeded(0)
        length = networks.config.planner.skill_length
        optimizer = torch.optim.Adam(networks.skill_predictor.parameters(), 1e-2)
        with torch.no_grad():
            model.decoder.mlp[-1].weight.zero_()
        for _ in range(150):
            plans = torch.randn(64, networks.config.plan_length, 1, generator=generator)
            decoded = {name: torch.zeros(length + 1, 64, *shape) for name, shape in SHAPES.items()}
            decoded["speed"] += plans[:, 0]
            model.decoder.vectors_of = lambda feature, decoded=decoded: decoded
            feature = torch.zeros(length + 1, 64, model.features)
            log_q = recognise_skills(networks, feature, plans, generator).log_q[0].mean()
            optimizer.zero_grad()
            (-log_q).backward()
            optimizer.step()
        found[key] = log_q.item() + 0.5 * np.log(2 * np.pi * np.e)  # nats
    assert found["speed"] > 1.0
    assert found["joints"] < 0.3
