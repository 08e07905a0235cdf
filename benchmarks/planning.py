"""How much faster the fast backend plans than the plain one: eager, fp32.

Usage: planning.py [--starts 256] [--rounds 5] [--threads N] [--refit cem]. Plans with all
layers 128 units wide (G 16, 4 iterations, H 10; otherwise as `fast`), with the two paths in turn,
and prints the median milliseconds of both and the median of the rounds' ratios.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch

from lsp.algorithm.skill_planning import plan_skills
from lsp.backends.backends import EagerBackend, learning_backend
from lsp.backends.torch_setup import prepare_torch
from lsp.config import Config, RuntimeConfig, make_config
from lsp.models.networks import Networks

OBSERVATION, ACTION = 78, 12  # dm_control's quadruped


def wide(refit: str) -> Config:
    """`fast`, 128 units everywhere."""
    fast = make_config("lsp", "fast", **{"planner.refit": refit}).resolved()
    return replace(
        fast,
        model=replace(fast.model, deter=128, hidden=128, reward=(128,)),
        policy=replace(fast.policy, layers=(128, 128)),
        value=replace(fast.value, layers=(128,)),
    )


def planner(backend: EagerBackend, starts: int) -> Callable[[], float]:
    """A function that plans once and returns the milliseconds it took."""
    latent = backend.networks.world_model.rssm.initial(starts)
    generator = torch.Generator().manual_seed(0)

    def run() -> float:
        began = time.perf_counter()
        plan_skills(backend.frozen_copy, latent, generator)
        return 1000 * (time.perf_counter() - began)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--refit", default="cem")
    arguments = parser.parse_args()
    runtime = RuntimeConfig(threads=arguments.threads)
    prepare_torch(runtime)
    torch.manual_seed(0)
    networks = Networks({"vector": (OBSERVATION,)}, ACTION, wide(arguments.refit))
    plain = planner(EagerBackend(networks), arguments.starts)
    fast = planner(learning_backend(networks, runtime), arguments.starts)
    for each in (plain, fast):
        each()  # warms up
    rounds = [(plain(), fast()) for _ in range(arguments.rounds)]
    print(f"eager fp32  {median(x for x, _ in rounds):8.1f} ms")
    print(f"fast backend   {median(y for _, y in rounds):8.1f} ms")
    print(f"ratio       {median(x / y for x, y in rounds):8.2f}")


if __name__ == "__main__":
    main()
