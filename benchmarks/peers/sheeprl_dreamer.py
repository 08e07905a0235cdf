"""sheeprl's Dreamer, at the sizes that `lsp bench --sizes` measures; compare.py runs it.

Usage: sheeprl_dreamer.py SIZES PRECISION THREADS, where PRECISION is fp32, bf16 or compiled (fp32
and torch.compile). Times one update for every line it reads, and prints the milliseconds.
"""

import sys
import time
import warnings
from typing import Any

import gymnasium
import hydra
import numpy as np
import torch
from hydra import compose, initialize_config_module
from lightning.fabric import Fabric
from omegaconf import OmegaConf
from sheeprl.algos.dreamer_v1.agent import build_agent
from sheeprl.algos.dreamer_v1.dreamer_v1 import train
from sheeprl.utils.utils import dotdict

OBSERVATION, ACTION = 78, 12  # dm_control's quadruped
MODEL = "algo.world_model"
SIZES: dict[str, dict[str, Any]] = {
    "paper": {
        "algo.per_rank_batch_size": 50,
        "algo.per_rank_sequence_length": 50,
        "algo.horizon": 15,
        f"{MODEL}.stochastic_size": 30,
        f"{MODEL}.recurrent_model.recurrent_state_size": 200,
        f"{MODEL}.transition_model.hidden_size": 200,
        f"{MODEL}.representation_model.hidden_size": 200,
        f"{MODEL}.encoder.dense_units": 256,
        f"{MODEL}.encoder.mlp_layers": 2,
        f"{MODEL}.observation_model.dense_units": 256,
        f"{MODEL}.observation_model.mlp_layers": 2,
        "algo.dense_units": 400,
        f"{MODEL}.reward_model.mlp_layers": 2,
        "algo.actor.mlp_layers": 4,
        "algo.critic.mlp_layers": 3,
    },
    "small": {
        "algo.per_rank_batch_size": 16,
        "algo.per_rank_sequence_length": 32,
        "algo.horizon": 10,
        f"{MODEL}.stochastic_size": 24,
        f"{MODEL}.recurrent_model.recurrent_state_size": 128,
        f"{MODEL}.transition_model.hidden_size": 128,
        f"{MODEL}.representation_model.hidden_size": 128,
        "algo.dense_units": 128,
        "algo.mlp_layers": 2,
        f"{MODEL}.reward_model.mlp_layers": 2,
        "algo.actor.mlp_layers": 2,
        "algo.critic.mlp_layers": 2,
    },
}


def settings(sizes: str, compiled: bool) -> Any:
    """sheeprl's own Dreamer settings but for the sizes, reading one vector."""
    changes = SIZES[sizes] | {
        "env": "dummy",
        "algo.cnn_keys.encoder": "[]",
        "algo.cnn_keys.decoder": "[]",
        "algo.mlp_keys.encoder": "[state]",
        "algo.mlp_keys.decoder": "[state]",
        "algo.compile.enabled": compiled,
        "algo.compile.mode": "default",
    }
    with initialize_config_module("sheeprl.configs", version_base="1.3"):
        overrides = [f"{key}={value}" for key, value in changes.items()]
        config = compose("config", overrides=["exp=dreamer_v1", *overrides])
    return dotdict(OmegaConf.to_container(config, resolve=True))


def make_batch(config: Any) -> dict[str, torch.Tensor]:
    """Random sequences `[time, batch, ...]`."""
    size = (config.algo.per_rank_sequence_length, config.algo.per_rank_batch_size)
    generator = torch.Generator().manual_seed(0)
    return {
        "state": torch.randn(*size, OBSERVATION, generator=generator),
        "actions": torch.rand(*size, ACTION, generator=generator) * 2 - 1,
        "rewards": torch.rand(*size, 1, generator=generator),
        "is_first": torch.zeros(*size, 1),
        "terminated": torch.zeros(*size, 1),
    }


def main(sizes: str, precision: str, threads: int) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    config = settings(sizes, precision == "compiled")
    fabric = Fabric(
        accelerator="cpu", devices=1, precision="bf16-mixed" if precision == "bf16" else "32-true"
    )
    space = gymnasium.spaces.Dict(
        {"state": gymnasium.spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float32)}
    )
    world_model, actor, critic, _ = build_agent(fabric, [ACTION], True, config, space)
    algo = config.algo
    modules = (algo.world_model, world_model), (algo.actor, actor), (algo.critic, critic)
    optimizers = fabric.setup_optimizers(
        *(
            hydra.utils.instantiate(part.optimizer, params=module.parameters(), _convert_="all")
            for part, module in modules
        )
    )
    batch = make_batch(config)
    for _ in sys.stdin:
        data = {key: value.clone() for key, value in batch.items()}
        began = time.perf_counter()
        train(fabric, world_model, actor, critic, *optimizers, data, None, config)
        print(1000 * (time.perf_counter() - began), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
