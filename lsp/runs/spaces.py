"""What an agent observes and does, as its run notes it: weights are for no other spaces."""

from collections.abc import Collection
from typing import Any, NamedTuple

import gymnasium


class Spaces(NamedTuple):
    """Of an environment that agents act in. `body` is the robot's, where dm_control knows it: the
    simulator states of one body are none of another's, though pixels look alike."""

    observations: dict[str, list[int]]
    """Shape of each by key."""
    actions: int
    body: str | None

    def __str__(self) -> str:
        seen = (f"'{key}' {shape}" for key, shape in self.observations.items())
        return f"{', '.join(seen)} and {self.actions} actions"

    def fits(self, other: "Spaces") -> bool:
        """Whether agents of one can act in the other, whatever its body is."""
        return (self.observations, self.actions) == (other.observations, other.actions)

    def told(self, symlogged: bool, raw: Collection[str]) -> str:
        """For people: "observes image 64×64×3, vector 12 (goal raw, rest symlog)".

        `raw` are the keys that symlog leaves alone, where vectors are symlogged.
        """
        vectors = {key: shape for key, shape in self.observations.items() if len(shape) == 1}
        images = [
            f"{key} {'×'.join(map(str, shape))}"
            for key, shape in self.observations.items()
            if key not in vectors
        ]
        if vectors:
            left = [key for key in vectors if symlogged and key in raw]
            rest = "rest symlog" if left and len(left) < len(vectors) else "symlog"
            scaled = ", ".join([f"{key} raw" for key in left] + [rest] * (len(left) < len(vectors)))
            numbers = sum(shape[0] for shape in vectors.values())
            images.append(f"vector {numbers} ({scaled if symlogged else 'raw'})")
        return f"observes {', '.join(images)}; {self.actions} actions"


def spaces_of(env: gymnasium.Env[Any, Any]) -> Spaces:
    """Those of an environment of `make_env`."""
    assert isinstance(env.observation_space, gymnasium.spaces.Dict)
    assert env.action_space.shape is not None
    observations = {key: list(box.shape or ()) for key, box in env.observation_space.items()}
    return Spaces(observations, env.action_space.shape[0], getattr(env.unwrapped, "domain", None))
