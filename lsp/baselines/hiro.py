"""HIRO: a manager that chooses goals, a worker that pursues them (Nachum et al. 2018).

Both are learned off-policy with TD3. The manager is an amortised high level in the place of LSP's
planner: every K agent steps it emits a goal, which the worker's policy reads. Two kinds of goal:

`skills`, as LSP's paper has it ("the same intrinsic reward"): a goal is a skill z, and the worker
is paid log q(z | segment) for being told apart, at a segment's last step.
`states`, the original: a goal is a change of the observation that the worker is to bring about, and
is paid for coming near.
With `hiro.worker_reward` above 0 it is paid for the task as well.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lsp.algorithm.optimizer import Adam
from lsp.algorithm.rng import restore
from lsp.baselines.segments import (
    Segments,
    Sequences,
    Steps,
    at_the_last_step,
    cut_segments,
    draw_steps,
)
from lsp.baselines.td3 import TD3, Metrics, TD3Learner, Transitions, descend, weighted_mean
from lsp.config import Config
from lsp.errors import UserError
from lsp.models.encoders import Preprocessor, Shapes
from lsp.models.skills import SkillPredictor, batch_density
from lsp.rows import observations

STATE_BOUND = 10.0  # standard deviations: a reading's first jump must not swamp the rest (ours)
SLOWEST_RATE = 1e-3  # at which the normaliser follows, once it has seen a thousand batches (ours)


class Normalizer(nn.Module):
    """Observations minus their running mean, over their running standard deviation."""

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, x: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch state"]:
        # A reading that never moves is 0 whatever it is; rounding must not be blown up.
        std = self.variance.sqrt().clamp(min=1e-3)
        return ((x - self.mean) / std).clamp(-STATE_BOUND, STATE_BOUND)

    @torch.no_grad()
    def follow(self, x: Float[Tensor, "rows state"]) -> None:
        """Take in the rows of one more batch."""
        self.batches += 1
        rate = (1 / self.batches).clamp(min=SLOWEST_RATE)
        mean, variance = x.mean(0), x.var(0, correction=0)
        moved = self.variance + rate * (self.mean - mean).square()
        self.variance.copy_(torch.lerp(moved, variance, rate))
        self.mean.lerp_(mean, rate)


class HiroNetworks(nn.Module):
    """Manager, worker, the observations' normaliser, and for skills their predictor q.

    Raises UserError for image observations.
    """

    def __init__(self, shapes: Shapes, action_dim: int, config: Config):
        super().__init__()
        self.config, self.action_dim = config, action_dim
        self.preprocess = Preprocessor(shapes, config.model)
        if self.preprocess.images:
            raise UserError(
                f"method hiro cannot learn from images ({', '.join(self.preprocess.images)}): "
                "HIRO has not been shown to work from them (Nachum et al. 2018)"
            )
        self.state_dim = sum(self.preprocess.vectors.values())
        self.has_skills = config.hiro.goals == "skills"
        self.goal_dim = config.skills.dim if self.has_skills else self.state_dim
        self.normalize = Normalizer(self.state_dim)
        self.manager = TD3(self.state_dim, self.goal_dim, config.hiro)
        self.worker = TD3(self.state_dim + self.goal_dim, action_dim, config.hiro)
        if self.has_skills:
            self.skill_predictor = SkillPredictor(self.state_dim, config.skills)

    @property
    def device(self) -> torch.device:
        return self.normalize.mean.device

    def readings(self, observation: Mapping[str, Tensor]) -> Float[Tensor, "*batch state"]:
        """All vector observations in alphabetical order of their keys, not yet normalised."""
        vectors = self.preprocess(observation)
        return torch.cat([vectors[key] for key in self.preprocess.vectors], -1)

    def choose_goal(self, state: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch goal"]:
        """The manager's goal, each coordinate within `goal_range`."""
        goal: Tensor = self.config.hiro.goal_range * self.manager.actor(state)
        return goal

    def choose_action(
        self, state: Float[Tensor, "*batch state"], goal: Float[Tensor, "*batch goal"]
    ) -> Float[Tensor, "*batch action"]:
        action: Tensor = self.worker.actor(torch.cat([state, goal], -1))
        return action

    def carry_goal(
        self,
        state: Float[Tensor, "*batch state"],
        goal: Float[Tensor, "*batch goal"],
        next_state: Float[Tensor, "*batch state"],
    ) -> Float[Tensor, "*batch goal"]:
        """The goal of the next step: a skill is held, a change of state shrinks by what was
        done of it, h(s, g, s') = s + g - s' (section 3.2 of HIRO's paper)."""
        return goal if self.has_skills else state + goal - next_state


def manager_reward(segments: Segments, scale: float) -> Float[Tensor, " segments"]:
    """`scale` (0.1 in HIRO's released code) times the segment's sum of task rewards."""
    return scale * segments.reward


def worker_reward(
    intrinsic: Float[Tensor, "batch time"], sequences: Sequences, weight: float
) -> Float[Tensor, "batch time"]:
    """What arriving at each row is worth to the worker: `weight` times the task's reward beside the
    intrinsic one (ours; HIRO's own worker, with 0, knows nothing of the task)."""
    return intrinsic + weight * sequences.reward


@torch.no_grad()
def intrinsic_reward(
    networks: HiroNetworks, sequences: Sequences, segments: Segments, generator: torch.Generator
) -> Float[Tensor, "batch time"]:
    """What the worker is paid for its goals on arriving at each row; no task reward is in it.

    For skills log q(z | segment) at the last step of each complete segment, z being the skill that
    the worker was given; for states -|s + g - s'| at every step.
    """
    if networks.has_skills:
        log_q = networks.skill_predictor(segments.state, generator).log_prob(segments.goal)
        return at_the_last_step(log_q, segments, sequences)
    state, goal = sequences.state, sequences.goal
    missed = (state[:, :-1] + goal[:, 1:] - state[:, 1:]).norm(dim=-1)
    return nn.functional.pad(-missed, (1, 0))


def goal_candidates(
    networks: HiroNetworks, segments: Segments, generator: torch.Generator
) -> Float[Tensor, "candidates segments goal"]:
    """Goals that might explain a segment: the manager's own, the one that was achieved, and
    Gaussian draws around that (HIRO's paper, section 3.3).

    Achieved is the change of state or, for skills, the mean of q.
    """
    config = networks.config.hiro
    if networks.has_skills:
        achieved = networks.skill_predictor(segments.state, generator).mean
    else:
        achieved = segments.state[-1] - segments.state[0]
    noise = torch.randn(
        (config.candidates, *achieved.shape), generator=generator, device=achieved.device
    )
    draws = achieved + config.candidate_std * config.goal_range * noise
    goals = torch.cat([segments.goal[None], achieved[None], draws])
    return goals.clamp(-config.goal_range, config.goal_range)


def action_errors(
    networks: HiroNetworks,
    segments: Segments,
    goals: Float[Tensor, "candidates segments goal"],
) -> Float[Tensor, "candidates segments"]:
    """Σ |a - μ(s, g)|² over a segment's steps: half of it is minus the log likelihood of the
    stored actions under each goal, up to a constant (HIRO's paper, eq. 5)."""
    steps = segments.action.shape[0]
    state = segments.state[:-1].expand(goals.shape[0], -1, -1, -1)
    carried = goals[:, None].expand(-1, steps, -1, -1)
    if not networks.has_skills:
        # h applied step by step telescopes: what is left of the change is s_0 + g - s_j.
        carried = networks.carry_goal(state[:, :1].expand_as(state), carried, state)
    error = (networks.choose_action(state, carried) - segments.action).square().sum(-1)
    return (segments.within * error).sum(1)


@torch.no_grad()
def relabel(
    networks: HiroNetworks, segments: Segments, generator: torch.Generator
) -> tuple[Float[Tensor, "segments goal"], Int[Tensor, " segments"]]:
    """The goals under which the worker of today would most likely have acted as it did, and
    which of the candidates they are (0: the manager's own)."""
    goals = goal_candidates(networks, segments, generator)
    best = action_errors(networks, segments, goals).argmin(0)
    return goals[best, torch.arange(best.shape[0], device=best.device)], best


class HiroLearner:
    """Optimisers of both levels and of q, and a random generator."""

    def __init__(self, networks: HiroNetworks, seed: int):
        config = networks.config
        self.networks, self.config = networks, config
        self.generator = torch.Generator(networks.device).manual_seed(seed)
        self.levels = {
            "manager": TD3Learner(networks.manager, config.optimizer),
            "worker": TD3Learner(networks.worker, config.optimizer),
        }
        self.optimizers = {
            f"{level}_{name}": optimizer
            for level, learner in self.levels.items()
            for name, optimizer in learner.optimizers.items()
        }
        if networks.has_skills:
            self.optimizers["skills"] = Adam(
                networks.skill_predictor.parameters(),
                config.skills.learning_rate,
                config.optimizer.epsilon,
            )

    def update(
        self, batch: Mapping[str, np.ndarray], env_steps: int = 0, hold_policy: bool = False
    ) -> Metrics:
        """One step of manager and q, `hiro.worker_updates` steps of the worker, on replayed
        sequences `[batch, time, ...]`; metrics of the worker are those of its last step.

        It has neither an anchor that fades with `env_steps` nor a planner that adapts while its
        policies are held: all of it learns in any case.
        """
        networks, config, generator = self.networks, self.config, self.generator
        sequences = self._sequences(batch)
        segments = cut_segments(sequences, config.planner.skill_length)

        # Off-policy correction: which goal explains what the worker did?
        goal, chosen = relabel(networks, segments, generator)
        counts = segments.counts.float()
        metrics = {"manager/relabelled": weighted_mean((chosen > 0).float(), counts)}

        # q learns to tell the goals from the states
        if networks.has_skills:
            metrics |= self._learn_skills(segments, goal)

        # The worker is paid for its goals, and for the task as far as the settings say
        intrinsic = intrinsic_reward(networks, sequences, segments, generator)
        reward = worker_reward(intrinsic, sequences, config.hiro.worker_reward)
        for _ in range(config.hiro.worker_updates):
            steps = draw_steps(sequences, reward, config.planner.skill_length, generator)
            about = self.levels["worker"].update(self._worker_transitions(steps), generator)
        metrics |= {f"worker/{name}": value for name, value in about.items()}

        # The manager is paid for the task
        transitions = self._manager_transitions(segments, goal)
        about = self.levels["manager"].update(transitions, generator)
        return metrics | {f"manager/{name}": value for name, value in about.items()}

    def _sequences(self, batch: Mapping[str, np.ndarray]) -> Sequences:
        """The batch on the device, its observations normalised, by what they tell too."""
        networks = self.networks
        data = {key: torch.as_tensor(x, device=networks.device) for key, x in batch.items()}
        observation = observations(data)
        readings = networks.readings(observation)
        networks.normalize.follow(readings.flatten(0, 1))
        return Sequences(
            state=networks.normalize(readings),
            action=data["action"],
            goal=data["goal"],
            step=data["goal_step"],
            reward=data["reward"],
            is_first=data["is_first"],
            is_terminal=data["is_terminal"],
        )

    def _learn_skills(self, segments: Segments, goal: Float[Tensor, "segments goal"]) -> Metrics:
        """One step of q on complete segments, by likelihood of the relabelled skills."""
        weight = segments.complete.float()
        log_q = self.networks.skill_predictor(segments.state, self.generator).log_prob(goal)
        loss = -weighted_mean(log_q, weight)
        descend(self.optimizers["skills"], loss, self.config.optimizer.clip)
        about_batch = batch_density(goal).log_prob(goal)
        return {
            "skills/loss": loss.detach(),
            "skills/log_q": -loss.detach(),
            "skills/mutual_information": weighted_mean(log_q.detach() - about_batch, weight),
            "skills/std": goal.std(0, correction=0).mean(),
        }

    def _worker_transitions(self, steps: Steps) -> Transitions:
        carried = self.networks.carry_goal(steps.state, steps.goal, steps.next_state)
        next_goal = torch.where(steps.last[:, None], carried, steps.next_goal)
        return Transitions(
            state=torch.cat([steps.state, steps.goal], -1),
            action=steps.action,
            reward=steps.reward,
            discount=self.config.hiro.discount * (1 - steps.terminal.float()),
            next_state=torch.cat([steps.next_state, next_goal], -1),
            weight=steps.weight,
        )

    def _manager_transitions(
        self, segments: Segments, goal: Float[Tensor, "segments goal"]
    ) -> Transitions:
        config = self.config.hiro
        return Transitions(
            state=segments.state[0],
            action=goal / config.goal_range,
            reward=manager_reward(segments, config.manager_reward),
            discount=config.discount * (1 - segments.terminal.float()),
            next_state=segments.state[-1],
            weight=segments.counts.float(),
        )

    def probe_skills(self) -> Metrics:
        """Nothing: there is no model to try skills in."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps besides networks and optimisers."""
        counts = {name: torch.tensor(level.updates) for name, level in self.levels.items()}
        return {"generator": self.generator.get_state(), **counts}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        restore(self.generator, state["generator"])
        for name, level in self.levels.items():
            level.updates = int(state[name])
