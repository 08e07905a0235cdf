"""TD3: twin critics, smoothed targets, a delayed actor (Fujimoto et al. 2018).

Sizes, initialisation and the Huber loss are those of HIRO's released code.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lsp.algorithm.optimizer import Adam
from lsp.config import HiroConfig, OptimizerConfig

LAST_LAYER = 0.003  # weights start in ± this (DDPG, and HIRO's released code)
HUBER = 1.0  # errors beyond this count linearly (HIRO's released code)

Metrics = dict[str, Tensor]


class Transitions(NamedTuple):
    """Single steps of a decision process; `discount` is 0 where the episode ended by itself, and
    a `weight` of 0 leaves a row out."""

    state: Float[Tensor, "batch state"]
    action: Float[Tensor, "batch action"]
    reward: Float[Tensor, " batch"]
    discount: Float[Tensor, " batch"]
    next_state: Float[Tensor, "batch state"]
    weight: Float[Tensor, " batch"]


class Actor(nn.Module):
    """π(s): actions in [-1, 1]."""

    __call__: Callable[..., Tensor]

    def __init__(self, states: int, actions: int, layers: Sequence[int]):
        super().__init__()
        sizes = [states, *layers]
        hidden = [nn.Linear(*pair) for pair in pairwise(sizes)]
        self.hidden = nn.ModuleList(hidden)
        self.last = nn.Linear(sizes[-1], actions)
        initialise(self)

    def forward(self, state: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch action"]:
        for layer in self.hidden:
            state = F.relu(layer(state))
        return torch.tanh(self.last(state))


class Critic(nn.Module):
    """Q(s, a); the action joins after the first layer, as in HIRO's released code."""

    def __init__(self, states: int, actions: int, layers: Sequence[int]):
        super().__init__()
        first, *others = layers
        self.first = nn.Linear(states, first)
        sizes = [first + actions, *others]
        hidden = [nn.Linear(*pair) for pair in pairwise(sizes)]
        self.hidden = nn.ModuleList(hidden)
        self.last = nn.Linear(sizes[-1], 1)
        initialise(self)

    def forward(
        self, state: Float[Tensor, "*batch state"], action: Float[Tensor, "*batch action"]
    ) -> Float[Tensor, "*batch"]:
        x = torch.cat([F.relu(self.first(state)), action], -1)
        for layer in self.hidden:
            x = F.relu(layer(x))
        value: Tensor = self.last(x)
        return value.squeeze(-1)


def initialise(net: nn.Module) -> None:
    """Weights uniform in ± 1 / √inputs, those of `last` in ± 0.003; biases 0."""
    for part in net.modules():
        if isinstance(part, nn.Linear):
            nn.init.uniform_(part.weight, -(part.in_features**-0.5), part.in_features**-0.5)
            nn.init.zeros_(part.bias)
            if part is net.last:
                nn.init.uniform_(part.weight, -LAST_LAYER, LAST_LAYER)


class TD3(nn.Module):
    """An actor, two critics, and the slow copies that targets are made with."""

    def __init__(self, states: int, actions: int, config: HiroConfig):
        super().__init__()
        self.config = config
        self.actor = Actor(states, actions, config.layers)
        critics = [Critic(states, actions, config.layers) for _ in range(2)]
        self.critics = nn.ModuleList(critics)
        self.slow_actor = deepcopy(self.actor).requires_grad_(False)
        self.slow_critics = deepcopy(self.critics).requires_grad_(False)

    @torch.no_grad()
    def update_slow(self) -> None:
        """Move the slow copies by `slow_rate`."""
        pairs = ((self.slow_actor, self.actor), (self.slow_critics, self.critics))
        for slow, fast in pairs:
            mine: list[Tensor] = list(slow.parameters())
            theirs: list[Tensor] = list(fast.parameters())
            torch._foreach_lerp_(mine, theirs, self.config.slow_rate)


@torch.no_grad()
def critic_target(
    td3: TD3, batch: Transitions, noise: Float[Tensor, "batch action"]
) -> Float[Tensor, " batch"]:
    """r + γ min(Q'1, Q'2)(s', a'), where a' is the slow actor's action with clipped noise.

    `noise` is standard normal.
    """
    config = td3.config
    noise = (config.target_noise * noise).clamp(-config.target_clip, config.target_clip)
    action = (td3.slow_actor(batch.next_state) + noise).clamp(-1, 1)
    one, other = (critic(batch.next_state, action) for critic in td3.slow_critics)
    return batch.reward + batch.discount * torch.minimum(one, other)


def critic_loss(td3: TD3, batch: Transitions, target: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Huber loss of both critics against the target."""
    values = [critic(batch.state, batch.action) for critic in td3.critics]
    losses = [F.huber_loss(value, target, reduction="none", delta=HUBER) for value in values]
    return weighted_mean(losses[0] + losses[1], batch.weight)


def actor_loss(td3: TD3, batch: Transitions) -> Float[Tensor, ""]:
    """Minus the first critic's value of the actor's own actions."""
    value = td3.critics[0](batch.state, td3.actor(batch.state))
    return -weighted_mean(value, batch.weight)


def weighted_mean(x: Float[Tensor, " batch"], weight: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """0 where all weights are."""
    return (weight * x).sum() / weight.sum().clamp(min=1e-6)


class TD3Learner:
    """Optimisers of a TD3, and the count that delays its actor."""

    def __init__(self, td3: TD3, optimizer: OptimizerConfig):
        self.td3, self.clip, self.updates = td3, optimizer.clip, 0
        rates = {"actor": td3.config.actor_rate, "critic": td3.config.critic_rate}
        parts = {"actor": td3.actor, "critic": td3.critics}
        self.optimizers = {
            name: Adam(parts[name].parameters(), rate, optimizer.epsilon)
            for name, rate in rates.items()
        }

    def update(self, batch: Transitions, generator: torch.Generator) -> Metrics:
        """One step of the critics; every `actor_every`-th time also of actor and slow copies."""
        noise = torch.randn(batch.action.shape, generator=generator, device=batch.action.device)
        target = critic_target(self.td3, batch, noise)
        loss = critic_loss(self.td3, batch, target)
        descend(self.optimizers["critic"], loss, self.clip)
        self.updates += 1
        if self.updates % self.td3.config.actor_every == 0:
            descend(self.optimizers["actor"], actor_loss(self.td3, batch), self.clip)
            self.td3.update_slow()
        return {
            "critic_loss": loss.detach(),
            "value": weighted_mean(target, batch.weight),
            "reward": weighted_mean(batch.reward, batch.weight),
        }


def descend(optimizer: Adam, loss: Float[Tensor, ""], clip: float) -> None:
    """One Adam step of the optimiser's own parameters, with gradients of norm `clip` at most."""
    parameters = optimizer.param_groups[0]["params"]
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()
