"""Whether what a policy imagines comes true.

From states that an agent has really reached, its policy acts in the world model. The very actions
that were imagined are then carried out in the simulator, and beside them the agent acts there on
what it sees. A model may be right about all that was ever done and wrong about what its policy
imagines, as these actions need never have been tried (docs/notebook/quadrupeds.md).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from lsp.algorithm.agent import Agent
from lsp.api import environments_of, load_networks
from lsp.envs.lookup import Task
from lsp.envs.several import Env, close, several
from lsp.errors import UserError
from lsp.models.imagination import Rollout, RolloutNoise
from lsp.models.networks import Networks
from lsp.training.evaluation import episode_seeds

STARTS, AFTER, STEPS = 12, 40, 60  # states, agent steps until they are reached, and from there on
MOST = 200  # starts: each has two simulators of its own
NEGLIGIBLE = 0.01  # a return is followed until γ^n is this


@dataclass(frozen=True)
class Foresight:
    """Rewards of the agent steps after some states; NaN after an episode's end.

    Attributes:
        imagined: by the policy in the world model, `[steps, starts]`.
        tried: the same actions in the simulator, `[steps, starts]`.
        acted: the agent in the simulator, under the same skill, `[steps, starts]`.
        value: v of these states, `[starts]`.
        came: the discounted return of what the agent did, `[starts]`.
    """

    imagined: Float[np.ndarray, "steps starts"]
    tried: Float[np.ndarray, "steps starts"]
    acted: Float[np.ndarray, "steps starts"]
    value: Float[np.ndarray, " starts"]
    came: Float[np.ndarray, " starts"]


def foresee(
    run: str | Path,
    *,
    starts: int = STARTS,
    after: int = AFTER,
    steps: int = STEPS,
    env: Task | None = None,
    trust: bool = False,
) -> Foresight:
    """Compare what a run's policy imagines with what comes.

    The task must repeat itself under one seed and the same actions, as dm_control does.

    Args:
        run: the run's folder, or an agent's folder or name (docs/guide/agents.md).
        starts: episodes, each of which gives a state.
        after: agent steps of an episode until that state.
        steps: agent steps that are imagined.
        env: the run's environment, where its task is not known by name.
        trust: run the code that the run's settings name.

    Raises:
        UserError: the method has no policy that imagines, a number is below 1 or there are more
            than 200 starts, or every episode ends within `after` agent steps.
    """
    networks = load_networks(run, env=env, trust=trust)
    config = networks.config
    if not isinstance(networks, Networks) or config.plans_actions:
        raise UserError(
            f"{config.method} has no policy that imagines: name a run of lsp or dreamer"
        )
    if min(starts, after, steps) < 1 or starts > MOST:
        raise UserError(
            f"--starts, --after and --steps must be at least 1, and --starts at most {MOST}"
        )
    return compare(networks, environments_of(run, env), starts, after, steps)


def compare(
    networks: Networks, make_env: Callable[[], Env], starts: int, after: int, steps: int
) -> Foresight:
    """`foresee`, of networks and their environments.

    Raises:
        UserError: every episode ends within `after` agent steps.
    """
    agent = Agent(networks, "evaluate", starts)
    envs = several(make_env, 2 * starts)
    try:
        own, twins = _Episodes(envs[:starts]), _Episodes(envs[starts:])
        for _ in range(after):
            actions = agent.act(own.observations())
            own.step(actions)
            twins.step(actions)
        left = ~own.ended
        if not left.any():
            raise UserError(f"no episode goes on after {after} agent steps: take a lower --after")
        first = agent.act(own.observations())
        rollout = _imagine(networks, agent, steps)
        tried = np.stack([twins.step(x) for x in rollout.action.cpu().numpy()])
        acted = _act_on(agent, own, first, steps)
    finally:
        close(envs)
    with torch.no_grad():
        said, value = networks.judge(rollout).reward, networks.value(rollout.feature[0])
    scale, gamma = networks.config.model.reward_scale, networks.config.behavior.discount
    came = (np.nan_to_num(acted) * gamma ** np.arange(len(acted))[:, None]).sum(0)
    return Foresight(
        (said / scale).cpu().numpy()[:, left],
        tried[:, left],
        acted[:steps, left],
        (value / scale).cpu().numpy()[left],
        came[left],
    )


@torch.no_grad()
def _imagine(networks: Networks, agent: Agent, steps: int) -> Rollout:
    """The policy as it is evaluated, holding the skill in force; the model draws its states."""
    held = ceil(steps / networks.config.planner.skill_length)
    draws = networks.draw_noise(steps, len(agent.skill), generator=agent.generator)
    noise = RolloutNoise(torch.zeros_like(draws.action), draws.latent)
    return networks.imagine(agent.latent, agent.skill[:, None].expand(-1, held, -1), noise)


def _act_on(
    agent: Agent, episodes: "_Episodes", first: np.ndarray, steps: int
) -> Float[np.ndarray, "longer starts"]:
    """What the agent earns from `first` on: under the same skill for `steps`, then as it plans,
    until what comes hardly counts."""
    config, rewards = agent.networks.config, [episodes.step(first)]
    skill = agent.skill.cpu().numpy() if config.has_skills else None
    discount, step = config.behavior.discount, 1
    while step < steps or (discount**step > NEGLIGIBLE and not episodes.ended.all()):
        held = skill if step < steps else None
        rewards.append(episodes.step(agent.act(episodes.observations(), held)))
        step += 1
    return np.stack(rewards)


class _Episodes:
    """Environments side by side, each in its own episode; one that has ended stays there."""

    def __init__(self, envs: list[Env]) -> None:
        self.envs = envs
        seeds = episode_seeds(len(envs))
        self._seen = [env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)]
        self.ended = np.zeros(len(envs), bool)

    def observations(self) -> dict[str, np.ndarray]:
        return {key: np.stack([x[key] for x in self._seen]) for key in self._seen[0]}

    def step(self, actions: np.ndarray) -> Float[np.ndarray, " count"]:
        """The reward of an agent step in each; NaN where the episode had ended."""
        rewards = np.full(len(self.envs), np.nan)
        for index in np.flatnonzero(~self.ended):
            self._seen[index], rewards[index], terminated, truncated, _ = self.envs[index].step(
                actions[index]
            )
            self.ended[index] = terminated or truncated
        return rewards


def table(found: Foresight) -> list[str]:
    """Mean rewards of an agent step, further and further on, and v beside the return that came."""
    lines = [f"{'agent steps on':>15}  {'imagined':>8}  {'tried':>8}  {'acted':>8}"]
    steps, begin = len(found.imagined), 0
    while begin < steps:
        end = min(2 * begin + 5, steps)
        means = [_mean(x[begin:end]) for x in (found.imagined, found.tried, found.acted)]
        lines.append(f"{f'{begin + 1}-{end}':>15}  " + "  ".join(f"{x:8.2f}" for x in means))
        begin = end
    lines.append(
        f"v is {found.value.mean():.1f}, the discounted return that came {found.came.mean():.1f} "
        f"(means over {len(found.value)} states)."
    )
    return lines


def _mean(rewards: np.ndarray) -> float:
    """Of the episodes that go on; NaN where none does."""
    return float(np.nanmean(rewards)) if np.isfinite(rewards).any() else float("nan")
