"""The environments of a training run: one in this process, or several in processes of their own.

Both are reset and stepped alike, by index. Worker processes never load torch.
"""

import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, NoReturn

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from jaxtyping import Float

from lsp.errors import UserError

Env = gymnasium.Env[Any, Any]
Observation = dict[str, np.ndarray]
Info = dict[str, Any]

PATIENCE = 300.0  # seconds that a step may take, or that a reset and making the environment may
_KEPT_INFO = ("env_steps", "sim_state", "success")


class Step(NamedTuple):
    """What a step of one environment gave."""

    observation: Observation
    reward: float
    terminated: bool
    truncated: bool
    info: Info


class InProcess:
    """One environment, index 0, in this process. Its maker closes it."""

    count = 1

    def __init__(self, env: Env):
        self.env = env

    def reset(
        self, seeds: Mapping[int, int], actions: Mapping[int, np.ndarray] | None = None
    ) -> dict[int, tuple[Observation, Info]]:
        """As `Workers.reset`."""
        repeated = {} if actions is None else actions
        return {i: _begin(self.env, seed, repeated.get(i, ())) for i, seed in seeds.items()}

    def step(self, actions: Float[np.ndarray, "envs action"]) -> list[Step]:
        """As `Workers.step`."""
        return [_step(self.env, actions[0])]

    def close(self) -> None:
        """Nothing to do."""


class Workers:
    """`count` environments, each in a process of its own that makes, steps and renders it.

    `make` is sent to the processes; `like` is an environment as it makes them. Of `info` only
    `env_steps`, `sim_state` and `success` come back.

    Raises UserError, here and in its methods, where an environment fails or takes longer than
    `PATIENCE`, or a process dies; then all of them are ended.
    """

    def __init__(self, make: Callable[[], Env], count: int, like: Env, task: str):
        self.count, self.task = count, task
        spaces = like.observation_space, like.action_space
        seats = [partial(_Seat, make, task, index, *spaces) for index in range(count)]
        try:
            # Forked, a process would inherit torch's locks but not the threads that hold them.
            self._envs = AsyncVectorEnv(
                seats, context="spawn", autoreset_mode=AutoresetMode.DISABLED
            )
        except (EOFError, OSError) as error:
            raise UserError(
                f"{task}: its worker processes died when they started: a script that trains with "
                "num_envs must do so under `if __name__ == '__main__':`"
            ) from error
        except Exception as error:
            raise UserError(
                f"{task}: the environment cannot be sent to worker processes "
                f"({_said(error)}): train with num_envs = 1"
            ) from error

    def reset(
        self, seeds: Mapping[int, int], actions: Mapping[int, np.ndarray] | None = None
    ) -> dict[int, tuple[Observation, Info]]:
        """Begin episodes with the given seeds, by index; observation and info of each.

        `actions`, `[steps, action]` by index, are repeated at once, as if they had been stepped.
        """
        repeated = {} if actions is None else dict(actions)
        chosen = np.isin(np.arange(self.count), list(seeds))
        options = {"reset_mask": chosen, "actions": repeated}
        seconds = PATIENCE + max((len(x) for x in repeated.values()), default=0)
        with self._patience(seconds):
            self._envs.reset_async([seeds.get(i) for i in range(self.count)], options)
            observations, infos = self._envs.reset_wait(seconds)
        return {i: (_row(observations, i), _info_row(infos, i)) for i in seeds}

    def step(self, actions: Float[np.ndarray, "envs action"]) -> list[Step]:
        """Step every environment with its own row of `actions`."""
        with self._patience(PATIENCE):
            self._envs.step_async(actions)
            observations, rewards, terminated, truncated, infos = self._envs.step_wait(PATIENCE)
        ends = zip(rewards.tolist(), terminated.tolist(), truncated.tolist(), strict=True)
        return [
            Step(_row(observations, i), *end, _info_row(infos, i)) for i, end in enumerate(ends)
        ]

    def close(self) -> None:
        """End the processes."""
        try:
            self._envs.close()
        except (EOFError, OSError):  # one of them is dead already
            self._kill()

    @contextmanager
    def _patience(self, seconds: float) -> Iterator[None]:
        """What goes wrong in a worker as one line, and no worker left behind."""
        try:
            with warnings.catch_warnings(action="ignore"):  # Gymnasium warns of each exception
                yield
        except multiprocessing.TimeoutError as error:
            self._kill()
            raise UserError(
                f"{self.task}: an environment did not answer for {seconds:.0f} seconds: see what "
                "it waits for with num_envs = 1"
            ) from error
        except (EOFError, OSError) as error:
            self._say_who_died(error)
        except BaseException:
            self._kill()
            raise

    def _say_who_died(self, error: Exception) -> NoReturn:
        for process in self._envs.processes:
            process.join(0.1)  # the pipe closes a moment before the process is gone
        codes = [process.exitcode for process in self._envs.processes]
        self._kill()
        dead = [f"{i} (exit code {code})" for i, code in enumerate(codes) if code is not None]
        raise UserError(
            f"{self.task}: worker process {', '.join(dead) or '?'} died; exit code -9 is often a "
            "lack of memory. The same command again goes on from the last checkpoint"
        ) from error

    def _kill(self) -> None:
        # Closing them would wait for what they were asked last.
        for process in self._envs.processes:
            process.kill()
            process.join()
        self._envs.closed = True


Environments = InProcess | Workers


class _Seat(gymnasium.Env[Any, Any]):
    """What a worker steps: an environment that is made at its first reset, since what goes wrong
    from then on is reported. Every exception becomes a UserError, which any process can read."""

    def __init__(
        self,
        make: Callable[[], Env],
        task: str,
        index: int,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
    ):
        self.make, self.task, self.index = make, task, index
        self.observation_space, self.action_space = observation_space, action_space
        self.env: Env | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        """Begin an episode, and repeat `options["actions"][index]` if there are any."""
        assert seed is not None
        assert options is not None
        with self._one_line():
            if self.env is None:
                _leave_signals_to_main_process()
                self.env = self.make()
            observation, info = _begin(self.env, seed, options["actions"].get(self.index, ()))
            return observation, _kept(info)

    def step(self, action: np.ndarray) -> Step:
        """One step; most of `info` stays here."""
        assert self.env is not None
        with self._one_line():
            step = _step(self.env, action)
            return step._replace(info=_kept(step.info))

    def close(self) -> None:
        """Close the environment, if it was made."""
        if self.env is not None:
            self.env.close()

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{self.task}: an environment failed ({_said(error)}): num_envs = 1 shows where"
            ) from None


def _leave_signals_to_main_process() -> None:
    """Ctrl-C and `timeout` signal whole process groups, and the main process is to save first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.name == "posix":
        os.setpgrp()


def _step(env: Env, action: np.ndarray) -> Step:
    observation, reward, terminated, truncated, info = env.step(action)
    return Step(observation, float(reward), terminated, truncated, info)


def _begin(env: Env, seed: int, actions: Any) -> tuple[Observation, Info]:
    """Reset, and repeat the actions of an episode that was broken off."""
    observation, info = env.reset(seed=seed)
    for action in actions:
        observation, _, _, _, info = env.step(action)
    return observation, info


def _kept(info: Info) -> Info:
    return {key: info[key] for key in _KEPT_INFO if key in info}


def _row(observations: Mapping[str, np.ndarray], index: int) -> Observation:
    return {key: x[index] for key, x in observations.items()}


def _info_row(infos: Mapping[str, Any], index: int) -> Info:
    """Gymnasium's batch has beside each key `_key`: which environments gave it."""
    given = [key for key in _KEPT_INFO if key in infos and infos[f"_{key}"][index]]
    return {key: infos[key][index] for key in given}


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
