"""Environments: everything the rest of the code needs is ``make_env``.

They speak Gymnasium, and only numpy: nothing here imports torch.
"""

from collections.abc import Collection
from typing import Any

import gymnasium

from lsp.envs.rendering import choose_gl, rendering_problem

choose_gl()  # dm_control reads the choice when it is imported, which the next lines do

from lsp.config.ranges import no_count  # noqa: E402
from lsp.config.requirements import mismatch  # noqa: E402
from lsp.envs.action_repeat import ActionRepeat  # noqa: E402
from lsp.envs.custom import make_user_env  # noqa: E402
from lsp.envs.lookup import Task  # noqa: E402
from lsp.envs.rewards import (  # noqa: E402
    OwnReward,
    PaidByObservations,
    PaidByStates,
    RewardFunction,
    own_reward,
)
from lsp.errors import UserError, said  # noqa: E402
from lsp.tasks import register  # noqa: E402

try:
    from lsp.envs.dmc import DMControlEnv, task_names
except (ImportError, AttributeError, RuntimeError) as error:
    versions = mismatch("mujoco", "dm_control", "numpy") or "lsp doctor shows the versions"
    raise UserError(f"dm_control cannot be imported ({said(error)}): {versions}") from error

register()

__all__ = ["make_env", "rendering_problem", "task_names"]


def make_env(
    task: Task,
    obs: str = "proprio",
    action_repeat: int = 2,
    render_quality: str = "fast",
    reward: str | RewardFunction | OwnReward | None = None,
    images: Collection[str] | None = None,
) -> gymnasium.Env[Any, Any]:
    """Builds the environment that agents act in: one step is one decision.

    Args:
      task: a dm_control suite task as ``domain_task``, e.g. ``walker_walk``; or yours, as
        ``gymnasium:ID``, ``package.module:name``, an environment or a function that makes one.
      obs: ``proprio`` (one float32 array per measurement) or ``pixels`` (``image``, 64x64x3).
      action_repeat: control steps per decision; their rewards are summed.
      render_quality: ``fast`` leaves out shadows, reflections and multisampling; ``faithful``
        renders as dm_control does.
      images: keys of a user's observations that are images, in place of those whose spaces are a
        picture's; an empty one makes all of them vectors.
      reward: what pays instead of the task: a function of (observations, actions) or of
        (simulator states, actions), or its name, ``package.module:function``; see ``OwnReward``.

    Raises:
      UserError: an argument is unknown, or rendering is needed and impossible.
    """
    for complaint in no_count("action_repeat", action_repeat, 1):
        raise UserError(f"{task}: {complaint}.")
    pay = None if reward is None else own_reward(reward)
    by_states = pay if pay is not None and pay.reads == "states" else None
    if isinstance(task, str) and ":" not in task:
        if images:
            raise UserError(
                f"{task}: images are chosen in tasks of your own: leave them out, or --obs pixels"
            )
        env: gymnasium.Env[Any, Any] = DMControlEnv(task, obs, render_quality, own_reward=by_states)
    else:
        # On the command line '' stands for none.
        keys = None if images is None else [key for key in images if key]
        env = make_user_env(task, obs, keys)
        env = env if by_states is None else PaidByStates(env, by_states)
    repeated = ActionRepeat(env, action_repeat)
    if pay is None or pay is by_states:
        return repeated
    return PaidByObservations(repeated, pay)
