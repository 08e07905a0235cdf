"""Our Dreamer, at the sizes that `lsp bench --sizes` measures; compare.py runs it.

Usage: lsp_dreamer.py SIZES PRECISION THREADS, where PRECISION is fp32, bf16 or eager (fp32 without
kernels). Times one update for every line it reads, and prints the milliseconds.
"""

import sys
import time

import numpy as np
import torch

from lsp.algorithm.learner import Learner
from lsp.backends.backends import learning_backend
from lsp.backends.torch_setup import prepare_torch
from lsp.benchmark.bench import workload
from lsp.config import Config, RuntimeConfig
from lsp.models.networks import Networks

OBSERVATION, ACTION = 78, 12  # dm_control's quadruped


def make_batch(config: Config) -> dict[str, np.ndarray]:
    """Random sequences `[batch, time, ...]`."""
    rng, size = np.random.default_rng(0), (config.replay.batch, config.replay.length)
    return {
        "obs/vector": rng.normal(size=(*size, OBSERVATION)).astype(np.float32),
        "action": rng.uniform(-1, 1, (*size, ACTION)).astype(np.float32),
        "reward": rng.uniform(0, 1, size).astype(np.float32),
        "is_first": np.zeros(size, bool),
        "is_terminal": np.zeros(size, bool),
    }


def main(sizes: str, precision: str, threads: int) -> None:
    runtime = RuntimeConfig(threads=threads, compile=precision != "eager", bf16=precision == "bf16")
    prepare_torch(runtime)
    torch.manual_seed(0)
    config = workload(sizes, "quadruped_walk")
    networks = Networks({"vector": (OBSERVATION,)}, ACTION, config)
    learner, batch = Learner(networks, 0, learning_backend(networks, runtime)), make_batch(config)
    for _ in sys.stdin:
        began = time.perf_counter()
        learner.update(batch)
        print(1000 * (time.perf_counter() - began), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
