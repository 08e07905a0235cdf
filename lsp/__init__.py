"""Latent skill planning: Learning Skills for Planning (LSP), Xie et al., ICLR 2021.

import lsp

config = lsp.make_config("lsp", "fast", task="walker_walk")
lsp.train(config, "runs/mine", steps=30_000)

agent, env = lsp.load("runs/mine"), lsp.make_env("walker_walk")
observation, _ = env.reset(seed=0)
action = agent.act(observation)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lsp.tasks import register

if TYPE_CHECKING:
    from lsp.algorithm.agent import Agent
    from lsp.api import check, evaluate, export, load, train, transfer
    from lsp.config import Config, RuntimeConfig, TransferConfig, make_config
    from lsp.envs import make_env
    from lsp.errors import UserError
    from lsp.experiments.foresight import foresee
    from lsp.experiments.skills.report import show_skills
    from lsp.report import statistics
    from lsp.runs.agents import agents
    from lsp.training.evaluation import Evaluation
    from lsp.training.new_reward import NewReward
    from lsp.training.schedule import Progress
else:  # a type checker would take any name for one that there is

    def __getattr__(name: str) -> Any:
        """Import what is asked for when it is asked for: the environments work without PyTorch."""
        if name not in _WHERE:
            raise AttributeError(f"module 'lsp' has no attribute {name!r}")
        if name in _MODULES:
            return import_module(f"lsp.{_WHERE[name]}.{name}")
        return getattr(import_module(f"lsp.{_WHERE[name]}"), name)


register()

__all__ = [
    "Agent",
    "Config",
    "Evaluation",
    "NewReward",
    "Progress",
    "RuntimeConfig",
    "TransferConfig",
    "UserError",
    "agents",
    "check",
    "evaluate",
    "export",
    "foresee",
    "load",
    "make_config",
    "make_env",
    "show_skills",
    "statistics",
    "train",
    "transfer",
]
__version__ = "0.1.0"

_WHERE = {
    "Agent": "algorithm.agent",
    "Config": "config",
    "Evaluation": "training.evaluation",
    "NewReward": "training.new_reward",
    "Progress": "training.schedule",
    "RuntimeConfig": "config",
    "TransferConfig": "config",
    "UserError": "errors",
    "agents": "runs.agents",
    "check": "api",
    "evaluate": "api",
    "export": "api",
    "foresee": "experiments.foresight",
    "load": "api",
    "make_config": "config",
    "make_env": "envs",
    "show_skills": "experiments.skills.report",
    "statistics": "report",
    "train": "api",
    "transfer": "api",
}
_MODULES = {"statistics"}


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
