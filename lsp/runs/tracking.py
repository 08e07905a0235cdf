"""A run's metrics on wandb or trackio too, beside `metrics.jsonl`, which stays the truth.

What is tracked is a copy to look at. Whatever goes wrong with it costs one warning, and no run.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from lsp.errors import UserError, said, warn
from lsp.runs.files import read_json, write_json

TRACKERS = "wandb", "trackio"
PROJECT = "latent-skill-planning"
"""Where runs are tracked, if WANDB_PROJECT or TRACKIO_PROJECT names no other."""
FILE = "tracking.json"


def check_tracker(name: str | None) -> None:
    """Raises UserError where there is no such tracker, or its package is not there."""
    if name is not None and name not in TRACKERS:
        raise UserError(f"track must be {' or '.join(TRACKERS)}, not {name!r}")
    if name is not None:
        _module(name)


class Tracker:
    """Logs to one of them; the tracked run begins with the first metrics.

    Args:
        name: `wandb` or `trackio`, which have one interface.
        logdir: the run's folder. What the tracked run is called there is kept in it, so that a
            resumed run goes on with the same one.
        config: the run's settings as nested dictionaries.
    """

    def __init__(self, name: str, logdir: Path, config: Mapping[str, Any]):
        self._name, self._logdir, self._config = name, logdir, dict(config)
        self._run: Any = None
        self._failed = False

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Log scalars at an env step. After the first error nothing is logged any more."""
        if self._failed:
            return
        try:
            if self._run is None:
                self._run = self._begin()
            self._run.log(dict(scalars), step=step)
        except Exception as error:  # of somebody else's program, and of the network
            self._failed = True
            warn(f"{self._name} no longer tracks this run ({said(error)}): training continues")

    def close(self) -> None:
        """End what is tracked."""
        run, self._run = self._run, None
        if run is not None:
            with suppress(Exception):
                run.finish()

    def _begin(self) -> Any:
        known = self._known()
        settings: dict[str, Any] = {
            "project": os.environ.get(f"{self._name.upper()}_PROJECT", PROJECT),
            "name": known,
            "config": self._config,
            "resume": "allow",
        }
        if self._name == "wandb":  # trackio resumes by name, and keeps its files elsewhere
            settings |= {"id": known, "dir": str(self._logdir)}
        return _module(self._name).init(**settings)

    def _known(self) -> str:
        """What the tracked run is called, now and when the run resumes."""
        path, noted = self._logdir / FILE, {}
        with suppress(UserError):  # none yet, or damaged
            noted = read_json(path)
        if not isinstance(noted.get(self._name), str):
            name = re.sub(r"[^\w-]", "-", self._logdir.resolve().name)
            noted[self._name] = f"{name}-{uuid.uuid4().hex[:8]}"
            write_json(path, noted)
        return str(noted[self._name])


def _module(name: str) -> Any:
    install = f"--track {name} needs {name}: pip install 'latent-skill-planning[{name}]'"
    try:
        module = import_module(name)
    except Exception as error:  # not there, or of no use here
        raise UserError(f"{install} ({said(error)})") from error
    if not hasattr(module, "init"):  # a folder of that name, such as the one that wandb writes
        raise UserError(install)
    return module
