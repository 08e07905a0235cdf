"""TD-MPC2 by its own settings, from a clone of its repository; race.py runs it.

`tdmpc2` has the size that its authors recommend for a single task (5M), `tdmpc2-1m` the smallest.
Its code names a GPU where it makes tensors; here these names mean the CPU.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from omegaconf import OmegaConf
from track import Entry, Track, read_entry

SIZES = {"tdmpc2": 5, "tdmpc2-1m": 1}
AGENT_STEPS = 500  # of an episode


class CpuTorch:
    """torch, with the CPU in place of every device."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def device(name: str) -> torch.device:
        return torch.device("cpu")


@contextmanager
def on_cpu(*modules: str) -> Iterator[None]:
    with ExitStack() as patches:
        for module in modules:
            patches.enter_context(patch(f"{module}.torch", CpuTorch()))
        yield


class Env:
    """An environment as TD-MPC2's trainer takes it: tensors, and what an old `step` returned."""

    def __init__(self, env: Any, seed: int) -> None:
        self.env = env
        env.reset(seed=seed)
        env.action_space.seed(seed)

    def rand_act(self) -> torch.Tensor:
        return torch.from_numpy(self.env.action_space.sample())

    def reset(self) -> torch.Tensor:
        return torch.from_numpy(self.env.reset()[0])

    def step(self, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, bool, Any]:
        observation, reward, terminated, truncated, _ = self.env.step(action.numpy())
        info = {"terminated": torch.tensor(float(terminated)), "success": 0.0}
        reward = torch.tensor(reward, dtype=torch.float32)
        return torch.from_numpy(observation), reward, terminated or truncated, info


def settings(entry: Entry, env: Env) -> Any:
    """As its `train.py` and `make_env` make them from its `config.yaml`."""
    from common.parser import parse_cfg

    assert entry.clone is not None
    config = OmegaConf.load(entry.clone / "tdmpc2" / "config.yaml")
    del config["defaults"]
    config.update(task=entry.task.replace("_", "-"), seed=entry.seed, model_size=SIZES[entry.agent])
    config.eval_episodes = 0  # the track evaluates
    # It gains next to nothing on a CPU, and PyTorch 2.13 fails to compile an update.
    config.compile = False
    with patch("hydra.utils.get_original_cwd", return_value=str(entry.folder)):
        config = parse_cfg(config)
    config.obs_shape = {"state": env.env.observation_space.shape}
    config.action_dim = env.env.action_space.shape[0]
    config.episode_length = AGENT_STEPS
    config.seed_steps = max(1000, 5 * AGENT_STEPS)
    return config


def make_agent(config: Any, track: Track) -> Any:
    """Looks at the track's clock at every update: the first 2500 come at once."""
    from tdmpc2 import TDMPC2

    class Watched(TDMPC2):  # type: ignore[misc]
        def update(self, buffer: Any) -> Any:
            track.tick()
            return super().update(buffer)

    agent = Watched(config)
    for optimizer in (agent.optim, agent.pi_optim):
        for group in optimizer.param_groups:
            group["capturable"] = False  # by CUDA graphs, of which a CPU has none
    return agent


def acting(agent: Any) -> Any:
    """Plans as it is evaluated by its authors, from means of its own between two steps."""
    mean = torch.zeros_like(agent._prev_mean)

    def act(observation: np.ndarray, first: bool) -> np.ndarray:
        training = agent._prev_mean.clone()
        agent._prev_mean.copy_(mean)
        action = agent.act(torch.from_numpy(observation), t0=first, eval_mode=True)
        mean.copy_(agent._prev_mean)
        agent._prev_mean.copy_(training)
        return np.asarray(action.numpy())

    return act


def main() -> None:
    entry = read_entry()
    sys.path.append(str(entry.clone / "tdmpc2"))  # type: ignore[operator]
    from common.buffer import Buffer
    from common.seed import set_seed
    from trainer.online_trainer import OnlineTrainer

    torch.set_num_threads(entry.threads)
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision("high")
    track = Track(entry)
    env = Env(track.make_env(), entry.seed)
    config = settings(entry, env)
    set_seed(config.seed)
    with on_cpu("tdmpc2", "common.scale", "common.buffer"):
        agent, buffer = make_agent(config, track), Buffer(config)
    track.act = acting(agent)
    logger = SimpleNamespace(log=lambda *_: None, finish=lambda *_: None)
    config.save_video = False
    trainer = OnlineTrainer(cfg=config, env=env, agent=agent, buffer=buffer, logger=logger)
    with patch("torch.cuda.mem_get_info", return_value=(0, 0)):  # else its replay asks a GPU
        track.run(trainer.train)


if __name__ == "__main__":
    main()
