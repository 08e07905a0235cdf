"""Acting with HIRO: the manager chooses a goal every K agent steps, the worker every action."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lsp.algorithm.rng import restore
from lsp.baselines.hiro import HiroNetworks


class HiroAgent:
    """Acts in one environment, or in several at once, as `lsp.algorithm.agent.Agent` does.

    `collect` adds Gaussian noise to goals and actions, `evaluate` none.
    """

    notes_random_actions = True
    """Its goals stand beside random actions too: the manager learns from what followed them."""

    def __init__(
        self,
        networks: HiroNetworks,
        mode: Literal["collect", "evaluate"] = "evaluate",
        num_envs: int | None = None,
        seed: int = 0,
    ):
        self.networks, self.config, self.mode = networks, networks.config, mode
        self.batched = num_envs is not None
        self.count = num_envs or 1
        self.generator = torch.Generator(networks.device).manual_seed(seed)
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next observation is the first of an episode, in every env."""
        networks = self.networks
        self.state_before = torch.zeros(self.count, networks.state_dim, device=networks.device)
        self.goal = torch.zeros(self.count, networks.goal_dim, device=networks.device)
        self.steps = np.zeros(self.count, np.int64)

    def begin(self, index: int) -> None:
        """The next observation of env `index` is the first of an episode."""
        self.steps[index] = 0
        self.goal[index] = 0.0

    @torch.no_grad()
    def act(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Actions in [-1, 1]: `[action]`, or `[num_envs, action]` if `num_envs` was given."""
        networks, config = self.networks, self.config.hiro
        envs = self.count if self.batched else None
        tensors = networks.preprocess.tensors(observation, networks.device, envs)
        state = networks.normalize(networks.readings(tensors))
        self.goal = self._goal(state)
        self.state_before = state
        self.steps += 1
        action = self._explore(networks.choose_action(state, self.goal), config.worker_noise, 1.0)
        actions = action.cpu().numpy()
        return actions if self.batched else actions[0]

    def _goal(self, state: Float[Tensor, "envs state"]) -> Float[Tensor, "envs goal"]:
        """A new goal where one has been held for K steps, elsewhere the old one carried on."""
        networks, config = self.networks, self.config.hiro
        held = networks.carry_goal(self.state_before, self.goal, state)
        due = self.steps % self.config.planner.skill_length == 0
        if not due.any():
            return held
        size = config.goal_range
        fresh = self._explore(networks.choose_goal(state), size * config.manager_noise, size)
        return torch.where(torch.as_tensor(due, device=networks.device)[:, None], fresh, held)

    def _explore(
        self, x: Float[Tensor, "envs size"], std: float, bound: float
    ) -> Float[Tensor, "envs size"]:
        if self.mode == "evaluate":
            return x
        noise = torch.randn(x.shape, generator=self.generator, device=x.device)
        return (x + std * noise).clamp(-bound, bound)

    def notes(self) -> dict[str, np.ndarray]:
        """What a replayed row needs besides: the goal of the last action of each env, and how many
        actions of its segment came before that one; zeros where an episode begins."""
        step = np.maximum(self.steps - 1, 0) % self.config.planner.skill_length
        return {"goal": self.goal.cpu().numpy().copy(), "goal_step": step.astype(np.int32)}

    def state(self) -> dict[str, Tensor]:
        """Everything that acting depends on, for a checkpoint."""
        return {
            "state_before": self.state_before,
            "goal": self.goal,
            "steps": torch.as_tensor(self.steps.copy()),
            "generator": self.generator.get_state(),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        device = self.networks.device
        self.state_before, self.goal = (state[k].to(device) for k in ("state_before", "goal"))
        self.steps = state["steps"].numpy().copy()
        restore(self.generator, state["generator"])
