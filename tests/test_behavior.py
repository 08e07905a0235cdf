"""What behaviour learning changes, and through which path the gradient gets there."""

from typing import Any

import numpy as np
import pytest
import torch
from builders import (
    ACTIONS,
    SHAPES,
    change,
    linear,
    make_batch,
    make_latent,
    make_networks,
    seeded,
)
from torch.utils._python_dispatch import TorchDispatchMode
from unchecked import mostly_unchecked

from lsp.algorithm.agent import Agent
from lsp.algorithm.behavior import (
    Estimates,
    Starts,
    draw_starts,
    entropy_bonus,
    estimate_values,
    intrinsic_scale,
    policy_loss,
    recognise_skills,
    repeat_starts,
    replayed_value_loss,
    value_loss,
)
from lsp.algorithm.cem import Plan
from lsp.algorithm.diagnostics import skill_information
from lsp.algorithm.learner import Learner
from lsp.algorithm.skill_planning import SkillPrior, draw_skills, score_plans, skill_sources
from lsp.config import make_config, validated
from lsp.errors import UserError
from lsp.models.distributions import softly_clamped_std
from lsp.models.networks import HeadOutputs, NewTask
from lsp.models.world_model import Latent

aten = torch.ops.aten


def make_starts(networks: Any, count: Any = 6) -> Any:
    return Starts(make_latent(networks, count), torch.ones(count))


def zero_last_layer(mlp: Any) -> None:
    with torch.no_grad():
        mlp[-1].weight.zero_()
        mlp[-1].bias.zero_()


def silence_reward_and_value(networks: Any) -> None:
    zero_last_layer(networks.world_model.reward_head)
    zero_last_layer(networks.value.net)
    networks.slow_value.load_state_dict(networks.value.state_dict())


def imagine(networks: Any) -> Any:
    """A rollout from the test's starts with drawn skills, and its value estimates."""
    starts, config = make_starts(networks), networks.config
    count = starts.weight.shape[0]
    plans = torch.randn(count, config.plan_length, config.skills.dim, generator=seeded(3))
    noise = networks.draw_noise(config.behavior_horizon, count, generator=seeded(4))
    rollout = networks.imagine(starts.latent, plans, noise)
    intrinsic = None
    if config.has_skills:
        intrinsic = recognise_skills(networks, rollout.feature, plans, seeded(5)).reward
    return rollout, estimate_values(networks, rollout, intrinsic), starts


def policy_gradient(networks: Any) -> Any:
    """Size of the gradient of the policy's loss with respect to its weights."""
    rollout, estimates, starts = imagine(networks)
    loss, _ = policy_loss(rollout, estimates, starts.weight)
    weights = list(networks.policy.parameters())
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    return sum(0.0 if g is None else g.square().sum().item() for g in gradients) ** 0.5


@pytest.mark.parametrize("covers", ["task", "total"])
@pytest.mark.parametrize("horizon", [10, 20])
def test_intrinsic_reward_alone_moves_the_policy(covers: Any, horizon: Any) -> None:
    value = {"covers": covers, "states": "imagined"}
    planner = {"horizon": horizon, "skill_length": 10}
    sizes: dict[str, Any] = {"planner": planner, "value": value}
    networks = make_networks(**sizes, skills={"intrinsic_scale": 1.0, "intrinsic_unit": "reward"})
    silence_reward_and_value(networks)
    assert policy_gradient(networks) > 1e-4

    networks = make_networks(**sizes, skills={"intrinsic_scale": 0.0, "intrinsic_unit": "reward"})
    silence_reward_and_value(networks)
    assert policy_gradient(networks) == 0


def test_task_reward_reaches_the_policy_through_the_dynamics_and_no_other_way() -> None:
    networks = make_networks(skills={"intrinsic_scale": 0.0})
    assert policy_gradient(networks) > 1e-4

    whole = networks.transition

    def cut(latent: Any, skill: Any, noise: Any) -> Any:
        latent, action = whole(latent, skill, noise)
        return latent.detach(), action

    # Cut from the dynamics, nothing of the loss depends on the policy any more.
    networks.transition = cut
    rollout, estimates, starts = imagine(networks)
    weights = list(networks.policy.parameters())
    loss, _ = policy_loss(rollout, estimates, starts.weight)
    assert all(g is None for g in torch.autograd.grad(loss, weights, allow_unused=True))


@pytest.mark.parametrize("stopped", [True, False])
def test_where_the_policy_reads_states_are_constants_if_its_input_is_stopped(stopped: Any) -> None:
    """By hand: how the loss depends on each action while all later ones stay what they were, and
    how each action depends on the weights in the state that it was chosen in."""
    networks = make_networks(policy={"stop_input_gradient": stopped})
    rollout, _, starts = imagine(networks)
    weights = list(networks.policy.parameters())
    found = torch.autograd.grad(rollout.feature.sum(), weights)

    count, horizon = starts.weight.shape[0], rollout.action.shape[0]
    plans = torch.randn(count, 1, networks.config.skills.dim, generator=seeded(3))
    noise = networks.draw_noise(horizon, count, generator=seeded(4))
    actions = rollout.action.detach().requires_grad_()
    latent, states = starts.latent, [starts.latent.feature]
    for action, draws in zip(actions, noise.latent, strict=True):
        latent = networks.world_model.rssm.imagine(latent, action, draws)
        states.append(latent.feature)
    (slope,) = torch.autograd.grad(torch.stack(states).sum(), actions)
    chosen = networks.policy(torch.stack(states[:-1]).detach(), plans[:, 0].expand(horizon, -1, -1))
    by_hand = torch.autograd.grad(chosen.sample(noise.action), weights, slope)
    pairs = zip(found, by_hand, strict=True)
    assert all(torch.allclose(x, y, rtol=1e-3, atol=1e-5) for x, y in pairs) is stopped


def test_a_plan_that_wants_its_gradient_has_the_whole_of_it() -> None:
    found: list[Any] = []
    for stopped in (True, False):
        networks = make_networks(policy={"stop_input_gradient": stopped})
        plan = torch.randn(6, 1, 3, generator=seeded(3)).requires_grad_()
        noise = networks.draw_noise(10, 6, generator=seeded(4))
        feature = networks.imagine(make_latent(networks), plan, noise).feature
        found += torch.autograd.grad(feature.sum(), plan)
    assert torch.equal(*found)


@pytest.mark.parametrize(("weight", "std"), [(0.1, 0.1), (0.4, 0.2)])
def test_entropy_at_a_fixed_reward_widens_the_policy_to_the_known_normal(
    weight: Any, std: Any
) -> None:
    """The reward -a²/(2τ) and the weight α: the best density is N(0, ατ), here far from ±1."""
    networks = make_networks("dreamer", policy={"entropy": weight}, behavior={"horizon": 1})
    start = make_latent(networks, 1).rows(torch.zeros(256, dtype=torch.long))
    nothing, ones = torch.zeros(256, 1, 0), torch.ones(1, 256)
    optimizer = torch.optim.Adam(networks.policy.parameters(), 5e-3)
    generator = seeded()
    for _ in mostly_unchecked(range(600)):
        noise = networks.draw_noise(1, 256, generator=generator)
        rollout = networks.imagine(start, nothing, noise)
        paid = -rollout.action.square().sum(-1) / (2 * 0.1)
        bonus, _ = entropy_bonus(networks, rollout, nothing, noise)
        loss, _ = policy_loss(rollout, Estimates(paid, paid, ones), ones[0], bonus)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    noise = networks.draw_noise(1, 256, generator=generator)
    action = networks.imagine(start, nothing, noise).action
    assert action.std().item() == pytest.approx(std, rel=0.1)
    assert action.mean().abs().item() < 0.1 * std


def test_without_a_weight_entropy_costs_nothing(monkeypatch: Any) -> None:
    networks = make_networks()
    rollout, _, _ = imagine(networks)
    monkeypatch.setattr(networks, "policy", None)  # which nobody asks
    plans = torch.zeros(6, 1, 3)
    noise = networks.draw_noise(10, 6, generator=seeded())
    assert entropy_bonus(networks, rollout, plans, noise) == (0.0, {})


def test_entropy_is_a_share_of_the_size_of_returns() -> None:
    networks = make_networks(policy={"entropy": 0.5})
    rollout, _, _ = imagine(networks)
    plans, noise = torch.zeros(6, 1, 3), networks.draw_noise(10, 6, generator=seeded())
    once, about = entropy_bonus(networks, rollout, plans, noise)
    assert isinstance(once, torch.Tensor)
    networks.return_size.fill_(8.0)
    torch.testing.assert_close(entropy_bonus(networks, rollout, plans, noise)[0], 8.0 * once)
    assert isinstance(once, torch.Tensor)
    torch.testing.assert_close(once.mean(), 0.5 * about["policy/entropy"])


@pytest.mark.parametrize("method", ["cem", "hiro"])
def test_entropy_needs_a_policy_in_a_model(method: Any) -> None:
    with pytest.raises(UserError, match=rf"policy\.entropy .* {method} lacks"):
        validated(change(make_config(method), policy={"entropy": 0.1}))


def test_one_step_of_one_part_changes_no_other() -> None:
    networks = make_networks()
    learner = Learner(networks, seed=0)
    copy = learner.backend.frozen_copy
    rollout, estimates, starts = imagine(copy)
    before = {name: x.clone() for name, x in networks.state_dict().items()}
    loss, _ = policy_loss(rollout, estimates, starts.weight)
    learner.descend("policy", loss)
    after_policy = {name: x.clone() for name, x in networks.state_dict().items()}
    changed = {name for name in before if not torch.equal(before[name], after_policy[name])}
    assert changed
    assert all(name.startswith("policy.") for name in changed)
    for part in (networks.world_model, copy.world_model, networks.value, networks.skill_predictor):
        assert all(weight.grad is None for weight in part.parameters())

    loss, _ = value_loss(copy, rollout, estimates, starts.weight)
    learner.descend("value", loss)
    after = networks.state_dict()
    changed = {name for name in after if not torch.equal(after_policy[name], after[name])}
    assert changed
    assert all(name.startswith("value.") for name in changed)


def test_terminal_states_are_no_start_states() -> None:
    number = torch.arange(12.0).reshape(3, 4, 1)
    terminal = torch.zeros(3, 4, dtype=torch.bool)
    terminal[:, -1] = terminal[1, 0] = True  # 8 of 12 go on
    gone = {3.0, 4.0, 7.0, 11.0}
    drawn = set()
    for seed in range(30):
        starts = draw_starts(Latent(number, number), terminal, 5, seeded(seed))
        numbers = starts.latent.deter.flatten().tolist()
        assert len(set(numbers)) == 5
        assert (starts.weight == 1).all()
        drawn |= set(numbers)
    assert drawn == set(range(12)) - gone

    # Where all states are starts, those weigh nothing.
    starts = draw_starts(Latent(number, number), terminal, None, seeded())
    assert starts.latent.deter.shape == (12, 1)
    assert {i for i, weight in enumerate(starts.weight.tolist()) if weight == 0} == gone


def test_start_states_carry_no_gradient() -> None:
    number = torch.arange(12.0, requires_grad=True).reshape(3, 4, 1) * 2
    terminal = torch.zeros(3, 4, dtype=torch.bool)
    for count in (None, 5):
        starts = draw_starts(Latent(number, number), terminal, count, seeded())
        assert not starts.latent.deter.requires_grad
        assert not starts.latent.stoch.requires_grad


def test_repeated_starts_lie_side_by_side() -> None:
    number = torch.tensor([[1.0], [2.0]])
    starts = repeat_starts(Starts(Latent(number, number), torch.tensor([1.0, 0.0])), 3)
    assert starts.latent.deter.flatten().tolist() == [1, 1, 1, 2, 2, 2]
    assert starts.weight.tolist() == [1, 1, 1, 0, 0, 0]


def test_states_weigh_less_the_later_they_are() -> None:
    _, estimates, _ = imagine(make_networks(planner={"horizon": 4, "skill_length": 4}))
    by_hand = torch.tensor([1.0, 0.99, 0.99**2, 0.99**3])
    torch.testing.assert_close(estimates.weight, by_hand[:, None].expand(4, 6))
    assert not estimates.weight.requires_grad


def test_nothing_counts_after_a_certain_end() -> None:
    networks = make_networks(
        planner={"horizon": 4, "skill_length": 4},
        model={"termination": True},
        skills={"intrinsic_scale": 0.0},
    )
    head = networks.world_model.termination_head
    zero_last_layer(head)
    with torch.no_grad():
        linear(head).bias.fill_(100.0)  # every state is surely the last
    rollout, estimates, _ = imagine(networks)
    reward = networks.predict_heads(rollout.feature[1:]).reward
    torch.testing.assert_close(estimates.returns, reward)
    assert estimates.weight[:, 0].tolist() == [1, 0, 0, 0]


def worth_of_intrinsic_reward(covers: Any) -> Any:
    """What an intrinsic reward of 1 at the end of both segments adds to returns and targets."""
    planner = {"horizon": 8, "skill_length": 4}
    unit, value = {"intrinsic_unit": "reward"}, {"covers": covers, "states": "imagined"}
    networks = make_networks(planner=planner, value=value, skills=unit)
    silence_reward_and_value(networks)
    rollout, _, _ = imagine(networks)
    paid = torch.zeros(8, 6)
    paid[3::4] = 1
    without, found = (estimate_values(networks, rollout, x) for x in (0 * paid, paid))
    return found.returns - without.returns, found.target - without.target


def worth_by_hand(rate: Any) -> Any:
    """`[8, 6]`: a reward k steps on counts rate^k."""
    steps = [rate ** (3 - t) * (t < 4) + rate ** (7 - t) for t in range(8)]
    return torch.tensor(steps)[:, None].expand(8, 6)


def test_a_value_of_the_task_leaves_intrinsic_reward_to_the_rollout() -> None:
    returns, target = worth_of_intrinsic_reward("task")
    torch.testing.assert_close(returns, worth_by_hand(0.99))
    assert target.abs().max() == 0


def test_a_value_of_all_learns_intrinsic_reward_too() -> None:
    returns, target = worth_of_intrinsic_reward("total")
    assert torch.equal(returns, target)
    torch.testing.assert_close(target, worth_by_hand(0.99 * 0.95))  # v stands for the other part


@pytest.mark.parametrize(
    ("states", "weights"),
    [("imagined", (1 + 0.99) / 2), ("observed", 1)],  # of s_0 and s_1; of s_0 alone
)
def test_value_loss_is_half_the_weighted_squared_error(states: Any, weights: Any) -> None:
    planner = {"horizon": 2, "skill_length": 2}
    networks = make_networks(planner=planner, value={"states": states})
    rollout, estimates, _ = imagine(networks)
    zero_last_layer(networks.value.net)
    weight = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])  # half of the starts had ended
    target = torch.full((2, 6), 2.0)
    loss, _ = value_loss(networks, rollout, estimates._replace(target=target), weight)
    # ½ 2² for each state, weighted 1 and 0.99, half of the rows.
    assert loss.item() == pytest.approx(0.5 * 4 * weights / 2)


@pytest.mark.parametrize("terminal", [False, True])
def test_replayed_rewards_count_to_the_end_of_their_episode(terminal: Any) -> None:
    networks = make_networks()
    zero_last_layer(networks.value.net)
    zero_last_layer(networks.slow_value.net)
    with torch.no_grad():
        linear(networks.slow_value.net).bias.fill_(10.0)
    flags = torch.zeros(1, 5, dtype=torch.bool)
    is_first, is_terminal = flags.clone(), flags.clone()
    is_first[0, 3], is_terminal[0, 2] = True, terminal
    reward = torch.tensor([[100.0, 1.0, 2.0, 100.0, 3.0]])  # of rows 0 and 3 nothing went before
    latents = Latent(*(torch.zeros(1, 5, size) for size in (16, 4)))
    batch = {"reward": reward, "is_first": is_first, "is_terminal": is_terminal}
    loss, _ = replayed_value_loss(networks, latents, batch)
    second = 2 + (0 if terminal else 0.99 * 10)
    first = 1 + 0.99 * (0.05 * 10 + 0.95 * second)
    last = 3 + 0.99 * 10
    # Row 2, the last of its episode, is followed by nothing that it could learn from.
    assert loss.item() == pytest.approx(0.5 * (first**2 + second**2 + last**2) / 4)


def test_what_the_model_imagines_wrongly_is_set_right_by_what_followed() -> None:
    """A model that promises 1 a step, of which nothing came: v of a state that was observed."""
    networks = make_networks()
    silence_reward_and_value(networks)
    with torch.no_grad():
        linear(networks.world_model.reward_head).bias.fill_(1.0)
    starts = make_starts(networks)
    rollout, _, _ = imagine(networks)
    estimates = estimate_values(networks, rollout, None)
    promised = estimates.target[0].mean().item()
    pairs = Latent(*(torch.stack([x, x], 1) for x in starts.latent))
    nothing = torch.zeros(6, 2, dtype=torch.bool)
    batch = {"reward": torch.zeros(6, 2), "is_first": nothing, "is_terminal": nothing}
    optimizer = torch.optim.Adam(networks.value.parameters(), 1e-2)
    for _ in mostly_unchecked(range(500)):
        loss, _ = value_loss(networks, rollout, estimates, starts.weight)
        replayed, _ = replayed_value_loss(networks, pairs, batch)
        optimizer.zero_grad()
        (loss + replayed).backward()
        optimizer.step()
    assert promised > 5
    value = networks.value(starts.latent.feature)
    torch.testing.assert_close(value, torch.full((6,), promised / 2), rtol=0.02, atol=0.02)


def test_plans_are_scored_by_task_return_unless_intrinsic_return_is_asked_for() -> None:
    networks = make_networks()
    silence_reward_and_value(networks)
    starts = make_latent(networks)
    candidates = torch.randn(3, 6, 1, 3, generator=seeded(6))
    noise = networks.draw_noise(10, 1, 6, generator=seeded(7))
    assert score_plans(networks, starts, candidates, noise, seeded(8)).abs().max() == 0
    weighted = make_networks(planner={"intrinsic_weight": 0.5})
    weighted.load_state_dict(networks.state_dict())
    assert score_plans(weighted, starts, candidates, noise, seeded(8)).abs().min() > 1e-3


def make_ending_batch(networks: Any, shapes: Any = SHAPES) -> Any:
    """An episode ends within the first sequence, and another begins."""
    batch = make_batch(networks.config, shapes)
    batch["is_first"][0, 3] = batch["is_terminal"][0, 2] = True
    return batch


def updated(shapes: Any = SHAPES, method: Any = "lsp", **parts: Any) -> Any:
    """Networks and metrics after one update, and the names of the weights that it changed."""
    networks = make_networks(method, shapes, **parts)
    before = {name: x.clone() for name, x in networks.state_dict().items()}
    learner = Learner(networks, seed=0)
    metrics = learner.update(make_ending_batch(networks, shapes)) | learner.probe_skills()
    after = networks.state_dict()
    return networks, metrics, {name for name in after if not torch.equal(before[name], after[name])}


PARTS = ("world_model", "policy", "value", "slow_value", "skill_predictor")
CASES: dict[str, dict[str, Any]] = {
    "H = K": {},
    "H a multiple of K": {"planner": {"horizon": 20}},
    "H not a multiple of K": {"planner": {"horizon": 25}},
    "shared": {"planner": {"scope": "shared"}},
    "independent noise": {"planner": {"rollout_noise": "independent"}},
    "planning for intrinsic return": {"planner": {"intrinsic_weight": 0.5}},
    "a value of all": {
        "value": {"covers": "total", "states": "imagined", "slow_rate": 1.0},
        "skills": {"intrinsic_unit": "reward"},
    },
    "a value of imagined states": {"value": {"states": "imagined"}},
    "all starts": {"behavior": {"num_starts": None, "rollouts_per_start": 1}},
    "longer behaviour": {"behavior": {"horizon": 20}},
    "termination": {"model": {"termination": True}},
    "raw": {"model": {"obs_transform": "raw"}},
    "fixed scale": {"skills": {"intrinsic_unit": "reward"}},
    "best of samples": {"policy": {"mode_samples": 10}},
    "pixels": {"shapes": {"image": (64, 64, 3)}},
    "both": {"shapes": {"image": (64, 64, 3), "position": (5,)}},
}


@pytest.mark.parametrize("case", CASES)
def test_an_update_changes_every_part_and_all_it_reports_is_finite(case: Any) -> None:
    networks, metrics, changed = updated(**CASES[case])
    for part in PARTS:
        names = {name for name in networks.state_dict() if name.startswith(part)}
        assert names & changed, part
    for name in ("skills/log_q", "skills/mutual_information", "skills/effect", "skills/noise"):
        assert name in metrics
    lost = [name for name, value in metrics.items() if not torch.isfinite(value)]
    assert not lost
    assert all(metrics[f"gradient/{name}"] > 0 for name in ("model", "policy", "value", "skills"))


@pytest.mark.parametrize("states", ["imagined", "observed"])
def test_what_followed_moves_v_where_it_is_fitted_in_observed_states(
    states: Any, monkeypatch: Any
) -> None:
    def nothing_imagined(networks: Any, *_: Any) -> Any:
        return sum((0 * weight).sum() for weight in networks.value.parameters()), {}

    monkeypatch.setattr("lsp.algorithm.learner.value_loss", nothing_imagined)
    _, metrics, _ = updated(value={"states": states})
    assert (metrics["gradient/value"].item() > 0) is (states == "observed")


def test_v_cannot_be_fitted_to_sequences_of_one_row() -> None:
    with pytest.raises(UserError, match=r"replay\.length of at least 2"):
        make_networks(replay={"length": 1}, behavior={"num_starts": 1})


def test_every_layer_of_the_world_model_learns() -> None:
    _, _, changed = updated(model={"termination": True, "free_nats": 0.0})
    networks = make_networks(model={"termination": True})
    assert {
        name for name, _ in networks.world_model.named_parameters(prefix="world_model")
    } <= changed


def test_a_shared_plan_is_remembered_for_acting() -> None:
    _, _, changed = updated(planner={"scope": "shared"})
    assert {"shared_mean", "shared_std"} <= changed
    assert not {"shared_mean", "shared_std"} & updated()[2]


@pytest.mark.parametrize("scope", ["per_state", "shared"])
def test_the_skills_of_an_update_are_spread_by_noise_on_the_planned_mean(scope: Any) -> None:
    _, calm, _ = updated(planner={"scope": scope, "mean_noise": 0.0})
    _, noisy, _ = updated(planner={"scope": scope, "mean_noise": 50.0})
    spread = "skills/log_q"  # far-flung skills are ones that no χ expects
    assert noisy[spread] < calm[spread] - 100


def test_a_predictor_that_ignores_the_states_finds_no_information() -> None:
    networks = make_networks()
    zero_last_layer(networks.skill_predictor.net)  # mean 0 and the std of the soft clamp's middle
    found = skill_information(networks, make_latent(networks), seeded(6), num_skills=200)
    std = softly_clamped_std(torch.zeros(()), networks.config.skills.std_bounds)
    expected = 3 * (0.5 - std.log() - 0.5 / std.square())  # E[log N(z; 0, std) - log N(z; 0, 1)]
    assert found["skills/mutual_information_prior"] == pytest.approx(expected.item(), abs=0.1)
    assert expected < 0


def test_without_a_complete_segment_there_is_no_skill_to_recognise() -> None:
    _, metrics, changed = updated(planner={"horizon": 5})
    assert "skills/log_q" not in metrics
    assert metrics["planner/value"] != 0  # it plans for the task all the same
    assert not any(name.startswith("skill_predictor") for name in changed)
    assert all(torch.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("shapes", [SHAPES, {"image": (64, 64, 3)}], ids=["proprio", "pixels"])
def test_dreamer_updates_everything_it_has(shapes: Any) -> None:
    _, metrics, changed = updated(method="dreamer", shapes=shapes)
    for part in ("world_model", "policy", "value", "slow_value"):
        assert any(name.startswith(part) for name in changed), part
    assert all(torch.isfinite(value) for value in metrics.values())


def test_dreamer_has_no_skill_anywhere_and_never_plans(monkeypatch: Any) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("dreamer planned")

    monkeypatch.setattr("lsp.algorithm.learner.plan_skills", refuse)
    monkeypatch.setattr("lsp.algorithm.agent.plan_skills", refuse)
    networks, metrics, _ = updated(method="dreamer")
    assert not any("skill" in name or "shared" in name for name in networks.state_dict())
    assert networks.policy.net[0].in_features == networks.world_model.features
    assert not any(name.startswith(("skills/", "planner/")) for name in metrics)
    observation = {"position": np.zeros(5, np.float32)}
    for mode in ("collect", "evaluate"):
        assert Agent(networks, mode).act(observation).shape == (ACTIONS,)
    with pytest.raises(AssertionError, match="planned"):
        updated(method="lsp")


class Waiting(TorchDispatchMode):
    """Refuses what would make the program wait for a GPU: values and shapes that depend on data."""

    refused = (aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket not in self.refused, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["lsp", "dreamer"])
def test_nothing_in_an_update_waits_for_the_device(method: Any) -> None:
    networks = make_networks(method)
    learner, batch = Learner(networks, seed=0), make_ending_batch(networks)
    learner.update(batch)  # an optimiser's first step makes its state
    with Waiting():  # type: ignore[no-untyped-call]
        learner.update(batch)


def test_the_same_seed_gives_the_same_update() -> None:
    one, other = updated()[0].state_dict(), updated()[0].state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_nat_is_worth_a_share_of_the_task_return() -> None:
    networks = make_networks()
    networks.return_size.fill_(1.0)
    for _ in range(2000):
        networks.track_return_size(torch.tensor([[-50.0, 30.0]]), torch.ones(2))
    assert networks.return_size.item() == pytest.approx(40, rel=1e-3)
    scale = networks.config.skills.intrinsic_scale
    assert float(intrinsic_scale(networks)) == pytest.approx(40 * scale, rel=1e-3)


@pytest.mark.parametrize(
    ("share", "rows"), [(0.25, [3, 7]), (0.5, [1, 3, 5, 7]), (0.1, []), (0.0, [])]
)
def test_a_share_of_the_rollouts_has_skills_from_n_0_1(share: Any, rows: Any) -> None:
    networks = make_networks(behavior={"prior_share": share})
    sources = skill_sources(8, networks.config, networks.device)
    assert sources.prior.tolist() == rows
    assert sorted([*rows, *sources.planned.tolist()]) == list(range(8))
    zeta = Plan(torch.full((8, 2, 3), 9.0), torch.full((8, 2, 3), 1e-3))
    skills = draw_skills(zeta, sources, seeded())
    planned = (skills - 9).abs().amax((1, 2)) < 0.1
    assert planned.tolist() == [row not in rows for row in range(8)]
    assert skills[rows].abs().max() < 5 if rows else True


def test_each_start_has_one_of_four_skills_from_n_0_1_in_the_default_preset() -> None:
    config = make_config()
    starts, times = config.behavior.num_starts, config.behavior.rollouts_per_start
    assert starts is not None
    sources = skill_sources(starts * times, config, torch.device("cpu"))
    assert (sources.prior // times).tolist() == list(range(starts))
    assert make_config(preset="paper").behavior.prior_share == 0
    assert not len(skill_sources(8, make_config("random_skills"), torch.device("cpu")).prior)


def test_v_learns_nothing_from_rollouts_under_skills_from_n_0_1() -> None:
    networks = make_networks(value={"states": "imagined"})
    rollout, estimates, _ = imagine(networks)
    config = change(networks.config, behavior={"prior_share": 0.5})
    sources = skill_sources(6, config, networks.device)
    changed = estimates.target.clone()
    changed[:, sources.prior] += 100
    others = estimates._replace(target=changed)
    weight = sources.value_weight
    same = value_loss(networks, rollout, estimates, weight)[0]
    assert torch.equal(value_loss(networks, rollout, others, weight)[0], same)
    changed[:, sources.planned] += 100
    assert not torch.equal(value_loss(networks, rollout, others, weight)[0], same)
    # The mean over planned rollouts, not a smaller one.
    planned = [x[:, sources.planned] for x in (rollout.feature, rollout.action)]
    alone = rollout._replace(feature=planned[0], action=planned[1])
    some = estimates._replace(
        **{k: getattr(estimates, k)[:, sources.planned] for k in ("returns", "target", "discount")}
    )
    expected = value_loss(networks, alone, some, torch.ones(3))[0]
    torch.testing.assert_close(same, expected)


def test_an_update_imagines_a_quarter_of_its_rollouts_under_n_0_1(monkeypatch: Any) -> None:
    """Planned skills are put far away, so that it shows which are not."""
    networks = make_networks(behavior={"num_starts": 4, "rollouts_per_start": 4})
    learner = Learner(networks, seed=0)
    seen = []
    imagine_rollout = learner.backend.frozen_copy.imagine

    def watch(start: Any, plan: Any, noise: Any) -> Any:
        seen.append(plan)
        return imagine_rollout(start, plan, noise)

    monkeypatch.setattr(learner.backend.frozen_copy, "imagine", watch)
    far = Plan(torch.full((4, 1, 3), 50.0), torch.full((4, 1, 3), 0.1))
    monkeypatch.setattr(learner, "plan", lambda starts: (far, {}))
    learner.update(make_ending_batch(networks))
    (plans,) = seen
    near = plans.abs().amax((1, 2)) < 10
    assert near.tolist() == [row % 4 == 3 for row in range(16)]


def test_the_prior_of_skills_counts_in_a_plans_score_in_units_of_returns() -> None:
    """With nothing paid and nothing promised a score is its prior alone: -|z|²/2 for each skill."""
    parts = {"horizon": 20, "skill_length": 10, "prior_weight": 0.5}
    networks = make_networks(planner=parts, behavior={"horizon": 30})
    silence_reward_and_value(networks)
    networks.return_size.fill_(8.0)
    starts = make_latent(networks, 1)
    candidates = torch.zeros(3, 1, 3, 3)
    candidates[1, 0, 0, 0] = 2.0
    candidates[2, 0, 1] = 1.0
    candidates[:, :, 2] = 7.0  # beyond the horizon, which a score does not depend on
    noise = networks.draw_noise(20, 1, 1, generator=seeded())
    values = score_plans(networks, starts, candidates, noise, seeded())
    scores = SkillPrior(networks).added(values, candidates)
    torch.testing.assert_close(scores[:, 0], torch.tensor([0.0, -8.0, -6.0]))


def test_on_a_new_task_the_prior_is_in_units_of_the_spread_of_the_first_round() -> None:
    networks = make_networks(planner={"prior_weight": 0.5, "horizon": 10})
    networks.new_task = NewTask(lambda networks, rollout: rollout.feature[1:, :, 0])
    networks.return_size.fill_(1e6)  # of the task that was trained
    prior = SkillPrior(networks)
    candidates = torch.zeros(2, 1, 1, 3)
    candidates[1, 0, 0] = 1.0
    first, later = torch.tensor([[0.0], [4.0]]), torch.tensor([[1.0], [1.0]])
    torch.testing.assert_close(prior.added(first, candidates)[:, 0], torch.tensor([0.0, 2.5]))
    torch.testing.assert_close(prior.added(later, candidates)[:, 0], torch.tensor([1.0, -0.5]))


@pytest.mark.parametrize(
    ("horizon", "chosen", "expected"),
    [(10, None, 0.95), (15, None, 0.95), (16, None, 1.0), (120, None, 1.0), (120, 0.95, 0.95)],
)
def test_long_plans_are_scored_with_a_lambda_of_one(
    horizon: Any, chosen: Any, expected: Any
) -> None:
    config = make_config("lsp", "fast")
    config = change(config, planner={"horizon": horizon, "lambda_": chosen})
    assert config.planning_lambda == expected


def test_a_reward_at_step_120_counts_with_a_lambda_of_one(monkeypatch: Any) -> None:
    def score(lambda_: Any) -> Any:
        networks = make_networks(planner={"horizon": 120, "lambda_": lambda_})
        last = torch.zeros(120, 2)
        last[-1] = 1.0
        nothing = torch.zeros(120, 2)
        networks.predict_heads = lambda feature: HeadOutputs(last, nothing + 1, nothing)
        starts = make_latent(networks, 2)
        noise = networks.draw_noise(120, 1, 2, generator=seeded())
        plans = torch.zeros(1, 2, networks.config.plan_length, 3)
        return score_plans(networks, starts, plans, noise, seeded())

    discount = make_networks().config.behavior.discount
    torch.testing.assert_close(score(None), torch.full((1, 2), discount**119))
    assert (score(0.95) < 0.003 * score(None)).all()


@pytest.mark.parametrize(
    "parts",
    [
        {"behavior": {"prior_share": 1.0}},
        {"behavior": {"prior_share": -0.1}},
        {"policy": {"prior_share": 1.5}},
        {"policy": {"entropy": -0.1}},
        {"planner": {"lambda_": 2.0}},
        {"planner": {"prior_weight": -1.0}},
    ],
)
def test_shares_and_weights_out_of_bounds_are_refused(parts: Any) -> None:
    (section,) = parts
    with pytest.raises(UserError, match=f"{section}.{next(iter(parts[section]))}"):
        make_networks(**parts)
