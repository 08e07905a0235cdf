"""What an agent observes and does, as its run notes it: weights are for no other spaces."""

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


def spaces_of(env: gymnasium.Env[Any, Any]) -> Spaces:
    """Those of an environment of `make_env`."""
    assert isinstance(env.observation_space, gymnasium.spaces.Dict)
    assert env.action_space.shape is not None
    observations = {key: list(box.shape or ()) for key, box in env.observation_space.items()}
    return Spaces(observations, env.action_space.shape[0], getattr(env.unwrapped, "domain", None))
