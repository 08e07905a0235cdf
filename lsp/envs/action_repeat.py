"""Action repeat: one decision of the agent lasts several control steps."""

from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np


@runtime_checkable
class Blind(Protocol):
    """An environment that can take steps without observing, which from pixels costs a frame."""

    def advance(self, action: Any) -> tuple[float, bool, bool, dict[str, Any]]:
        """``step`` without the observation."""

    def observe(self) -> Any:
        """The observation of the present state."""


class ActionRepeat(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Repeats each action, sums the rewards, and stops early when the episode ends.

    ``info["env_steps"]`` is the number of control steps taken to arrive (0 at reset). Where the
    wrapped environment reports ``info["sim_state"]`` of shape [S], it becomes [repeat, S]: one row
    per control step, the last row repeated when the episode ended early, and the initial state in
    every row at reset. ``info["success"]`` is true if it was at any of them. All other entries of
    ``info`` are those of the last control step.

    Raises:
      ValueError: ``repeat`` is less than 1.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], repeat: int):
        if repeat < 1:
            raise ValueError(f"repeat must be at least 1, not {repeat}")
        super().__init__(env)
        self.repeat = repeat
        self._blind = env if isinstance(env, Blind) else None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts an episode; see the class for what is added to ``info``."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, self._summarise(info, [info], env_steps=0)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes up to ``repeat`` control steps; the reward is their sum."""
        total = 0.0
        infos: list[dict[str, Any]] = []
        for _ in range(self.repeat):
            if self._blind:
                reward, terminated, truncated, info = self._blind.advance(action)
            else:
                observation, paid, terminated, truncated, info = self.env.step(action)
                reward = float(paid)
            total += reward
            infos.append(info)
            if terminated or truncated:
                break
        if self._blind:
            observation = self._blind.observe()
        info = self._summarise(info, infos, env_steps=len(infos))
        return observation, total, terminated, truncated, info

    def _summarise(
        self, last: dict[str, Any], infos: list[dict[str, Any]], env_steps: int
    ) -> dict[str, Any]:
        info = dict(last, env_steps=env_steps)
        if any("success" in each for each in infos):
            info["success"] = any(each.get("success") for each in infos)
        if "sim_state" in last:
            padded = infos + [last] * (self.repeat - len(infos))
            info["sim_state"] = np.array([each["sim_state"] for each in padded])
        return info
