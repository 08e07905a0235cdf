"""A robot that is a point, and a model that knows it: what skills do is known by hand.

A skill's first two numbers are the speed ahead and to the left, in metres a second; it never turns.
"""

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import torch
from builders import make_networks
from gymnasium.spaces import Box, Dict
from torch import nn

from lsp.models.encoders import symlog
from lsp.models.networks import Networks
from lsp.models.world_model import Latent

SHAPES: Any = {"torso_velocity": (3,), "goal": (3,), "torso_upright": (1,), "imu": (6,)}
SECONDS = 0.1
LANDMARK = np.array([6.0, 2.0])
TIME_LIMIT = 60


class Point(gymnasium.Env[Any, np.ndarray]):
    """On the ground, facing along x; paid for its speed along x."""

    metadata = {"render_modes": [], "render_fps": 10}  # noqa: RUF012
    action_space = Box(-1, 1, (2,), np.float32)
    observation_space = Dict(
        [(key, Box(-np.inf, np.inf, shape, np.float32)) for key, shape in SHAPES.items()]
    )
    closed = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time, self.place, self.velocity = 0, np.zeros(2), np.zeros(2)
        return self.observe(), self.info(0)

    def step(self, action: Any) -> Any:
        self.velocity = np.clip(action, -1, 1)
        self.place, self.time = self.place + SECONDS * self.velocity, self.time + 1
        late = self.time >= TIME_LIMIT
        return self.observe(), float(self.velocity[0]), False, late, self.info(1)

    def observe(self) -> Any:
        left = LANDMARK - self.place
        seen = {key: np.zeros(shape, np.float32) for key, shape in SHAPES.items()}
        seen["torso_velocity"][:2] = self.velocity
        seen["goal"][:] = np.linalg.norm(left), *left
        seen["torso_upright"][:] = 1
        return seen

    def info(self, env_steps: int) -> Any:
        state = np.zeros(60)
        state[:4] = *self.place, 0.5, 1
        return {"sim_state": state[None], "env_steps": env_steps}

    def close(self) -> None:
        self.closed += 1


class Known(nn.Module):
    """Filter and decoder in one; a state is where the landmark is, and the speed."""

    def __init__(self, rssm: Any, compressed: Any) -> None:
        super().__init__()
        self.sizes, self.compressed, self.enter = rssm.initial(1), compressed, rssm.enter

    def initial(self, count: int) -> Latent:
        return Latent(*(x.expand(count, -1).clone() for x in self.sizes))

    def scan(self, latent: Any, action: Any, embedding: Any, is_first: Any, noise: Any) -> Any:
        return state_of(latent, embedding[:, 0, :2], embedding[:, 0, 2:4]), None, None

    def forward(self, feature: Any) -> Any:
        deter = self.sizes.deter.shape[-1]
        landmark, velocity = (feature[..., deter + i : deter + i + 2] for i in (0, 2))
        still = torch.zeros_like(feature[..., :1])
        raw = {
            "torso_velocity": torch.cat([velocity, still], -1),
            "goal": torch.cat([landmark.norm(dim=-1, keepdim=True), landmark], -1),
            "torso_upright": still + 1,
            "imu": still.expand(*still.shape[:-1], 6),
        }
        return {key: symlog(x) if key in self.compressed else x for key, x in raw.items()}


class Obedient(nn.Module):
    """A policy that moves as its skill says; what it returns is the action of any kind."""

    def forward(self, feature: Any, skill: Any) -> Any:
        action = skill[..., :2].clamp(-1, 1)

        class Certain:
            mean = action

            def mode(self) -> Any:
                return action

            def likeliest(self, noise: Any) -> Any:
                return action

            def sample(self, noise: Any) -> Any:
                return action

        return Certain()


def state_of(latent: Any, landmark: Any, velocity: Any) -> Latent:
    stoch = torch.zeros_like(latent.stoch)
    stoch[:, :2], stoch[:, 2:4] = landmark, velocity
    return Latent(torch.zeros_like(latent.deter), stoch)


def encode(observation: Any) -> Any:
    return torch.cat([observation["goal"][..., 1:], observation["torso_velocity"][..., :2]], -1)


def transition(latent: Any, skill: Any, noise: Any) -> Any:
    action = skill[..., :2].clamp(-1, 1)
    return state_of(latent, latent.stoch[:, :2] - SECONDS * action, action), action


def knowing_networks(method: str = "lsp") -> Networks:
    """Of the debug preset, with all that is learned replaced by what is known."""
    networks: Any = make_networks(method, SHAPES, 2)
    networks.config = replace(networks.config, task="quadruped_point", action_repeat=1)
    model = networks.world_model
    model.rssm = model.decoder = Known(model.rssm, model.preprocess.compressed)
    model.encode, networks.policy, networks.transition = encode, Obedient(), transition
    known: Networks = networks
    return known
