"""How much faster the fast path plans than the plain one: eager, fp32.

Usage: planning.py [--starts 256] [--rounds 5] [--threads N]. Plans at the `fast` preset's sizes
(widths 128, G 16, 4 iterations, H 10), with the two paths in turn, and prints the median
milliseconds of both and the median of the rounds' ratios.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

from lsp.acceleration import FastPath, fast_path
from lsp.api import prepare_torch
from lsp.behavior import plan_skills
from lsp.config import RuntimeConfig, make_config
from lsp.networks import Networks

OBSERVATION, ACTION = 78, 12  # dm_control's quadruped


def planner(path: FastPath, starts: int) -> Callable[[], float]:
    """A function that plans once and returns the milliseconds it took."""
    latent = path.networks.world_model.rssm.initial(starts)
    generator = torch.Generator().manual_seed(0)

    def run() -> float:
        began = time.perf_counter()
        plan_skills(path.twin, latent, generator)
        return 1000 * (time.perf_counter() - began)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    runtime = RuntimeConfig(threads=arguments.threads)
    prepare_torch(runtime)
    torch.manual_seed(0)
    networks = Networks({"vector": (OBSERVATION,)}, ACTION, make_config("lsp", "fast"))
    plain = planner(FastPath(networks), arguments.starts)
    fast = planner(fast_path(networks, runtime), arguments.starts)
    for each in (plain, fast):
        each()  # warms up
    rounds = [(plain(), fast()) for _ in range(arguments.rounds)]
    print(f"eager fp32  {median(x for x, _ in rounds):8.1f} ms")
    print(f"fast path   {median(y for _, y in rounds):8.1f} ms")
    print(f"ratio       {median(x / y for x, y in rounds):8.2f}")


if __name__ == "__main__":
    main()
