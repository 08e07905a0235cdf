"""Latent skill planning: Learning Skills for Planning (LSP), Xie et al., ICLR 2021.

import lsp

config = lsp.make_config("lsp", "fast", task="walker_walk")
lsp.train(config, "runs/mine", steps=30_000)

agent, env = lsp.load("runs/mine"), lsp.make_env("walker_walk")
observation, _ = env.reset(seed=0)
action = agent.act(observation)
"""

from importlib import import_module
from typing import Any

from lsp.tasks import register

register()

_WHERE = {
    "Agent": "algorithm.agent",
    "Config": "config",
    "RuntimeConfig": "config",
    "UserError": "errors",
    "evaluate": "api",
    "load": "api",
    "make_config": "config",
    "make_env": "envs",
    "TransferConfig": "config",
    "train": "api",
    "transfer": "api",
}
__all__ = list(_WHERE)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: the environments work without PyTorch."""
    if name not in _WHERE:
        raise AttributeError(f"module 'lsp' has no attribute {name!r}")
    return getattr(import_module(f"lsp.{_WHERE[name]}"), name)
