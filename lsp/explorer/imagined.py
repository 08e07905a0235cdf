"""What the model says that skills do from here: the ways over the ground, and the rewards."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lsp.envs.quadruped import GOAL_RADIUS, REACH_MARGIN
from lsp.explorer.ground import tells_ways, way
from lsp.models.imagination import Rollout
from lsp.models.networks import Networks
from lsp.models.world_model import Latent

TURN = 1.0  # metres that a turn by one radian costs
REPEATS = 8  # rollouts of each skill, which are averaged: a way is what to expect


class Imagined(NamedTuple):
    """Of each skill: expected rewards of the next agent steps, and the way, where one is told.

    Attributes:
        skills: `[skills, Z]`.
        rewards: `[skills, steps]`.
        ways: metres ahead and to the left of here, `[skills, steps + 1, 2]`.
    """

    skills: Float[np.ndarray, "skills Z"]
    rewards: Float[np.ndarray, "skills steps"]
    ways: Float[np.ndarray, "skills points 2"] | None


class GoThere(nn.Module):
    """Pays for being upright with little left to go to a place on the ground (`left_to_go`).

    Nothing of it was observed in training: it is read on the ways that the model decodes.
    """

    place: Tensor

    def __init__(self, seconds: float, action_repeat: int) -> None:
        super().__init__()
        self.seconds, self.action_repeat = seconds, action_repeat
        # A buffer, so that copies of the networks see where the place is now.
        self.register_buffer("place", torch.zeros(2))

    def aim(self, place: Float[np.ndarray, " 2"]) -> None:
        """Say how far the place is ahead and to the left of where plans begin, in metres."""
        self.place.copy_(torch.as_tensor(place, dtype=torch.float32))

    @torch.no_grad()
    def forward(self, networks: Networks, rollout: Rollout) -> Float[Tensor, "horizon batch"]:
        """Of each agent step."""
        ways, headings, seen = decoded_ways(networks, rollout.feature, self.seconds)
        metres = left_to_go(self.place.cpu().numpy() - ways, headings)
        upright = seen["torso_upright"][..., 0] if "torso_upright" in seen else 1.0
        paid = self.action_repeat * nearness(metres, upright)[1:]
        return torch.as_tensor(paid, dtype=torch.float32, device=rollout.feature.device)


def left_to_go(
    place: Float[np.ndarray, "*any 2"], heading: Float[np.ndarray, "*any"] | float = 0.0
) -> Float[np.ndarray, "*any"]:
    """Metres to a place that is so far away in x and y, the turn towards it counted in.

    By the distance alone a plan of two seconds that has its place behind it slows down: whoever
    turns goes farther away at first.
    """
    distance = np.linalg.norm(place, axis=-1)
    off = np.arctan2(place[..., 1], place[..., 0]) - heading
    turn = np.abs((off + np.pi) % (2 * np.pi) - np.pi)
    # Within the goal's radius it has arrived, however it stands.
    return np.asarray(distance + TURN * turn * np.clip(distance - GOAL_RADIUS, 0, 1))


def nearness(
    metres: Float[np.ndarray, "*any"] | float, upright: Float[np.ndarray, "*any"] | float
) -> np.ndarray:
    """Reward of an env step with so much left to go, and this cosine of the torso's tilt."""
    beyond = np.maximum(np.asarray(metres) - GOAL_RADIUS, 0)
    return np.asarray(np.clip((np.asarray(upright) + 1) / 2, 0, 1) * (1 - beyond / REACH_MARGIN))


@torch.no_grad()
def imagine_skills(
    networks: Networks,
    latent: Latent,
    skills: Float[np.ndarray, "skills Z"],
    steps: int,
    seconds: float,
    generator: torch.Generator,
) -> Imagined:
    """Hold each skill for `steps` agent steps, `seconds` each, from `latent`, which has one row."""
    config, count = networks.config, len(skills)
    rows = torch.zeros(count * REPEATS, dtype=torch.long, device=networks.device)
    plans = torch.as_tensor(skills, dtype=torch.float32, device=networks.device)
    held = -(-steps // config.planner.skill_length)
    plans = plans.repeat_interleave(REPEATS, 0)[:, None].repeat(1, held, 1)
    noise = networks.draw_noise(steps, len(rows), generator=generator)
    rollout = networks.imagine(latent.rows(rows), plans, noise)
    rewards = networks.judge(rollout).reward
    if networks.new_task is None:
        rewards = rewards / config.model.reward_scale
    rewards = rewards.view(steps, count, REPEATS).mean(-1).T
    ways = None
    if tells_ways(networks.world_model.preprocess.vectors):
        points, _, _ = decoded_ways(networks, rollout.feature, seconds)
        ways = points.reshape(steps + 1, count, REPEATS, 2).mean(2).swapaxes(0, 1)
    return Imagined(np.asarray(skills), rewards.float().cpu().numpy(), ways)


def decoded_ways(
    networks: Networks, feature: Float[Tensor, "states batch features"], seconds: float
) -> tuple[
    Float[np.ndarray, "states batch 2"], Float[np.ndarray, "states batch"], dict[str, np.ndarray]
]:
    """The ways of rollouts, their headings, and what is decoded in them, `[states, batch, n]`."""
    model = networks.world_model
    decoded = model.preprocess.restore(model.decoder(feature.flatten(0, 1)))
    seen = {
        key: decoded[key].double().cpu().numpy().reshape(*feature.shape[:2], -1)
        for key in model.preprocess.vectors
    }
    return *way(seen, seconds), seen
