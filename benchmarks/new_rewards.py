"""What a run earns for rewards that it was never trained for, with nothing trained.

Usage: new_rewards.py RUN ... [--episodes 20] [--updates 0] [--rewards a,b] [--csv FILE]
[--threads N]. For every reward of `lsp.rewards` for the run's robot, in the same episodes: what
planning for it earns and what its plans predicted, skills from N(0, I), standing still (actions of
0), and the agent as it was trained, which plans for its own task. A quadruped acts in
quadruped_reach, which tells whether a goal is reached. The last line of a run is its own task.
"""

import argparse
import csv
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import lsp
from lsp.api import load_networks
from lsp.backends.torch_setup import prepare_torch
from lsp.config import RuntimeConfig, default_runtime
from lsp.envs.rewards import own_reward
from lsp.errors import UserError
from lsp.rewards import quadruped, walker
from lsp.runs.folder import RunFolder
from lsp.training.evaluation import episode_seeds, evaluate
from lsp.training.parts import EnvMaker, env_maker

ROBOTS: dict[str, Any] = {"quadruped": quadruped, "walker": walker}
REWARDS = {
    "quadruped": "reach turn_left turn_right walk_backwards walk_sideways walk_slowly stand crouch",
    "walker": "walk_backwards stand lean hop",
}
PLACES = {"quadruped": "quadruped_reach", "walker": "walker_stand"}


def standing_still(make: EnvMaker, episodes: int) -> float:
    """The mean return of actions of 0, in the episodes of every evaluation."""
    env, returns = make(), []
    for seed in episode_seeds(episodes):
        env.reset(seed=seed)
        returns.append(0.0)
        ended = False
        while not ended:
            _, paid, terminated, truncated, _ = env.step(np.zeros(env.action_space.shape or ()))
            returns[-1] += float(paid)
            ended = terminated or truncated
    env.close()
    return float(np.mean(returns))


def measure(run: Path, name: str, episodes: int, updates: int) -> dict[str, Any]:
    """A line of the table for one reward."""
    networks = load_networks(run, trust=True)
    config, robot = networks.config, networks.config.task.split("_")[0]
    reward, place = getattr(ROBOTS[robot], name), PLACES[robot]
    make = env_maker(config, place, own_reward(reward))
    wanted = lsp.NewReward(reward, updates=updates)
    asked = partial(lsp.evaluate, run, episodes, env=place, trust=True)
    began = time.perf_counter()
    planned = asked(reward=wanted)
    seconds = time.perf_counter() - began
    assert planned.predicted is not None
    prior = asked(reward=lsp.NewReward(reward), skills="prior")
    runtime = default_runtime(config.preset, RuntimeConfig())
    trained = evaluate(networks, make, episodes, config.seed, runtime)
    return facts(run) | {
        "reward": name,
        "episodes": episodes,
        "updates": updates,
        "planned": planned.returns.mean(),
        "planned_std": planned.returns.std(),
        "predicted": planned.predicted.mean(),
        "success": None if planned.success is None else planned.success.mean(),
        "fit_error": None if planned.fit is None else planned.fit.error,
        "fit_spread": None if planned.fit is None else planned.fit.spread,
        "prior": prior.returns.mean(),
        "still": standing_still(make, episodes),
        "as_trained": trained.returns.mean(),
        "seconds": seconds,
    }


def own_task(run: Path, episodes: int) -> dict[str, Any]:
    """What the run was trained for."""
    found = lsp.evaluate(run, episodes, trust=True)
    prior = lsp.evaluate(run, episodes, trust=True, skills="prior")
    config = RunFolder(run).read_config()
    return facts(run) | {
        "reward": config.task,
        "episodes": episodes,
        "planned": found.returns.mean(),
        "planned_std": found.returns.std(),
        "prior": prior.returns.mean(),
        "still": standing_still(env_maker(config, config.task), episodes),
        "as_trained": found.returns.mean(),
    }


def facts(run: Path) -> dict[str, Any]:
    """What a run is."""
    config = RunFolder(run).read_config()
    known = {"run": run.name, "task": config.task, "method": config.method, "seed": config.seed}
    return known | {"env_steps": RunFolder(run).reached}


def write(path: Path, lines: list[dict[str, Any]]) -> None:
    """A CSV with a column for everything that any line has."""
    columns = list(dict.fromkeys(key for line in lines for key in line))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(shown, lines))


def shown(line: dict[str, Any]) -> dict[str, Any]:
    """Numbers as far as they say something."""
    return {key: f"{x:.4g}" if isinstance(x, float) else x for key, x in line.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--updates", type=int, default=0)
    parser.add_argument("--rewards")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--threads", type=int)
    asked = parser.parse_args()
    prepare_torch(RuntimeConfig(threads=asked.threads))
    lines: list[dict[str, Any]] = []
    try:
        for run in asked.runs:
            robot = RunFolder(run).read_config().task.split("_")[0]
            if robot not in ROBOTS:
                raise UserError(f"{run}: there are rewards for quadrupeds and walkers alone")
            names = asked.rewards.split(",") if asked.rewards else REWARDS[robot].split()
            for name in names:
                lines.append(measure(run, name, asked.episodes, asked.updates))
                print({k: x for k, x in shown(lines[-1]).items() if x is not None}, flush=True)
                if asked.csv is not None:
                    write(asked.csv, lines)
            lines.append(own_task(run, asked.episodes))
            if asked.csv is not None:
                write(asked.csv, lines)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
