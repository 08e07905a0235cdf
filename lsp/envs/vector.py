"""The environments of a training run: one in this process, or several in processes of their own.

Both are reset and stepped alike, by index. One that fails says so and is made again for its next
episode, while the others go on. Worker processes never load torch.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium
import numpy as np
from gymnasium.vector.utils import CloudpickleWrapper
from jaxtyping import Float

from lsp.errors import UserError, said

Env = gymnasium.Env[Any, Any]
Observation = dict[str, np.ndarray]
Info = dict[str, Any]

PATIENCE = 300.0  # seconds that a reset may take, and with it making the environment
CLOSING = 3.0  # seconds that an environment has to close itself
_KEPT_INFO = ("env_steps", "sim_state", "success")
# Forked, a process would inherit torch's locks but not the threads that hold them.
_CONTEXT = multiprocessing.get_context("spawn")


class Step(NamedTuple):
    """What a step of one environment gave; a reset gives no reward and no end."""

    observation: Observation
    reward: float
    terminated: bool
    truncated: bool
    info: Info


class Failure(NamedTuple):
    """Why an environment gave nothing: its episode is over, and its next reset makes another."""

    reason: str
    cause: Exception | None = None


@runtime_checkable
class Environments(Protocol):
    """What is collected from: `count` environments, by index."""

    count: int
    repeatable: bool

    def reset(
        self, seeds: Mapping[int, int], actions: Mapping[int, np.ndarray] | None = None
    ) -> dict[int, Step | Failure]: ...
    def step(self, actions: Float[np.ndarray, "envs action"]) -> list[Step | Failure]: ...
    def close(self) -> None: ...


class InProcess:
    """One environment, index 0, in this process. Its maker closes it.

    Raises UserError where the environment does; any other exception of it is a Failure.
    """

    count = 1

    def __init__(self, env: Env):
        self.env = env
        self.repeatable = is_repeatable(env)

    def reset(
        self, seeds: Mapping[int, int], actions: Mapping[int, np.ndarray] | None = None
    ) -> dict[int, Step | Failure]:
        """As `Workers.reset`."""
        repeated = {} if actions is None else actions
        return {
            index: _attempt(_begin, self.env, seed, repeated.get(index, ()))
            for index, seed in seeds.items()
        }

    def step(self, actions: Float[np.ndarray, "envs action"]) -> list[Step | Failure]:
        """As `Workers.step`."""
        return [_attempt(_step, self.env, actions[0])]

    def close(self) -> None:
        """Nothing to do."""


class Workers:
    """`count` environments, each in a process of its own that makes, steps and renders it.

    `make` is sent to the processes; `like` is an environment as it makes them. Of `info` only
    `env_steps`, `sim_state` and `success` come back.

    An environment that raises, takes longer than `patience` seconds for a step or whose process
    dies is a Failure, and gets a new process. Raises UserError where the environment does, or where
    no process can be started.
    """

    def __init__(
        self, make: Callable[[], Env], count: int, like: Env, task: str, patience: float = PATIENCE
    ):
        self.count, self.task, self.patience = count, task, patience
        self.repeatable = is_repeatable(like)
        self._make = CloudpickleWrapper(make)
        self._workers: list[_Worker] = []
        try:
            self._workers = [_Worker(self._make) for _ in range(count)]
        except Exception as error:
            self.close()
            raise UserError(
                f"{task}: the environment cannot be sent to worker processes "
                f"({said(error)}): train with num_envs = 1"
            ) from error
        for worker in self._workers:
            self._wait_for(worker)

    @property
    def processes(self) -> list[multiprocessing.process.BaseProcess]:
        """One for each environment."""
        return [worker.process for worker in self._workers]

    def reset(
        self, seeds: Mapping[int, int], actions: Mapping[int, np.ndarray] | None = None
    ) -> dict[int, Step | Failure]:
        """Begin episodes with the given seeds, by index; observation and info of each.

        `actions`, `[steps, action]` by index, are repeated at once, as if they had been stepped.
        """
        repeated = {} if actions is None else dict(actions)
        seconds = max(self.patience, PATIENCE) + max((len(x) for x in repeated.values()), default=0)
        questions = {i: ("reset", seed, repeated.get(i, ())) for i, seed in seeds.items()}
        return self._ask(questions, seconds)

    def step(self, actions: Float[np.ndarray, "envs action"]) -> list[Step | Failure]:
        """Step every environment with its own row of `actions`."""
        questions = {i: ("step", action) for i, action in enumerate(actions)}
        return list(self._ask(questions, self.patience).values())

    def _ask(
        self, questions: Mapping[int, tuple[Any, ...]], seconds: float
    ) -> dict[int, Step | Failure]:
        """Every answer, of environments that work side by side."""
        for index, question in questions.items():
            self._workers[index].ask(question)
        late = time.monotonic() + seconds
        answers = {i: self._workers[i].answer(late - time.monotonic()) for i in questions}
        for index, answer in answers.items():
            if isinstance(answer, Failure):
                self._restart(index)
        for answer in answers.values():
            if isinstance(answer, UserError):
                raise answer
        return answers

    def _restart(self, index: int) -> None:
        self._workers[index].end()
        self._workers[index] = _Worker(self._make)
        self._wait_for(self._workers[index])

    def _wait_for(self, worker: "_Worker") -> None:
        if isinstance(worker.answer(PATIENCE), Failure):  # it has no time limit of the user's
            self.close()
            raise UserError(
                f"{self.task}: its worker processes died when they started: a script that trains "
                "with num_envs must do so under `if __name__ == '__main__':`"
            )

    def close(self) -> None:
        """Close the environments and end their processes."""
        for worker in self._workers:
            worker.ask(("close",))
        for worker in self._workers:
            worker.end(CLOSING)


def is_repeatable(env: Env) -> bool:
    """Whether its episodes can be resumed by repeating their actions, after a reset with
    the same seed. Not where `metadata["repeatable"]` is false: a real robot must not be moved so.
    """
    return bool((env.metadata or {}).get("repeatable", True))


class _Worker:
    """A process that serves one environment, and the pipe to it."""

    def __init__(self, make: CloudpickleWrapper):
        self._pipe, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_serve, args=(theirs, make), daemon=True)
        try:
            self.process.start()
        finally:
            theirs.close()

    def ask(self, question: Any) -> None:
        with suppress(OSError):  # it is dead, as the lack of an answer will tell
            self._pipe.send(question)

    def answer(self, seconds: float) -> Any:
        """What it sent; a Failure where it dies, or does not answer in time."""
        try:
            if self._pipe.poll(max(seconds, 0.0)):
                return self._pipe.recv()
            return Failure(f"it did not answer for {seconds:.0f} seconds")
        except (EOFError, OSError):
            self.process.join(1)  # the pipe closes a moment before the process is gone
            code = self.process.exitcode
            hint = ", often a lack of memory" if code == -signal.SIGKILL else ""
            return Failure(f"its worker process died, exit code {code}{hint}")

    def end(self, seconds: float = 0.0) -> None:
        """Kill it, unless it ends by itself within `seconds`."""
        self.process.join(seconds)
        self.process.kill()
        self.process.join()
        self._pipe.close()


def _serve(pipe: Connection, make: CloudpickleWrapper) -> None:
    """In a worker process: answer until the main process is gone."""
    _leave_signals_to_main_process()
    seat = _Seat(make)
    pipe.send(None)
    while True:
        try:
            name, *arguments = pipe.recv()
        except EOFError:
            name = "close"
        if name == "close":
            return seat.close()
        pipe.send(seat.answer(name, *arguments))


class _Seat:
    """An environment that is made at its first reset, and again after it failed."""

    def __init__(self, make: Callable[[], Env]):
        self.make = make
        self.env: Env | None = None

    def answer(self, name: str, *arguments: Any) -> Step | Failure | UserError:
        """Every exception as a value: any process can read it, and a UserError stays one."""
        try:
            given = _attempt(self._reset if name == "reset" else self._step, *arguments)
        except UserError as error:
            return UserError(str(error))
        if isinstance(given, Failure):
            self.close()
            return given._replace(cause=None)
        return given._replace(info={k: x for k, x in given.info.items() if k in _KEPT_INFO})

    def close(self) -> None:
        """Close the environment, if there is one, whatever state it is in."""
        env, self.env = self.env, None
        if env is not None:
            with suppress(Exception):
                env.close()

    def _reset(self, seed: int, actions: Any) -> Step:
        if self.env is None:
            self.env = self.make()
        return _begin(self.env, seed, actions)

    def _step(self, action: np.ndarray) -> Step:
        assert self.env is not None
        return _step(self.env, action)


def _leave_signals_to_main_process() -> None:
    """Ctrl-C and `timeout` signal whole process groups, and the main process is to save first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.name == "posix":
        os.setpgrp()


def _attempt(act: Callable[..., Step], *arguments: Any) -> Step | Failure:
    try:
        return act(*arguments)
    except UserError:
        raise
    except Exception as error:
        return Failure(said(error), error)


def _step(env: Env, action: np.ndarray) -> Step:
    observation, reward, terminated, truncated, info = env.step(action)
    return Step(observation, float(reward), bool(terminated), bool(truncated), info)


def _begin(env: Env, seed: int, actions: Any) -> Step:
    """Reset, and repeat the actions of an episode that was broken off."""
    observation, info = env.reset(seed=seed)
    for action in actions:
        observation, _, _, _, info = env.step(action)
    return Step(observation, 0.0, False, False, info)
