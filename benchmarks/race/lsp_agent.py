"""Ours, named METHOD-PRESET; race.py runs it."""

from typing import Any

import numpy as np
from track import ACTION_REPEAT, Track, read_entry

from lsp.backends.torch_setup import prepare_torch
from lsp.config import RuntimeConfig, default_runtime, make_config
from lsp.runs.folder import RunFolder
from lsp.training.build import build_agent
from lsp.training.parts import open_run
from lsp.training.trainer import Trainer


def main() -> None:
    entry = read_entry()
    method, _, preset = entry.agent.partition("-")
    track = Track(entry, flat=False)
    # The track evaluates.
    own: dict[str, Any] = {"action_repeat": ACTION_REPEAT, "schedule.eval_every": 0}
    config = make_config(method, preset, task=entry.task, seed=entry.seed, **own)
    runtime = default_runtime(preset, RuntimeConfig(threads=entry.threads))
    prepare_torch(runtime)
    trainer = Trainer(open_run(config, RunFolder(entry.folder), runtime, track.make_env))
    agent = None

    def act(observation: Any, first: bool) -> np.ndarray:
        nonlocal agent
        if first or agent is None:
            agent = build_agent(trainer.evaluated, "evaluate", None, entry.seed, runtime)
        return agent.act(observation)

    track.act = act
    try:
        # It tells of many updates at once, too.
        track.run(lambda: trainer.run(10**9, lambda progress: track.tick()))
    finally:
        trainer.close()


if __name__ == "__main__":
    main()
