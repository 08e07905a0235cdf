"""The command that tries a task without training: `lsp check`."""

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional


@dataclass(frozen=True)
class Check:
    """Try a task for some seconds, with random actions: what agents see and do, rewards, seeds,
    success, speed, pictures. Exit code 2 where nothing can be learned from it."""

    task: Positional[str]
    """As for `lsp train --task`: `walker_walk`, `gymnasium:Hopper-v5`, `package.module:name`."""
    obs: Literal["proprio", "pixels"] = "proprio"
    """Of a dm_control task: its own observations, or 64×64 images."""
    action_repeat: int = 2
    """Env steps that each action is held."""
    images: tuple[str, ...] | None = None
    """Of your own task, the observations that are images; empty: none."""

    only_env: bool = False
    """There can be only one environment (a robot, a port, a licence): no second one is tried."""

    def main(self) -> None:
        from lsp import api
        from lsp.config import make_config

        config = make_config(
            task=self.task, obs=self.obs, action_repeat=self.action_repeat, images=self.images
        )
        print(api.check(config, only_env=self.only_env))
