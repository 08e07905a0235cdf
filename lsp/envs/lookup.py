"""A user's environments and rewards, from their names or as objects."""

import copy
import importlib
import operator
import os
import re
import sys
import textwrap
from collections.abc import Callable
from typing import Any, TypeAlias

import gymnasium

from lsp.errors import UserError, exit_is_an_error, said

Env: TypeAlias = gymnasium.Env[Any, Any]


IS_ID = re.compile(r"-v\d+$")
"""How names end that Gymnasium registers."""

_VECTOR = (
    "it is a vector of environments: give a single one, and say by the setting num_envs how many "
    "of it are collected from."
)

Task: TypeAlias = str | Env | Callable[[], Env]
"""A task's name, an environment, or a function that makes one."""


class Maker:
    """Makes a new environment at every call: calls a function, or copies an environment.

    Raises UserError where that fails, and where a function returns what it returned before.
    """

    def __init__(self, task: Env | Callable[[], Env]):
        self.task, self.name = task, task_name(task)
        self._last: Env | None = None

    def __call__(self) -> Env:
        if isinstance(self.task, gymnasium.Env):
            return _copy(self.task, self.name)
        env = _call(self.task, self.name)
        if env is self._last:
            raise UserError(
                f"{self.name}: it returned the same environment twice: make a new one at each call."
            )
        self._last = env
        return env

    def __reduce__(self) -> tuple[Any, ...]:
        # To worker processes it goes without what it has made here.
        return Maker, (self.task,)


def find_function(reference: str, what: str, wanted: str) -> Callable[..., Any]:
    """A user's function, ``package.module:function``; the current folder is importable.

    Raises:
      UserError: there is no such function. It says that ``what`` must be ``wanted``.
    """
    module, _, name = reference.partition(":")
    if not module or module.startswith(".") or not name:
        raise UserError(f"{what}: write it as package.module:function.")
    _make_folder_importable()
    return _find(module, name, what, wanted)


def task_name(task: Env | Callable[[], Env]) -> str:
    """What a run calls a task that was passed from Python: ``python:module.ClassName``."""
    if isinstance(task, Maker):
        return task.name
    source = type(task.unwrapped) if isinstance(task, gymnasium.Env) else task
    named = source if hasattr(source, "__qualname__") else type(source)
    return f"python:{named.__module__}.{named.__qualname__}"


def _make(task: Task, name: str) -> Env:
    if isinstance(task, gymnasium.Env):
        return task
    if isinstance(task, gymnasium.vector.VectorEnv):
        raise UserError(f"{name}: {_VECTOR}")
    if not isinstance(task, str):
        return _call(task, name)
    first, _, rest = task.partition(":")
    if first == "python":
        raise UserError(
            f"{task}: this task was passed from Python: pass it again, as lsp.train(env, ...) or "
            "lsp.evaluate(run, env=env)."
        )
    _make_folder_importable()
    if first == "gymnasium":
        return _make_registered(rest, task)
    return _call(_find(first, rest, task), task)


def _make_folder_importable() -> None:
    """As ``python -m`` does; the command ``lsp`` lies in another folder."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def _make_registered(identifier: str, task: str) -> Env:
    try:
        with exit_is_an_error():
            env: Env = gymnasium.make(identifier)
    except gymnasium.error.UnregisteredEnv as error:
        known = " gymnasium.pprint_registry() lists them."
        if ":" not in identifier:
            known += f" Where a package registers it, name both: gymnasium:PACKAGE:{identifier}."
        raise UserError(f"{task}: {_short(error)}{known}") from error
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise UserError(f"{task}: {_short(error)}") from error
    except Exception as error:
        raise UserError(f"{task}: making it failed: {_said(error)}") from error
    if "rgb_array" not in (env.metadata.get("render_modes") or ()):
        return env
    try:
        with_pictures: Env = gymnasium.make(identifier, render_mode="rgb_array")
    except Exception:  # it works without, which is enough to train
        return env
    env.close()
    return with_pictures


def _find(
    module_name: str,
    name: str,
    task: str,
    wanted: str = "a function or class that makes an environment",
) -> Callable[..., Any]:
    try:
        with exit_is_an_error():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(f"{task}: importing it failed: {_said(error)}") from error
        raise UserError(
            f"{task}: there is no module '{error.name}', here or installed: start in the folder "
            "that holds it, and write package.module:name."
        ) from error
    except Exception as error:
        raise UserError(f"{task}: importing it failed: {_said(error)}") from error
    try:
        found: Callable[..., Any] = operator.attrgetter(name)(module)
    except AttributeError as error:
        hint = f" Did you mean gymnasium:{task}?" if IS_ID.search(name) else ""
        raise UserError(f"{task}: module '{module_name}' has no '{name}'.{hint}") from error
    if not callable(found):
        raise UserError(f"{task}: '{name}' must be {wanted}, not {_short(repr(found))}.")
    return found


def _call(make: Callable[[], Env], task: str) -> Env:
    try:
        with exit_is_an_error():
            env = make()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{task}: making it failed: {_said(error)}") from error
    if isinstance(env, gymnasium.vector.VectorEnv):
        raise UserError(f"{task}: {_VECTOR}")
    if not isinstance(env, gymnasium.Env):
        raise UserError(f"{task}: it must return a gymnasium.Env, not {_short(repr(env))}.")
    return env


def _copy(env: Env, task: str) -> Env:
    """The environment made again as it was registered, or else copied as it is."""
    if env.spec is not None:
        try:
            return gymnasium.make(env.spec)
        except Exception:  # wrapped in what Gymnasium cannot repeat
            pass
    try:
        return copy.deepcopy(env)
    except Exception as error:
        raise UserError(
            f"{task}: it cannot be copied ({_said(error)}): pass a function that makes it."
        ) from error


def _said(error: Exception) -> str:
    return _short(said(error))


def _short(thing: Any) -> str:
    """One line of bounded length."""
    return textwrap.shorten(str(thing), 240, placeholder=" ...")
