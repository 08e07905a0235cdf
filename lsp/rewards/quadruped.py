"""Rewards for the quadruped: what its torso does, read on observations.

`torso_velocity` is forward, to the left and up, in metres a second; the last number of `imu` is how
fast the torso turns to the left, in radians a second; `goal` is the distance in metres, and how
much of it is ahead and to the left.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from lsp.envs.quadruped import GOAL_RADIUS, REACH_MARGIN, Measurements

Observations = Mapping[str, np.ndarray]
Actions = Float[np.ndarray, "time action"]
Rewards = Float[np.ndarray, " time"]

TURNING = 0.5  # radians a second
SPEED = 0.5  # metres a second
SLOWLY = 0.2
STANDING_HEIGHT, CROUCHING_HEIGHT = 0.48, 0.3  # metres, of the torso


def reach(observations: Observations, actions: Actions) -> Rewards:
    """That of quadruped_reach: near the goal."""
    beyond = (observations["goal"][:, 0] - GOAL_RADIUS).clip(0)
    return np.asarray(_upright(observations) * (1 - beyond / REACH_MARGIN).clip(0, 1))


def turn_left(observations: Observations, actions: Actions) -> Rewards:
    """Turn counter-clockwise."""
    return np.asarray(_upright(observations) * (observations["imu"][:, 5] / TURNING).clip(0, 1))


def turn_right(observations: Observations, actions: Actions) -> Rewards:
    """Turn clockwise."""
    return np.asarray(_upright(observations) * (-observations["imu"][:, 5] / TURNING).clip(0, 1))


def walk_backwards(observations: Observations, actions: Actions) -> Rewards:
    """Walk to where the tail would be."""
    return np.asarray(
        _upright(observations) * (-observations["torso_velocity"][:, 0] / SPEED).clip(0, 1)
    )


def walk_sideways(observations: Observations, actions: Actions) -> Rewards:
    """Walk to the left."""
    return np.asarray(
        _upright(observations) * (observations["torso_velocity"][:, 1] / SPEED).clip(0, 1)
    )


def walk_slowly(observations: Observations, actions: Actions) -> Rewards:
    """Walk forwards, at two fifths of what walking asks for."""
    off = np.abs(observations["torso_velocity"][:, 0] - SLOWLY)
    return np.asarray(_upright(observations) * (1 - off / SLOWLY).clip(0, 1))


def stand(observations: Observations, actions: Actions) -> Rewards:
    """Neither move nor turn."""
    speed = np.square(observations["torso_velocity"]).sum(-1)
    turning = np.square(observations["imu"][:, 3:]).sum(-1)
    return np.asarray(_upright(observations) * np.exp(-4 * speed - turning))


def crouch(states: Float[np.ndarray, "time state"], actions: Actions) -> Rewards:
    """Hold the torso low, which is not observed: of simulator states."""
    now = Measurements(states)
    low = (STANDING_HEIGHT - now.position[:, 2]) / (STANDING_HEIGHT - CROUCHING_HEIGHT)
    return np.asarray(np.clip(now.upright, 0, 1) * low.clip(0, 1))


def _upright(observations: Observations) -> Rewards:
    return np.asarray(((observations["torso_upright"][:, 0] + 1) / 2).clip(0, 1))
