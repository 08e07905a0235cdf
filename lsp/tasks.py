"""The tasks of the paper's experiments, and their Gymnasium ids.

`import lsp` registers them, so that `gymnasium.make("lsp/quadruped_cove-v0")` works.
"""

import re
from typing import NamedTuple

import gymnasium

PAPER_TASKS = {
    "walker_walk": "walk at 1 m/s",
    "walker_run": "run at 8 m/s",
    "cheetah_run": "run at 10 m/s",
    "hopper_hop": "hop forward at 2 m/s",
    "quadruped_run": "get up and run at 5 m/s",
    "quadruped_walk": "get up and walk at 0.5 m/s (dm_control's own)",
    "quadruped_getup_walk": "quadruped_walk that observes a goal, for transfer",
    "quadruped_upright_walk": "walk at 0.5 m/s from an upright start",
    "quadruped_reach": "walk to a goal from an upright start",
    "quadruped_getup_reach": "get up and walk to a goal",
    "quadruped_obstacles_walk": "walk at 0.5 m/s among random cylinders",
    "quadruped_obstacles_reach": "walk to a goal among random cylinders",
    "quadruped_line": "walk to a goal behind a line of cylinders",
    "quadruped_cove": "walk to a goal behind a cove of cylinders; pays only there",
}
"""What each asks for. Any other dm_control task can be named as well."""


class Id(NamedTuple):
    """A registered environment."""

    name: str
    task: str
    obs: str


def ids() -> list[Id]:
    """Every registered id: each task from proprioception and from pixels."""
    endings = {"proprio": "", "pixels": "-pixels"}
    return [
        Id(f"lsp/{task}{ending}-v0", task, obs)
        for task in PAPER_TASKS
        for obs, ending in endings.items()
    ]


def plain_name(task: str) -> str:
    """`task` as one name of a file: `gymnasium:lsp/X-v0` becomes `gymnasium-lsp-X-v0`."""
    return re.sub(r"[^\w-]+", "-", task).strip("-")


def register() -> None:
    """Make `gymnasium.make` know them; a second call changes nothing."""
    for name, task, obs in ids():
        if name not in gymnasium.registry:
            gymnasium.register(name, "lsp.envs.dmc:DMControlEnv", kwargs={"task": task, "obs": obs})
