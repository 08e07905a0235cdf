"""A reward without training: a run plans for another one, its policy, skills and model as they are.

The reward is a user's function of observations, read on what the model decodes. One of simulator
states, or a task's own, is fitted to the latents of the run's replay by a small regression, and so
is every reward for which a value is fitted: that takes too many states to decode.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

from lsp.algorithm.behavior import estimate_values, replayed_value_loss, value_loss
from lsp.algorithm.optimizer import Adam
from lsp.algorithm.rng import seeded
from lsp.algorithm.skill_planning import noisy_plan, plan_skills, repeat_plan
from lsp.backends.backends import learning_backend
from lsp.config import (
    Config,
    PlannerConfig,
    RuntimeConfig,
    SkillsConfig,
    no_count,
    validated,
    with_refit,
)
from lsp.envs.rewards import OwnReward, RewardFunction, own_reward_of
from lsp.errors import UserError
from lsp.models.actor_critic import Value
from lsp.models.imagination import Rollout
from lsp.models.networks import Networks, NewTask
from lsp.models.new_reward import DecodedReward, FittedReward
from lsp.models.world_model import Latent
from lsp.rows import observations
from lsp.runs.folder import RunFolder
from lsp.training.episode_files import Episode
from lsp.training.parts import count_episodes
from lsp.training.relabel import Relabel, relabelled, rewards_of
from lsp.training.replay import Replay

ROWS = 20_000  # agent steps of the replay that are looked at, spread over the run
TOGETHER = 16  # episodes that are filtered side by side
HELD_OUT = 10  # of so many episodes one tells the error of a fitted reward
FIT_UPDATES, FIT_BATCH, FIT_RATE = 2000, 512, 1e-3
VALUE_BATCH = 32, 50  # sequences, and agent steps of each, in an update of v
VALUE_ROLLOUTS = 4  # imagined from the first state of each
VALUE_RATE = 1e-3  # Adam; v starts anew, and has few updates


@dataclass(frozen=True)
class NewReward:
    """A reward to plan for with nothing trained, and how to plan for it.

    It is planned by CEM. The defaults look 50 agent steps ahead, under one skill, and plan anew
    after 10 of them.

    Attributes:
        reward: a function of (observations, actions) or of (simulator states, actions), or its
            name; `task`: what the environment's own task pays.
        horizon: H, agent steps that are planned.
        skill_length: K, agent steps that a plan holds each skill; at most H.
        replan_every: agent steps between plans; at most H.
        prior_weight: weight of log p_0(z) in a plan's score (`planner.prior_weight`), in units of
            the spread of returns over skills from N(0, I).
        lambda_: λ of a plan's score (`planner.lambda_`).
        num_candidates: G.
        num_elites: M.
        num_iterations: rounds of sampling and refitting.
        updates: of a value v, which stands for what comes after the horizon, with everything else
            held; 0 has none.
    """

    reward: str | RewardFunction | OwnReward = "task"
    horizon: int = 50
    skill_length: int = 50
    replan_every: int = 10
    prior_weight: float = 0.5
    lambda_: float = 1.0
    num_candidates: int = 32
    num_elites: int = 6
    num_iterations: int = 3
    updates: int = 0

    def settings(self, config: Config) -> Config:
        """A run's settings, with which its agent plans for this reward.

        Raises:
            UserError: the method has no skills to plan, or a number makes no sense.
        """
        if not config.has_skills or config.method == "hiro":
            raise UserError(
                f"{config.method} has no skills to plan: a reward without training needs a run of "
                "lsp, no_mi or random_skills"
            )
        counts = {"updates": 0, "horizon": 1, "skill_length": 1, "replan_every": 1}
        for name, lowest in counts.items():
            for complaint in no_count(name, getattr(self, name), lowest):
                raise UserError(complaint)
        planner = replace(
            with_refit(config.planner, "cem"),
            horizon=self.horizon,
            skill_length=min(self.skill_length, self.horizon),
            replan_every=min(self.replan_every, self.horizon),
            prior_weight=self.prior_weight,
            lambda_=self.lambda_,
            num_candidates=self.num_candidates,
            num_elites=self.num_elites,
            num_iterations=self.num_iterations,
            acting_iterations=None,
            acting_horizon=None,
            scope="per_state",
        )
        # What was proposed for the old reward, at the old K and H, is no beginning.
        least = SkillsConfig().proposal_min_std
        skills = replace(config.skills, source="planned", proposal="normal", proposal_min_std=least)
        return validated(replace(config, planner=planner, skills=skills))


class Fit(NamedTuple):
    """How well a regression tells a new reward from the model's states, in held-out episodes.

    Attributes:
        rows: agent steps it was fitted to.
        error: root mean square, of an agent step's reward.
        spread: standard deviation of these rewards, which a regression that knows nothing has.
    """

    rows: int
    error: float
    spread: float

    def __str__(self) -> str:
        """For people."""
        return (
            f"reward fitted to {self.rows:,} agent steps of the replay: error {self.error:.3g}, "
            f"where rewards spread by {self.spread:.3g} (in held-out episodes)"
        )


def plan_for(
    networks: Networks,
    wanted: NewReward,
    env: gymnasium.Env[Any, Any],
    folder: RunFolder,
    runtime: RuntimeConfig,
    seed: int = 0,
) -> Fit | None:
    """Make `networks` plan for a new reward, which `env` pays; how well it was fitted, if it was.

    Raises:
        UserError: the method plans no skills, the reward cannot be read, or the run's replay, which
            a fit needs, is not there.
    """
    trained = networks.config
    networks.config = wanted.settings(trained)
    own = own_reward_of(env)
    if own is not None and own.reads == "observations" and wanted.updates == 0:
        networks.new_task = NewTask(DecodedReward(own, networks.config.action_repeat))
        return None
    seen = look_back(networks, folder, rewards_of(env, folder.path.name))
    reward, fit = fit_reward(networks, seen, seed)
    networks.new_task = NewTask(reward)
    if wanted.updates:
        fit_value(networks, seen, wanted.updates, trained.planner, runtime, seed)
    return fit


class Seen(NamedTuple):
    """Agent steps of a replay as the model reads them, those of an episode one after another."""

    latents: Latent
    """`[rows, ...]`"""
    rewards: Tensor
    """Of the new reward, `[rows]`."""
    episode: Tensor
    """Which one each row is of, `[rows]`."""
    is_first: Tensor
    is_terminal: Tensor

    def sequences(self, count: int, length: int, generator: torch.Generator) -> "Seen":
        """Some, drawn uniformly, of all rows if there are fewer: `[count, length, ...]`."""
        device, length = self.rewards.device, min(length, len(self.rewards))
        last = len(self.rewards) - length
        begin = torch.randint(last + 1, (count, 1), generator=generator, device=device)
        rows = begin + torch.arange(length, device=device)
        latents, *others = self
        return Seen(latents.rows(rows), *(x[rows] for x in others))


def look_back(networks: Networks, folder: RunFolder, rewards: Relabel) -> Seen:
    """Episodes spread over a run's replay, filtered by its model and paid by `rewards`.

    Raises UserError where the replay is not there or cannot be paid.
    """
    latents, paid, lengths = list[Latent](), list[np.ndarray](), list[int]()
    first, terminal = list[np.ndarray](), list[np.ndarray]()
    together: list[Episode] = []
    for episode in _spread_out(folder, networks.config):
        together.append(relabelled(episode, rewards, folder.path))
        paid.append(together[-1]["reward"])
        lengths.append(len(episode["is_first"]))
        first.append(episode["is_first"])
        terminal.append(episode["is_terminal"])
        if len(together) == TOGETHER:
            latents.append(_filtered(networks, together))
            together = []
    if together:
        latents.append(_filtered(networks, together))
    if not latents:
        raise folder.no_episodes()
    device = networks.device
    return Seen(
        Latent(*(torch.cat(parts) for parts in zip(*latents, strict=True))),
        torch.as_tensor(np.concatenate(paid), device=device),
        torch.repeat_interleave(torch.tensor(lengths, device=device)),
        *(torch.as_tensor(np.concatenate(x), device=device) for x in (first, terminal)),
    )


def _spread_out(folder: RunFolder, config: Config) -> Iterator[Episode]:
    """About `ROWS` agent steps of whole episodes, evenly from the first to the last."""
    checkpoint = folder.newest_checkpoint()
    assert checkpoint is not None
    what = "a reward of (observations, actions) and without updates of a value needs none"
    folder.check_episodes("this reward is fitted to", what)
    if not folder.episodes.is_dir():
        raise folder.no_episodes()
    count = count_episodes(checkpoint, folder)
    every = max(1, round(checkpoint.env_steps / config.action_repeat / ROWS))
    for number, episode in enumerate(Replay.stream(folder.episodes, count, folder.id)):
        if number % every == 0:
            yield episode


@torch.no_grad()
def _filtered(networks: Networks, episodes: list[Episode]) -> Latent:
    """The posteriors of whole episodes, filtered side by side, in one row."""
    model, lengths = networks.world_model, [len(each["is_first"]) for each in episodes]
    names = [*(f"obs/{key}" for key in observations(episodes[0])), "action", "is_first"]
    padded = {
        name: torch.nn.utils.rnn.pad_sequence(
            [torch.as_tensor(each[name], device=networks.device) for each in episodes], True
        )
        for name in names
    }
    generator = seeded(0, networks.device)
    shape = (*padded["is_first"].shape, model.config.stoch)
    noise = torch.randn(shape, generator=generator, device=networks.device)
    embedding = model.encode(observations(padded))
    latents, _, _ = model.rssm.observe(embedding, padded["action"], padded["is_first"], noise)
    whole = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    return Latent(*(x[whole.to(x.device)] for x in latents))


def fit_reward(networks: Networks, seen: Seen, seed: int = 0) -> tuple[FittedReward, Fit]:
    """A regression of the new reward on states, and its error in episodes that it did not see."""
    feature, generator = seen.latents.feature, seeded(seed, networks.device)
    episodes = int(seen.episode[-1]) + 1
    held_out = seen.episode % HELD_OUT == min(HELD_OUT, episodes) - 1
    known = torch.nonzero(~held_out).flatten() if episodes > 1 else torch.arange(len(feature))
    with _drawn_with(seed):
        reward = FittedReward(feature.shape[-1]).to(networks.device)
    reward.mean.copy_(seen.rewards[known].mean())
    reward.std.copy_(seen.rewards[known].std().clamp(min=1e-6))
    target = (seen.rewards - reward.mean) / reward.std
    optimizer = Adam(reward.net.parameters(), FIT_RATE, networks.config.optimizer.epsilon)
    for _ in range(FIT_UPDATES):
        draw = torch.randint(len(known), (FIT_BATCH,), generator=generator, device=feature.device)
        rows = known[draw]
        loss = (reward.net(feature[rows]).squeeze(-1) - target[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    reward.requires_grad_(False)
    error = (reward.predict(feature) - seen.rewards)[held_out].square().mean().sqrt()
    spread = seen.rewards[held_out].std(correction=0)
    return reward, Fit(len(known), float(error), float(spread))


@contextmanager
def _drawn_with(seed: int) -> Iterator[None]:
    """First weights are drawn from PyTorch's own generator, which is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def fit_value(
    networks: Networks,
    seen: Seen,
    updates: int,
    planner: PlannerConfig,
    runtime: RuntimeConfig,
    seed: int = 0,
) -> None:
    """V of the new reward, from nothing: λ-returns of imagined rollouts from replayed states.

    Policy, skills and model stay as they are. Skills are planned for the new reward with as many
    candidates as in the run's own updates, whose settings are in `planner`.
    """
    assert networks.new_task is not None
    device, config = networks.device, networks.config
    generator, scale = seeded(seed, device), config.model.reward_scale
    ones = torch.ones(VALUE_BATCH[0] * VALUE_ROLLOUTS, device=device)
    with _drawn_with(seed):
        networks.value = Value(networks.world_model.features, config.value).to(device)
    networks.slow_value.load_state_dict(networks.value.state_dict())
    networks.new_task.has_value = True
    frozen = learning_backend(networks, runtime).frozen_copy
    names = "num_candidates", "num_elites", "num_iterations"
    few = replace(config.planner, **{name: getattr(planner, name) for name in names})
    frozen.config = replace(config, planner=few)
    parameters = networks.value.parameters()
    optimizer = Adam(parameters, VALUE_RATE, config.optimizer.epsilon)
    for _ in range(updates):
        latents, rewards, _, is_first, is_terminal = seen.sequences(*VALUE_BATCH, generator)
        batch = {"reward": rewards / scale, "is_first": is_first, "is_terminal": is_terminal}
        replayed, _ = replayed_value_loss(networks, latents, batch)
        rollout = imagine_planned(frozen, Latent(*(x[:, 0] for x in latents)), generator)
        estimates = estimate_values(frozen, rollout, None)
        loss, _ = value_loss(networks, rollout, estimates, ones)
        loss = loss + replayed
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        networks.update_slow_value()


@torch.no_grad()
def imagine_planned(networks: Networks, starts: Latent, generator: torch.Generator) -> Rollout:
    """`VALUE_ROLLOUTS` from each start, each under skills that are planned there."""
    zeta = noisy_plan(plan_skills(networks, starts, generator)[0], networks.config, generator)
    zeta = repeat_plan(zeta, VALUE_ROLLOUTS)
    starts = Latent(*(x.repeat_interleave(VALUE_ROLLOUTS, 0) for x in starts))
    shape = zeta.mean.shape
    plans = zeta.sample(torch.randn(shape, generator=generator, device=networks.device))
    horizon = networks.config.planner.horizon
    noise = networks.draw_noise(horizon, shape[0], generator=generator)
    return networks.imagine(starts, plans, noise)
