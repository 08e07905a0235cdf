"""Rewards for the walker, which moves in a plane, read on observations.

`orientations` begins with the torso: cosine of its angle to the vertical, and sine, positive
where it leans forwards; `height` is the torso's, in metres; `velocity` begins with the torso's
speeds up and forwards, in metres a second.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

Observations = Mapping[str, np.ndarray]
Actions = Float[np.ndarray, "time action"]
Rewards = Float[np.ndarray, " time"]

STANDING_HEIGHT = 1.2  # metres (dm_control's walker)
SPEED = 1.0  # metres a second (dm_control's walk)
LEANING = 0.5  # sine of the torso's angle to the vertical
HOPPING = 1.0  # metres a second, up or down


def walk_backwards(observations: Observations, actions: Actions) -> Rewards:
    """Stand up, and walk backwards."""
    return np.asarray(
        _standing(observations) * (-observations["velocity"][:, 1] / SPEED).clip(0, 1)
    )


def stand(observations: Observations, actions: Actions) -> Rewards:
    """Stand up, and do not move."""
    return np.asarray(
        _standing(observations) * np.exp(-np.square(observations["velocity"][:, :2]).sum(-1))
    )


def lean(observations: Observations, actions: Actions) -> Rewards:
    """Stand with the torso bent forwards."""
    off = np.abs(observations["orientations"][:, 1] - LEANING)
    return np.asarray(_high(observations) * (1 - off / LEANING).clip(0, 1))


def hop(observations: Observations, actions: Actions) -> Rewards:
    """Stand up, and move up and down."""
    return np.asarray(
        _standing(observations) * (np.abs(observations["velocity"][:, 0]) / HOPPING).clip(0, 1)
    )


def _high(observations: Observations) -> Rewards:
    return np.asarray((observations["height"][:, 0] / STANDING_HEIGHT).clip(0, 1))


def _standing(observations: Observations) -> Rewards:
    """3/4 for the height and 1/4 for a straight torso, as in dm_control's walker_stand."""
    upright = ((observations["orientations"][:, 0] + 1) / 2).clip(0, 1)
    return np.asarray((3 * _high(observations) + upright) / 4)
