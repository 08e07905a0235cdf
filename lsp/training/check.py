"""Trying a task without training on it, for `lsp check`."""

from typing import Any, NamedTuple

import gymnasium
import numpy as np

from lsp.config import Config
from lsp.envs import rendering_problem
from lsp.envs.probe import Rolled, is_users, memory_problem, roll, second_environment
from lsp.envs.rewards import try_reward
from lsp.envs.vector import is_repeatable
from lsp.errors import UserError
from lsp.runs.spaces import Spaces, spaces_of
from lsp.training.parts import EnvMaker

ENV_STEPS = 2000  # of random actions, at most
SECONDS = 10.0

Env = gymnasium.Env[Any, Any]


class Check(NamedTuple):
    """What was found of a task; as a string the lines that `lsp check` prints.

    Attributes:
        config: the settings that it was tried with.
        spaces: what agents observe and do.
        rolled: what random actions came to.
        another: why no second environment can be made beside the first; None where one can.
        memory: how two episodes of one seed differ; None where they do not.
        pictures: the shape of a picture [height, width, 3]; or why there is none.
    """

    config: Config
    spaces: Spaces
    rolled: Rolled
    another: str | None
    memory: str | None
    pictures: tuple[int, ...] | str

    @property
    def warnings(self) -> list[str]:
        """What a run survives, and its user should know."""
        found = [] if self.memory is None else [self.memory]
        if self.another is not None:
            found.append(f"there is only one environment ({self.another}): evaluations use it too")
        if not self.rolled.returns:
            found.append(f"no episode ended within {self.rolled.env_steps} env steps")
        return found

    def __str__(self) -> str:
        """A line for each thing that was found, and the verdict."""
        rows = [
            ("task", self.config.task),
            ("spaces", self._spaces()),
            ("rewards", self._rewards()),
            ("episodes", self._episodes()),
            ("seeds", "differ: see below" if self.memory else self._seeds()),
            ("success", self._success()),
            ("speed", f"{self.rolled.env_steps / self.rolled.seconds:,.0f} env steps/s"),
            ("pictures", self._pictures()),
        ]
        lines = [f"{name:<9} {text}" for name, text in rows]
        lines += [f"warning   {text}" for text in self.warnings]
        return "\n".join([*lines, f"verdict   {self._verdict()}"])

    def _spaces(self) -> str:
        model = self.config.model
        told = self.spaces.told(model.obs_transform == "symlog", model.untransformed)
        return f"{told}, each held for {self.config.action_repeat} env steps"

    def _rewards(self) -> str:
        low, high = self.rolled.rewards
        returns = self.rolled.returns
        whole = f"; returns {min(returns):.3g} to {max(returns):.3g}" if returns else ""
        return f"{low:.3g} to {high:.3g} an agent step, of random actions{whole}"

    def _episodes(self) -> str:
        return (
            f"{self.rolled.terminated} ended themselves, {self.rolled.truncated} were ended by a "
            f"time limit, in {self.rolled.env_steps:,} env steps"
        )

    def _seeds(self) -> str:
        return "one seed gives one episode: runs resume in the middle of one"

    def _success(self) -> str:
        if self.rolled.success:
            return "told, and measured by evaluations"
        return "not told: info['success'] or info['is_success'] would be measured"

    def _pictures(self) -> str:
        if isinstance(self.pictures, str):
            return f"none, so no films: {self.pictures}"
        return "×".join(map(str, self.pictures))

    def _verdict(self) -> str:
        count = len(self.warnings)
        after = f", with {count} warning{'s' * (count > 1)}" if count else ""
        return f"can be trained{after}"


def check_task(config: Config, make_env: EnvMaker, only_env: bool = False) -> Check:
    """Try the environments of a task. Raises UserError where nothing can be learned from them."""
    env = make_env()
    try:
        try_reward(env, config.seed)
        rolled = roll(env, config.task, ENV_STEPS, SECONDS)
        other, problem = (None, "as you say") if only_env else second_environment(make_env)
        memory = memory_problem(make_env, other, env) if is_repeatable(env) else _UNREPEATABLE
        if other is not None:
            other.close()
        return Check(
            config=config,
            spaces=spaces_of(env),
            rolled=rolled,
            another=None if other is not None else problem,
            memory=memory,
            pictures=_pictures(env),
        )
    finally:
        env.close()


_UNREPEATABLE = "it says of itself that it is not repeatable: runs resume between episodes"


def _pictures(env: Env) -> tuple[int, ...] | str:
    """The shape of one; or why there are none."""
    if not is_users(env) and (problem := rendering_problem()):
        return problem
    try:
        env.reset(seed=0)
        return np.asarray(env.render()).shape
    except UserError as error:
        return str(error)
