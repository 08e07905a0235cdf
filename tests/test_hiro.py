"""HIRO: who is paid for what, goals that explain actions, and two levels that learn together."""

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from builders import seeded
from torch import nn

from lsp.baselines.hiro import (
    HiroLearner,
    HiroNetworks,
    goal_candidates,
    intrinsic_reward,
    manager_reward,
    relabel,
    worker_reward,
)
from lsp.baselines.hiro_agent import HiroAgent
from lsp.baselines.segments import Sequences, cut_segments, draw_steps
from lsp.baselines.td3 import TD3, TD3Learner, Transitions, critic_loss, critic_target
from lsp.config import (
    PRESETS,
    Config,
    HiroConfig,
    OptimizerConfig,
    RuntimeConfig,
    from_dict,
    make_config,
    to_dict,
    validated,
)
from lsp.errors import UserError
from lsp.models.distributions import Normal
from lsp.runs.folder import RunFolder
from lsp.runs.metrics import read_metrics
from lsp.runs.spaces import spaces_of
from lsp.training.build import build_agent, build_networks
from lsp.training.parts import open_run
from lsp.training.trainer import Trainer

K, TIME = 3, 8
GOALS = ["skills", "states"]


def make_hiro_config(goals: Any = "skills", **hiro: Any) -> Config:
    config = make_config("hiro", "debug", task="plane")
    config = replace(
        config,
        model=replace(config.model, obs_transform="raw"),
        hiro=replace(config.hiro, goals=goals, **hiro),
        skills=replace(config.skills, dim=2, input_noise=0.0),
        planner=replace(config.planner, skill_length=K),
        replay=replace(config.replay, batch=6, length=TIME),
    )
    return validated(config)


def make_hiro(goals: Any = "skills", **hiro: Any) -> HiroNetworks:
    torch.manual_seed(0)
    return HiroNetworks({"position": (2,)}, 2, make_hiro_config(goals, **hiro))


def make_batch(config: Any, seed: Any = 0, **changes: Any) -> Any:
    """Random rows; every sequence begins with the first of its K steps done."""
    rng, size = np.random.default_rng(seed), (config.replay.batch, config.replay.length)
    step = (np.arange(size[1]) % config.planner.skill_length).astype(np.int32)
    batch = {
        "obs/position": rng.normal(size=(*size, 2)).astype(np.float32),
        "action": rng.uniform(-1, 1, (*size, 2)).astype(np.float32),
        "reward": rng.uniform(0, 1, size).astype(np.float32),
        "is_first": np.zeros(size, bool),
        "is_terminal": np.zeros(size, bool),
        "goal": rng.uniform(-1, 1, (*size, 2)).astype(np.float32),
        "goal_step": np.broadcast_to(step, size).copy(),
    }
    return batch | changes


def make_sequences(
    step: Any, is_first: Any = (), is_terminal: Any = (), time: Any = TIME
) -> Sequences:
    """One sequence whose state t is (t, 0), reward t and goal -t; events at the rows given."""
    row = torch.arange(time).float()
    events = []
    for rows in (is_first, is_terminal):
        events.append(torch.zeros(1, time, dtype=torch.bool))
        events[-1][0, list(rows)] = True
    return Sequences(
        state=torch.stack([row, 0 * row], -1)[None],
        action=torch.stack([0.1 * row, 0 * row], -1)[None],
        goal=-torch.stack([row, row], -1)[None],
        step=torch.tensor([step]),
        reward=row[None],
        is_first=events[0],
        is_terminal=events[1],
    )


# Segments


def test_segments_hold_the_actions_rewards_and_the_goal_after_their_first_row() -> None:
    # Goals were chosen at rows 1 and 4 and 7, and are noted with the action after.
    segments = cut_segments(make_sequences([1, 2, 0, 1, 2, 0, 1, 2]), K)
    found = segments.complete.nonzero().flatten().tolist()
    assert sorted(segments.start[found].tolist()) == [1, 4]
    first = found[segments.start[found].argmin()]
    assert segments.state[:, first, 0].tolist() == [1, 2, 3, 4]
    torch.testing.assert_close(segments.action[:, first, 0], torch.tensor([0.2, 0.3, 0.4]))
    assert segments.goal[first].tolist() == [-2, -2]
    assert segments.reward[first].item() == 2 + 3 + 4
    assert not segments.terminal.any()


def test_the_manager_is_paid_a_tenth_of_the_segments_task_rewards() -> None:
    segments = cut_segments(make_sequences([1, 2, 0, 1, 2, 0, 1, 2]), K)
    scale = make_config("hiro", "paper").hiro.manager_reward
    paid = manager_reward(segments, scale)[segments.complete]
    assert sorted(paid.tolist()) == pytest.approx([0.1 * (2 + 3 + 4), 0.1 * (5 + 6 + 7)])


def test_no_segment_crosses_the_end_of_an_episode() -> None:
    # An episode ends at row 3, by a time limit or by itself; the next begins at row 4.
    step = [0, 0, 1, 2, 0, 0, 1, 2]
    cut_off = cut_segments(make_sequences(step, is_first=[0, 4]), K)
    assert sorted(cut_off.start[cut_off.complete].tolist()) == [0, 4]
    # Here it ends in the middle of a segment.
    step = [0, 1, 2, 0, 0, 0, 1, 2]
    cut_off = cut_segments(make_sequences(step, is_first=[4]), K)
    assert cut_off.start[cut_off.counts].tolist() == [4]
    ended = cut_segments(make_sequences(step, is_first=[4], is_terminal=[3]), K)
    assert sorted(ended.start[ended.counts].tolist()) == [2, 4]
    short = int(ended.terminal.nonzero())
    assert ended.start[short] == 2
    assert not ended.complete[short]
    assert ended.reward[short] == 3
    assert ended.within[:, short].tolist() == [True, False, False]
    assert ended.state[:, short, 0].tolist() == [2, 3, 3, 3]  # not on into the next episode


def test_no_complete_segment_is_lost_beside_one_that_was_cut_short() -> None:
    # Episodes of 4 steps, which 3 does not divide: 5 rows, goals chosen at their rows 0 and 3.
    step, first = [0, 0, 1, 2, 0] * 5, list(range(0, 25, 5))
    whole = {t + K for t in first}
    for begin in range(25 - 2 * K):
        rows = slice(begin, begin + 2 * K)
        firsts = [row - begin for row in first if begin <= row < begin + 2 * K]
        segments = cut_segments(make_sequences(step[rows], firsts, time=2 * K), K)
        paid = {int(start) + K + begin for start in segments.start[segments.complete]}
        assert paid == {last for last in whole if begin + K <= last < begin + 2 * K}, begin


# What each level is paid


def test_the_worker_is_paid_log_q_at_a_segments_last_step_only() -> None:
    networks = make_hiro()
    sequences = make_sequences([1, 2, 0, 1, 2, 0, 1, 2])
    segments = cut_segments(sequences, K)
    paid = intrinsic_reward(networks, sequences, segments, torch.Generator())
    log_q = networks.skill_predictor(segments.state, torch.Generator()).log_prob(segments.goal)
    expected = torch.zeros(1, TIME)
    expected[0, (segments.start + K)[segments.complete]] = log_q[segments.complete].detach()
    torch.testing.assert_close(paid, expected)
    assert paid[0].nonzero().flatten().tolist() == [4, 7]
    other = sequences._replace(reward=torch.full((1, TIME), 100.0))  # the task does not matter
    torch.testing.assert_close(
        intrinsic_reward(networks, other, cut_segments(other, K), torch.Generator()), expected
    )


def test_the_worker_is_paid_for_coming_near_a_state_goal_at_every_step() -> None:
    networks = make_hiro("states")
    sequences = make_sequences([1, 2, 0, 1, 2, 0, 1, 2])
    paid = intrinsic_reward(networks, sequences, cut_segments(sequences, K), torch.Generator())
    # s + g - s' = (t - 1, 0) - (t, t) - (t, 0)
    expected = [0.0] + [-float(np.hypot(-1 - t, -t)) for t in range(1, TIME)]
    assert paid[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("goals", GOALS)
def test_a_worker_is_paid_for_the_task_as_well_where_a_weight_says_so(goals: Any) -> None:
    networks = make_hiro(goals)
    sequences = make_sequences([1, 2, 0, 1, 2, 0, 1, 2])
    segments = cut_segments(sequences, K)
    intrinsic = intrinsic_reward(networks, sequences, segments, torch.Generator())
    assert torch.equal(worker_reward(intrinsic, sequences, 0.0), intrinsic)
    paid = worker_reward(intrinsic, sequences, 0.5)
    # Arriving at row t pays t / 2, at the last step of a segment as at any other.
    torch.testing.assert_close(paid - intrinsic, 0.5 * torch.arange(float(TIME))[None])
    if goals == "skills":
        assert paid[0, [3, 5, 6]].tolist() == [1.5, 2.5, 3.0]


@pytest.mark.parametrize("goals", GOALS)
def test_the_workers_updates_are_paid_with_that_weight(goals: Any) -> None:
    """The task pays 2 a step: so much times the weight more than a worker that it does not pay."""
    paid = []
    for weight in (0.0, 3.0):
        networks = make_hiro(goals, worker_reward=weight)
        batch = make_batch(networks.config, reward=np.full((6, TIME), 2.0, np.float32))
        paid.append(HiroLearner(networks, 0).update(batch)["worker/reward"].item())
    assert paid[1] - paid[0] == pytest.approx(3 * 2, rel=1e-4)


def test_steps_carry_the_goal_of_their_action_and_that_of_the_next() -> None:
    sequences = make_sequences([1, 2, 0, 1, 2, 0, 1, 2], is_first=[5], is_terminal=[4])
    reward = 10 * sequences.reward
    generator = seeded()
    seen = set()
    for _ in range(50):
        steps = draw_steps(sequences, reward, K, generator)
        row = int(steps.next_state[0, 0])
        seen.add(row)
        assert steps.state[0, 0] == row - 1
        assert steps.goal[0, 0] == -row
        assert steps.next_goal[0, 0] == -(row + 1)
        assert steps.reward[0] == 10 * row
        assert steps.weight[0] == (row != 5)
        assert steps.last[0] == steps.terminal[0] == (row == 4)
    assert seen == {3, 4, 5, 6}  # row 7 has no next goal, earlier ones no whole segment


# Relabelling


class Compass(nn.Module):
    """A worker that moves straight along its goal, whatever the state."""

    def forward(self, inputs: Any) -> Any:
        return inputs[..., 2:]


def compass_segments(networks: Any, actions: Any) -> Any:
    """One segment in which the worker took the `actions`, told to do something else."""
    networks.worker.actor = Compass()
    sequences = make_sequences([1, 2, 0, 1, 2, 0, 1, 2], time=TIME)
    action = torch.zeros(1, TIME, 2)
    action[0, 2:5] = torch.tensor(actions)
    sequences = sequences._replace(action=action, goal=torch.full((1, TIME, 2), -0.9))
    segments = cut_segments(sequences, K)
    return segments, int((segments.start == 1).nonzero())


def test_relabelling_picks_the_skill_that_explains_the_actions(monkeypatch: Any) -> None:
    networks = make_hiro()
    segments, index = compass_segments(networks, [[0.3, 0.5], [0.5, 0.3], [0.4, 0.4]])

    def read(states: Any, generator: Any) -> Any:  # q's mean is right for the first segment
        return Normal(torch.full(states.shape[1:], 0.4), torch.ones(states.shape[1:]))

    monkeypatch.setattr(networks.skill_predictor, "forward", read)
    goal, chosen = relabel(networks, segments, seeded())
    assert chosen[index] == 1
    torch.testing.assert_close(goal[index], torch.tensor([0.4, 0.4]))


def test_relabelling_keeps_a_goal_that_was_followed() -> None:
    networks = make_hiro()
    segments, index = compass_segments(networks, [[-0.9, -0.9]] * 3)
    goal, chosen = relabel(networks, segments, seeded())
    assert chosen[index] == 0
    torch.testing.assert_close(goal[index], torch.tensor([-0.9, -0.9]))


def test_relabelling_follows_a_state_goal_through_its_transitions() -> None:
    networks = make_hiro("states")
    segments, index = compass_segments(networks, [[0.5, -0.5]] * 3)
    # The states move by (1, 0) a step, which is taken off the goal.
    segments.goal[index] = torch.tensor([1.0, 0.2])
    segments.action[:, index] = torch.tensor([[1.0, 0.2], [0.0, 0.2], [-1.0, 0.2]])
    _, chosen = relabel(networks, segments, seeded())
    assert chosen[index] == 0


@pytest.mark.parametrize("goals", GOALS)
def test_candidates_are_the_goal_the_achieved_one_and_draws_around_it(goals: Any) -> None:
    networks = make_hiro(goals, candidates=4000, goal_range=2.0)
    sequences = make_sequences([1, 2, 0, 1, 2, 0, 1, 2])
    sequences = sequences._replace(state=0.1 * sequences.state, goal=0.1 * sequences.goal)
    segments = cut_segments(sequences, K)
    goals_tried = goal_candidates(networks, segments, seeded())
    torch.testing.assert_close(goals_tried[0], segments.goal)
    achieved = segments.state[-1] - segments.state[0]
    if goals == "skills":
        achieved = networks.skill_predictor(segments.state, torch.Generator()).mean
    torch.testing.assert_close(goals_tried[1], achieved.clamp(-2, 2))
    assert goals_tried.abs().max() <= 2
    middle = goals_tried[2:].median(0).values  # clipping does not move it
    torch.testing.assert_close(middle, achieved.clamp(-2, 2), atol=0.1, rtol=0)
    inside = (goals_tried[2:] - middle).abs().median(0).values  # 0.674 standard deviations
    torch.testing.assert_close(inside, torch.full_like(inside, 0.674), atol=0.1, rtol=0)


# TD3


class Constant(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, state: Any, action: Any) -> Any:
        return torch.full(state.shape[:-1], self.value)


class Echo(nn.Module):
    """Q(s, a) = a, so that a target shows the action it was made with."""

    def forward(self, state: Any, action: Any) -> Any:
        return action[..., 0]


def make_transitions(count: Any = 5, **changes: Any) -> Transitions:
    values = {
        "state": torch.zeros(count, 3),
        "action": torch.zeros(count, 1),
        "reward": torch.ones(count),
        "discount": torch.full((count,), 0.5),
        "next_state": torch.zeros(count, 3),
        "weight": torch.ones(count),
    }
    return Transitions(**(values | changes))


def make_td3(**settings: Any) -> TD3:
    torch.manual_seed(0)
    return TD3(3, 1, HiroConfig(layers=(8, 8), **settings))


def test_targets_take_the_smaller_of_both_slow_critics() -> None:
    td3 = make_td3()
    td3.slow_critics = nn.ModuleList([Constant(4.0), Constant(2.0)])
    target = critic_target(td3, make_transitions(), torch.zeros(5, 1))
    assert target.tolist() == [1 + 0.5 * 2] * 5


def test_nothing_follows_the_end_of_an_episode() -> None:
    td3 = make_td3()
    td3.slow_critics = nn.ModuleList([Constant(4.0), Constant(2.0)])
    batch = make_transitions(discount=torch.zeros(5))
    assert critic_target(td3, batch, torch.zeros(5, 1)).tolist() == [1.0] * 5


def test_target_actions_are_smoothed_with_clipped_noise() -> None:
    td3 = make_td3(target_noise=0.2, target_clip=0.5)
    td3.slow_critics = nn.ModuleList([Echo(), Echo()])
    noise = torch.tensor([[0.0], [1.0], [-2.0], [10.0], [-10.0]])
    batch = make_transitions(reward=torch.zeros(5), discount=torch.ones(5))
    target = critic_target(td3, batch, noise)
    mode = td3.slow_actor(batch.next_state)[:, 0]
    torch.testing.assert_close(target, mode + torch.tensor([0.0, 0.2, -0.4, 0.5, -0.5]))


def test_the_actor_and_the_slow_copies_wait_for_every_second_update() -> None:
    td3: Any = make_td3(actor_every=2, slow_rate=0.25)
    learner = TD3Learner(td3, OptimizerConfig())
    batch = make_transitions(state=torch.randn(5, 3))
    actor, slow = td3.actor.last.weight.clone(), td3.slow_critics[0].last.weight.clone()
    critic = td3.critics[0].last.weight.clone()
    learner.update(batch, torch.Generator())
    assert not torch.equal(critic, td3.critics[0].last.weight)
    assert torch.equal(actor, td3.actor.last.weight)
    assert torch.equal(slow, td3.slow_critics[0].last.weight)
    learner.update(batch, torch.Generator())
    assert not torch.equal(actor, td3.actor.last.weight)
    expected = torch.lerp(slow, td3.critics[0].last.weight, 0.25)
    torch.testing.assert_close(td3.slow_critics[0].last.weight, expected)


def test_critics_learn_with_a_huber_loss_and_leave_rows_of_no_weight_out() -> None:
    td3 = make_td3()
    td3.critics = nn.ModuleList([Constant(0.0), Constant(0.0)])
    target = torch.tensor([0.5, 3.0, 100.0])
    batch = make_transitions(3, weight=torch.tensor([1.0, 1.0, 0.0]))
    # Two critics each: half the square up to 1, linear beyond.
    expected = 2 * (0.125 + 2.5) / 2
    assert critic_loss(td3, batch, target).item() == pytest.approx(expected)


# Networks and learner


@pytest.mark.parametrize("goals", GOALS)
def test_an_update_moves_both_levels_and_all_metrics_are_finite(goals: Any) -> None:
    networks = make_hiro(goals)
    learner = HiroLearner(networks, 0)
    before = {name: x.clone() for name, x in networks.state_dict().items()}
    for seed in range(2):
        metrics = learner.update(make_batch(networks.config, seed))
    assert all(torch.isfinite(value).all() for value in metrics.values())
    still = {name for name, x in networks.state_dict().items() if torch.equal(x, before[name])}
    assert not still
    assert ("skills/log_q" in metrics) == (goals == "skills") == ("skills" in learner.optimizers)
    assert learner.levels["worker"].updates == 2 * networks.config.hiro.worker_updates
    assert learner.levels["manager"].updates == 2


def test_a_batch_of_ends_and_nothing_else_teaches_nothing_and_breaks_nothing() -> None:
    networks: Any = make_hiro()
    learner = HiroLearner(networks, 0)
    ends = np.ones((6, TIME), bool)
    before = networks.manager.critics[0].last.weight.clone()
    metrics = learner.update(make_batch(networks.config, is_first=ends))
    assert all(torch.isfinite(value).all() for value in metrics.values())
    assert torch.equal(before, networks.manager.critics[0].last.weight)


def test_observations_are_normalised_by_what_was_seen() -> None:
    networks, rng = make_hiro(), np.random.default_rng(0)
    seen = torch.as_tensor(rng.normal([1000, -3], [0.5, 20], (4000, 2)), dtype=torch.float32)
    for part in seen.split(400):
        networks.normalize.follow(part)
    torch.testing.assert_close(networks.normalize.mean, seen.mean(0))
    torch.testing.assert_close(
        networks.normalize.variance, seen.var(0, correction=0), rtol=1e-3, atol=0
    )
    assert networks.normalize(torch.tensor([1e9, -3.0])).tolist() == pytest.approx([10, 0], abs=0.1)


def test_images_are_refused_when_settings_are_checked_and_when_networks_are_built() -> None:
    config = make_hiro_config()
    with pytest.raises(UserError, match="not been shown to work from images"):
        validated(replace(config, obs="pixels"))
    with pytest.raises(UserError, match="images \\(camera\\)"):
        HiroNetworks({"camera": (64, 64, 3), "position": (2,)}, 2, config)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("replay", {"length": 5}, "replay.length must be at least 6"),
        ("skills", {"dim": 0}, "skills.dim of at least 1"),
        ("hiro", {"worker_updates": 0}, "hiro.worker_updates"),
        ("hiro", {"layers": ()}, "hiro.layers"),
        ("hiro", {"goal_range": 0.0}, "hiro.goal_range"),
        ("hiro", {"worker_reward": -0.1}, "hiro.worker_reward must be at least 0"),
        ("hiro", {"worker_reward": float("nan")}, "hiro.worker_reward must be at least 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(part: Any, changes: Any, message: Any) -> None:
    config = make_hiro_config()
    with pytest.raises(UserError, match=message):
        validated(replace(config, **{part: replace(getattr(config, part), **changes)}))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_valid_and_reads_back_from_json(preset: Any) -> None:
    config = validated(make_config("hiro", preset))
    assert from_dict(to_dict(config)) == config


def test_no_preset_drowns_goals_in_noise_and_paper_alone_keeps_the_task_from_the_worker() -> None:
    settings = {preset: make_config("hiro", preset).hiro for preset in PRESETS}
    assert {hiro.manager_noise for hiro in settings.values()} == {0.2}
    assert [hiro.worker_reward for hiro in settings.values()] == [0, 10, 10, 10]


# Acting


def observe(*positions: Any) -> Any:
    return {"position": np.array(positions, np.float32)}


@pytest.mark.parametrize("mode", ["collect", "evaluate"])
def test_a_skill_is_held_for_k_steps(mode: Any) -> None:
    agent, rng = HiroAgent(make_hiro(), mode, 2, seed=1), np.random.default_rng(0)
    goals, steps = [], []
    for time in range(3 * K):
        if time == 2 * K + 1:
            agent.begin(1)
            np.testing.assert_array_equal(agent.notes()["goal"][1], 0)
        action = agent.act(observe(*rng.normal(size=(2, 2))))
        assert np.abs(action).max() <= 1
        goals.append(agent.notes()["goal"])
        steps.append(agent.notes()["goal_step"].tolist())
    changed = [not np.array_equal(x[0], y[0]) for x, y in zip(goals[1:], goals[:-1], strict=True)]
    assert changed == [time % K == 0 for time in range(1, 3 * K)]
    assert [x[0] for x in steps] == [0, 1, 2] * 3
    assert [x[1] for x in steps] == [0, 1, 2] * 2 + [0, 0, 1]  # its episode began anew


def test_a_state_goal_shrinks_by_what_was_done_of_it() -> None:
    networks = make_hiro("states")
    agent = HiroAgent(networks, "collect", 1, seed=1)
    positions = [(0.0, 0.0), (0.3, -0.1), (0.5, 0.5), (0.9, 0.0)]
    goals = []
    for position in positions:
        agent.act(observe(position))
        goals.append(agent.notes()["goal"][0])
    # h(s, g, s') = s + g - s': the place that the goal means stays where it is.
    for time in (1, 2):
        np.testing.assert_allclose(goals[time], goals[0] - positions[time], atol=1e-6)
    assert not np.allclose(goals[3], goals[0] - positions[3])  # chosen anew
    assert np.abs(goals[3]).max() <= 1


def test_only_collecting_is_noisy() -> None:
    networks = make_hiro()
    cases: list[Any] = [("evaluate", 0), ("evaluate", 1), ("collect", 0), ("collect", 1)]
    acts = [
        HiroAgent(networks, mode, seed=seed).act({"position": np.zeros(2, np.float32)})
        for mode, seed in cases
    ]
    np.testing.assert_array_equal(acts[0], acts[1])
    assert not np.array_equal(acts[2], acts[3])


# Through the trainer


class Plane(gymnasium.Env[Any, Any]):
    """A point on a square of side 2, moved by up to a fifth a step and axis. The reward is 1 at
    the goal, less the distance to it."""

    observation_space = gymnasium.spaces.Dict(
        {"position": gymnasium.spaces.Box(-1, 1, (2,), np.float32)}
    )
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    goal, length = np.array([0.9, -0.9]), 20

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.position, self.time = self.np_random.uniform(-1, 1, 2), 0
        return self._observe(), {"env_steps": 0}

    def step(self, action: Any) -> Any:
        self.position = np.clip(self.position + 0.2 * action, -1, 1)
        self.time += 1
        reward = max(0.0, 1 - float(np.linalg.norm(self.position - self.goal)))
        return self._observe(), reward, False, self.time == self.length, {"env_steps": 1}

    def _observe(self) -> Any:
        return {"position": self.position.astype(np.float32)}


def train(path: Any, config: Any, steps: Any) -> Trainer:
    runtime = RuntimeConfig(compile=False)
    trainer = Trainer(open_run(config, RunFolder(path), runtime, Plane))
    trainer.run(steps)
    trainer.close()
    return trainer


def plane_config(goals: Any = "skills", **schedule: Any) -> Config:
    config = make_hiro_config(goals)
    defaults = {"prefill": 100, "update_every": 10, "log_every": 50, "eval_every": 0}
    return replace(config, schedule=replace(config.schedule, **(defaults | schedule)))


@pytest.mark.long
@pytest.mark.parametrize("goals", GOALS)
def test_episodes_keep_the_goal_of_every_action_from_the_first_on(
    tmp_path: Any, goals: Any
) -> None:
    trainer = train(tmp_path, plane_config(goals), 160)
    episodes = list(trainer.replay.episodes())
    assert len(episodes) == 8
    for episode in episodes:  # the first five of them acted at random
        assert episode["goal_step"].tolist() == [0, *(t % K for t in range(20))]
        assert (episode["goal"][0] == 0).all()
        chosen = episode["goal"][1::K]
        assert len(np.unique(chosen, axis=0)) == len(chosen)
        assert np.abs(chosen).max() <= 1
        if goals == "skills":
            np.testing.assert_array_equal(episode["goal"][2::K], chosen)
    drawn = np.concatenate([episode["action"][1:] for episode in episodes[:5]])
    np.testing.assert_array_equal(
        drawn, np.random.default_rng([0, 1]).uniform(-1, 1, (100, 2)).astype(np.float32)
    )
    sample = trainer.draw_batch()
    assert sample["goal"].shape == (6, TIME, 2)
    assert {"goal", "goal_step"} <= sample.keys()
    last = [line for line in read_metrics(tmp_path) if line["kind"] == "train"][-1]
    assert {"worker/reward", "manager/reward", "manager/relabelled"} <= last.keys()
    assert trainer.counters.updates == 5  # at 110, 120, ... 150 env steps


@pytest.mark.long
def test_other_methods_note_nothing(tmp_path: Any) -> None:
    config = make_config("dreamer", "debug", task="plane")
    schedule = replace(config.schedule, prefill=40, eval_every=0)
    trainer = train(tmp_path, replace(config, schedule=schedule), 40)
    assert "goal" not in next(trainer.replay.episodes())


def test_a_run_in_several_environments_keeps_their_goals_apart(tmp_path: Any) -> None:
    networks = build_networks(spaces_of(Plane()), make_hiro_config())
    agent = build_agent(networks, "collect", num_envs=2, seed=0)
    assert isinstance(agent, HiroAgent)
    agent.act(observe((0, 0), (1, 1)))
    one, other = agent.notes()["goal"]
    assert not np.array_equal(one, other)


def learner_config(goals: Any) -> Config:
    """Small networks, but learning rates and updates that get somewhere in seconds."""
    config = make_config("hiro", "debug", task="plane")
    schedule = {"prefill": 500, "update_every": 3, "log_every": 1000, "eval_every": 0}
    return replace(
        config,
        hiro=replace(
            config.hiro,
            goals=goals,
            layers=(64, 64),
            worker_updates=3,
            actor_rate=3e-4,
            slow_rate=0.02,
            discount=0.9,
            worker_noise=0.3,
            worker_reward=0.0,  # who is paid for the task needs no manager
        ),
        skills=replace(config.skills, dim=2, layers=(64,), learning_rate=1e-3),
        planner=replace(config.planner, skill_length=5),
        replay=replace(config.replay, batch=64, length=10),
        schedule=replace(config.schedule, **schedule, eval_episodes=20, save_every=100_000),
    )


@pytest.mark.long
@pytest.mark.parametrize(
    "goals", [pytest.param(x, marks=[pytest.mark.slow] * (x == "states")) for x in GOALS]
)
def test_a_point_mass_is_led_to_its_goal(tmp_path: Any, goals: Any) -> None:
    """The goal lies near a corner, because the tanh of TD3's managers saturates on such a task:
    where the goal lies further in, they overshoot it. Nor do they stay where they got to: of the
    six evaluations the best counts."""
    config = learner_config(goals)
    schedule = replace(config.schedule, eval_every=500)
    trainer = train(tmp_path, replace(config, schedule=schedule), 3000)
    # Going straight there earns 16.5 of 20, random actions 2.
    random = np.mean([x["reward"].sum() for x in list(trainer.replay.episodes())[:25]])
    assert random < 4
    lines = read_metrics(tmp_path)
    assert max(line["eval/return"] for line in lines if line["kind"] == "eval") > 9
