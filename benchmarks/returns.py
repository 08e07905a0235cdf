"""What doing nothing and doing anything earns in each task: the table of docs/guide/tasks.md.

Usage: returns.py [--episodes 10]. Mean and standard deviation of the return over episodes with a
zero action and with actions drawn evenly from [-1, 1], each held for two control steps.
"""

import argparse
from collections.abc import Callable

import gymnasium
import numpy as np

from lsp.envs import make_env
from lsp.tasks import PAPER_TASKS

Act = Callable[[gymnasium.Env, np.random.Generator], np.ndarray]


def still(env: gymnasium.Env, rng: np.random.Generator) -> np.ndarray:
    assert env.action_space.shape is not None
    return np.zeros(env.action_space.shape, np.float32)


def random(env: gymnasium.Env, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)


def episode(env: gymnasium.Env, act: Act, seed: int) -> float:
    env.reset(seed=seed)
    rng, total, ended = np.random.default_rng(seed), 0.0, False
    while not ended:
        _, reward, terminated, truncated, _ = env.step(act(env, rng))
        total, ended = total + float(reward), terminated or truncated
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=10)
    episodes = parser.parse_args().episodes
    print("| task | zero action | random actions |\n|---|---|---|")
    for task in PAPER_TASKS:
        env = make_env(task)
        cells = []
        for act in (still, random):
            totals = [episode(env, act, seed) for seed in range(episodes)]
            cells.append(f"{np.mean(totals):.0f} ± {np.std(totals):.0f}")
        print(f"| {task} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
