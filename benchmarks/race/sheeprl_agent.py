"""sheeprl's DreamerV3 by its own settings for walker_walk, from vectors; race.py runs it."""

import copy
import warnings
from typing import Any

import numpy as np
import sheeprl.algos.dreamer_v3.dreamer_v3 as dreamer
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from sheeprl.cli import run_algorithm
from sheeprl.utils.utils import dotdict
from track import Entry, Track, read_entry

from lsp.backends.hardware import bf16_features

TRACKS: list[Track] = []
"""The one of this process. sheeprl makes its environments by the name of a function."""


def make_env(**settings: Any) -> Any:
    return TRACKS[0].make_env()


def settings(entry: Entry) -> Any:
    changes = {
        "exp": "dreamer_v3_dmc_walker_walk",
        "seed": entry.seed,
        "num_threads": entry.threads,
        "env.wrapper._target_": "__main__.make_env",
        "env.action_repeat": 1,  # the track's environments repeat
        "env.capture_video": False,
        "algo.cnn_keys.encoder": "[]",
        "algo.cnn_keys.decoder": "[]",
        "algo.mlp_keys.encoder": "[state]",
        "algo.mlp_keys.decoder": "[state]",
        "algo.total_steps": 10**9,
        "algo.run_test": False,
        "metric.log_level": 0,
        "fabric.accelerator": "cpu",
        "fabric.precision": "bf16-mixed" if bf16_features() else "32-true",
        "log_root": entry.folder,
    }
    with initialize_config_module("sheeprl.configs", version_base="1.3"):
        config = compose("config", overrides=[f"{key}={value}" for key, value in changes.items()])
    # Names of runs come from Hydra's own command line, which is not used here.
    config.run_name, config.root_dir = str(entry.seed), entry.task
    return dotdict(OmegaConf.to_container(config, resolve=True))


def follow(track: Track) -> None:
    """Lets the track see the agent when it is built, and look at the clock at every update."""
    build, train = dreamer.build_agent, dreamer.train

    def build_agent(*arguments: Any) -> Any:
        built = build(*arguments)
        track.act = acting(built[-1])
        return built

    def train_once(*arguments: Any) -> None:
        track.tick()
        train(*arguments)

    dreamer.build_agent, dreamer.train = build_agent, train_once


def acting(player: Any) -> Any:
    """Greedy, by the same networks, in a state of its own."""
    player = copy.copy(player)
    player.num_envs = 1

    @torch.inference_mode()
    def act(observation: np.ndarray, first: bool) -> np.ndarray:
        if first:
            player.init_states()
        seen = {"state": torch.from_numpy(observation).view(1, 1, -1)}
        # Its own `get_actions` is bound to the player that it is a copy of.
        action = torch.cat(type(player).get_actions(player, seen, greedy=True), -1)
        return action.float().numpy().ravel()

    return act


def main() -> None:
    warnings.filterwarnings("ignore")
    entry = read_entry()
    torch.set_num_threads(entry.threads)
    torch.set_flush_denormal(True)
    TRACKS.append(Track(entry))
    follow(TRACKS[0])
    TRACKS[0].run(lambda: run_algorithm(settings(entry)))


if __name__ == "__main__":
    main()
