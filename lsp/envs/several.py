"""Several environments of one task, open at the same time."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import gymnasium

from lsp.errors import UserError

Env = gymnasium.Env[Any, Any]


def several(make: Callable[[], Env], count: int, fewer: bool = False) -> list[Env]:
    """`count` environments, or with `fewer` as many of them as there can be, but at least one.

    Raises:
        UserError: they cannot be made, of which there is one only if it is a robot. None stays
            open then.
    """
    envs: list[Env] = []
    try:
        while len(envs) < count:
            envs.append(make())
    except UserError as error:
        if fewer and envs:
            return envs
        close(envs)
        if not envs:
            raise
        raise UserError(
            f"this takes {count} environments at once, and there can be only {len(envs)} ({error})"
        ) from error
    except BaseException:
        close(envs)
        raise
    return envs


def close(envs: Iterable[Env]) -> None:
    """Those that failed as well, which may not close either."""
    for env in envs:
        with suppress(Exception):
            env.close()
