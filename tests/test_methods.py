"""The baselines and ablations of section 4: what each has, and what it never does."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from builders import change, make_batch, make_networks

import lsp.algorithm.agent
import lsp.algorithm.learner
from lsp.algorithm.agent import Agent
from lsp.algorithm.learner import Learner
from lsp.config import (
    METHODS,
    PRESETS,
    differences,
    flattened,
    from_dict,
    make_config,
    to_dict,
    validated,
)
from lsp.config.serialization import ADDED
from lsp.errors import UserError
from lsp.models.distributions import Normal
from lsp.models.world_model import Latent


def live(method: Any, updates: Any = 2, steps: Any = 25) -> Any:
    """Learn a little, then act in both modes; the networks and the metrics of the last update."""
    networks = make_networks(method)
    learner = Learner(networks, 0)
    for _ in range(updates):
        metrics = learner.update(make_batch(networks.config))
    metrics |= learner.probe_skills()
    for mode in ("collect", "evaluate"):
        agent = Agent(networks, mode)
        for step in range(steps):
            action = agent.act({"position": np.full(5, step, np.float32)})
            assert (np.abs(action) <= 1).all()
    return networks, metrics


def forbid(monkeypatch: Any, name: Any, *modules: Any) -> None:
    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError(f"{name} was called")

    for module in modules:
        monkeypatch.setattr(module, name, refuse)


def skill_parameters(networks: Any) -> Any:
    """Names of what exists, and sizes of what it reads, because of skills."""
    names = {name for name in networks.state_dict() if "skill" in name or "shared" in name}
    return names, networks.policy.net[0].in_features - networks.world_model.features


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"hiro"}))  # it has no model
def test_every_method_learns_and_acts(method: Any) -> None:
    _, metrics = live(method)
    assert all(torch.isfinite(value).all() for value in metrics.values())


def test_dreamer_has_no_skills_anywhere(monkeypatch: Any) -> None:
    forbid(monkeypatch, "plan_skills", lsp.algorithm.agent, lsp.algorithm.learner)
    forbid(monkeypatch, "recognise_skills", lsp.algorithm.learner)
    networks, metrics = live("dreamer")
    assert skill_parameters(networks) == (set(), 0)
    assert not any(name.startswith(("skills/", "planner/")) for name in metrics)


def test_dreamer_is_lsp_with_everything_else_equal() -> None:
    ours, dreamers = (make_networks(method) for method in ("lsp", "dreamer"))
    named, size = skill_parameters(ours)
    assert named
    assert size == ours.config.skills.dim
    theirs = dreamers.state_dict()
    same = {k for k, x in ours.state_dict().items() if k in theirs and x.shape == theirs[k].shape}
    other = {k for k in ours.state_dict() if k not in same}
    assert other - named == {"policy.net.0.weight"}  # which reads the skill


@pytest.mark.parametrize("method", ["random_skills", "rand_skills_init"])
def test_random_skills_are_never_planned(monkeypatch: Any, method: Any) -> None:
    forbid(monkeypatch, "plan_skills", lsp.algorithm.agent, lsp.algorithm.learner)
    _, metrics = live(method)
    assert not any(name.startswith("planner/") for name in metrics)


@pytest.mark.parametrize("mode", ["collect", "evaluate"])
def test_random_skills_are_standard_normal_and_held_for_k_steps(mode: Any) -> None:
    networks = make_networks("random_skills")
    length, count = networks.config.planner.skill_length, 500
    agent = Agent(networks, mode, count)
    skills = []
    for _ in range(2 * length + 1):
        agent.act({"position": np.zeros((count, 5), np.float32)})
        skills.append(agent.skill)
    changed = [not torch.equal(x, y) for x, y in pairwise(skills)]
    assert changed == [step % length == 0 for step in range(1, 2 * length + 1)]
    drawn = torch.cat([skills[0], skills[length], skills[-1]])
    assert drawn.mean().item() == pytest.approx(0, abs=0.06)
    assert drawn.std().item() == pytest.approx(1, abs=0.06)


def test_random_skills_are_paid_for_being_told_apart() -> None:
    networks, metrics = live("random_skills")
    assert hasattr(networks, "skill_predictor")
    assert {"skills/log_q", "skills/intrinsic_reward"} <= metrics.keys()


@pytest.mark.parametrize("method", ["no_mi", "rand_skills_init"])
def test_without_the_intrinsic_reward_there_is_no_predictor_and_no_second_value(
    monkeypatch: Any, method: Any
) -> None:
    forbid(monkeypatch, "recognise_skills", lsp.algorithm.learner)
    forbid(monkeypatch, "skill_loss", lsp.algorithm.learner)
    networks, metrics = live(method)
    assert not hasattr(networks, "skill_predictor")
    assert networks.value.net[-1].out_features == 1
    assert networks.policy.net[0].in_features > networks.world_model.features  # reads its skill
    assert not {"skills/log_q", "skills/intrinsic_reward"} & metrics.keys()


def test_no_mi_still_plans() -> None:
    _, metrics = live("no_mi")
    assert {"planner/value", "skills/effect"} <= metrics.keys()


@pytest.mark.parametrize("method", ["dreamer", "random_skills", "rand_skills_init", "hiro", "cem"])
@pytest.mark.parametrize("preset", PRESETS)
def test_what_plans_nothing_in_updates_has_one_number_of_iterations(
    method: str, preset: str
) -> None:
    planner = make_config(method, preset).planner
    assert planner.acting_iterations is None
    if method != "cem":
        assert planner.num_iterations == make_config("lsp", preset).acting_iterations


@pytest.mark.parametrize("method", METHODS)
def test_modern_is_fast_with_actions_planned_around_the_policy_and_more_updates(
    method: str,
) -> None:
    fast, modern = (make_config(method, preset) for preset in ("fast", "modern"))
    same = replace(modern, preset="fast", actions=fast.actions, schedule=fast.schedule)
    same = replace(same, optimizer=fast.optimizer)
    assert same == fast
    assert modern.actions.num_candidates == (0 if method in ("cem", "hiro") else 128)
    updates = (10, 0) if method == "hiro" else (2, 1000)
    assert (modern.schedule.update_every, modern.schedule.pretrain) == updates
    assert modern.optimizer.average_rate > 0
    validated(modern)


def test_cem_is_a_world_model_and_nothing_else() -> None:
    networks, metrics = live("cem")
    assert {name.split(".")[0] for name, _ in networks.named_parameters()} == {"world_model"}
    assert list(Learner(networks, 0).optimizers) == ["model"]
    assert not any(name.startswith(("policy/", "value/", "skills/")) for name in metrics)


def test_cem_takes_as_many_model_steps_a_plan_as_lsp() -> None:
    lsp, cem = (make_config(method, "fast") for method in ("lsp", "cem"))
    assert lsp.acting_iterations == cem.acting_iterations
    for name in ("num_candidates", "num_elites", "horizon"):
        assert getattr(lsp.planner, name) == getattr(cem.planner, name)
    planet = make_config("cem", "paper").planner
    assert (planet.num_candidates, planet.num_elites) == (1000, 100)
    assert (planet.num_iterations, planet.horizon, planet.skill_length) == (10, 12, 1)


class Line:
    """A known world: the action moves the state, and the reward is best at a target."""

    def __init__(self, networks: Any, target: Any) -> None:
        self.target = torch.as_tensor(target)
        networks.world_model.rssm.imagine = self.imagine
        networks.world_model.reward_head.forward = self.reward

    def imagine(self, latent: Any, action: Any, noise: Any) -> Any:
        moved = latent.deter.clone()
        moved[:, :2] += action
        return Latent(moved, latent.stoch)

    def reward(self, feature: Any) -> Any:
        return -(feature[..., :2] - self.target).square().sum(-1, keepdim=True)


@pytest.mark.parametrize("target", [(0.4, -0.3), (3.0, 0.0), (-0.2, -5.0)])
def test_cem_finds_the_optimum_of_a_known_world(target: Any) -> None:
    """One step reaches a near target; a far one is best approached at full speed."""
    search = {"num_candidates": 400, "num_elites": 40, "num_iterations": 12, "horizon": 3}
    networks = make_networks("cem", planner=search)
    Line(networks, target)
    agent = Agent(networks, "evaluate")

    def stay(latent: Any, *rest: Any) -> Any:
        return latent, Normal(latent.stoch, latent.stoch)

    # At the origin.
    networks.world_model.rssm.filter = stay  # type: ignore[assignment, method-assign]
    action = agent.act({"position": np.zeros(5, np.float32)})
    np.testing.assert_allclose(action, np.clip(target, -1, 1), atol=0.05)


def test_cem_explores_only_while_collecting() -> None:
    networks = make_networks("cem")
    looking, noisy = (Agent(networks, mode, seed=1) for mode in ("evaluate", "collect"))
    observation = {"position": np.zeros(5, np.float32)}
    one, other = looking.act(observation), noisy.act(observation)
    assert not np.array_equal(one, other)
    np.testing.assert_allclose(noisy.skill, looking.skill)


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("cem", {"planner": {"scope": "shared"}}, "planner.scope"),
        ("random_skills", {"planner": {"scope": "shared"}}, "planner.scope"),
        ("lsp", {"planner": {"over": "actions"}}, "skills.dim must be 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    method: Any, changes: Any, message: Any
) -> None:
    config = change(make_config(method, "debug"), **changes)
    with pytest.raises(UserError, match=message):
        validated(config)


def test_a_run_from_before_a_setting_is_read_as_what_it_was() -> None:
    """By values that do what it did, whatever the preset says today; others must be there."""
    config = make_config("lsp", "paper")
    values = to_dict(config)
    for name in ADDED:
        section, _, field = name.rpartition(".")
        del (values[section] if section else values)[field]  # each is a setting
    read = flattened(to_dict(from_dict(values)))
    added = flattened(ADDED)
    assert {name: read[name] for name in added} == added
    assert {k: v for k, v in read.items() if k not in added}.items() <= flattened(
        to_dict(config)
    ).items()
    assert from_dict(to_dict(config)) == config
    del values["planner"]["horizon"]
    with pytest.raises(UserError, match="planner: unknown or missing settings: horizon"):
        from_dict(values)


def test_a_run_that_noted_no_anchor_as_0_is_read() -> None:
    older = to_dict(make_config("lsp", "debug"))
    older["transfer"] |= {"anchor": 0.0, "anchor_rate": 0.0, "new_share": 0.0}
    assert not validated(from_dict(older)).transfer.anchor
    assert differences(from_dict(older), make_config("lsp", "debug")) == []
    older["transfer"]["anchor"] = 0.1
    with pytest.raises(UserError, match=r"need a transfer\.source"):
        validated(from_dict(older))


@pytest.mark.parametrize("part", ["model", "policy"])
def test_a_least_deviation_is_not_negative(part: Any) -> None:
    for least in (-1.0, float("nan")):
        with pytest.raises(UserError, match=rf"{part}\.min_std must be"):
            validated(make_config("lsp", "debug", **{f"{part}.min_std": least}))
    validated(make_config("lsp", "debug", **{f"{part}.min_std": 0.0}))
