"""What tests of transfers start from: short runs on walker_walk, and what is read of others."""

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import short_run

import lsp
from lsp.config import RuntimeConfig, validated
from lsp.errors import UserError
from lsp.runs.checkpoint import Checkpoint, load_newest
from lsp.runs.folder import RunFolder
from lsp.training.parts import open_run
from lsp.training.trainer import Trainer

PLAIN = RuntimeConfig(compile=False, bf16=False)


class Sources:
    """For a method and a task a short run, made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: set[Path] = set()

    def __call__(self, method: str = "lsp", task: str = "walker_walk") -> Path:
        path = self._folder / f"{method}-{task}"
        if path not in self._made:
            lsp.train(short_run(method, task), path, 400, PLAIN)
            self._made.add(path)
        return path


def open_trainer(path: Any, config: Any) -> Any:
    return Trainer(open_run(validated(config), RunFolder(path), PLAIN))


def newest(path: Any) -> Checkpoint:
    checkpoint = load_newest(RunFolder(path).checkpoints)
    assert checkpoint is not None
    return checkpoint


def weights_of(path: Any) -> Any:
    return newest(path).tensors["networks"]


def changed(one: Any, other: Any) -> Any:
    return {name for name in one if not torch.equal(one[name], other[name])}


def refused(message: Any, *arguments: Any, **settings: Any) -> None:
    with pytest.raises(UserError, match=message):
        lsp.transfer(*arguments, **{"runtime": PLAIN, **settings})
