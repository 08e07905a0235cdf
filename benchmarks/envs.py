"""What our environments cost on top of dm_control's, and what a rendered frame costs.

Usage: envs.py [--rounds 20] [--steps 200] [--pixels] [TASK ...]. Steps a task through dm_control
and through this package in turn, with the same random actions, and prints the microseconds of a
control step in the best round of each (other processes only ever slow a round down) and their
ratio: first for one control step at a time, then as agents act, with every action held for two.
With --pixels: milliseconds of a 64x64 frame with the render options `fast` and `faithful`.
"""

import argparse
import time
from statistics import median

import numpy as np
from dm_control.rl import control

from lsp.envs import make_env
from lsp.envs.dmc import DMControlEnv, load_control, split_task
from lsp.tasks import PAPER_TASKS


class Bare:
    """dm_control alone."""

    def __init__(self, task: str) -> None:
        self.env: control.Environment = load_control(*split_task(task))
        spec = self.env.action_spec()
        self.middle = (spec.maximum + spec.minimum) / 2
        self.half = (spec.maximum - spec.minimum) / 2

    def start_at(self, state: np.ndarray) -> None:
        self.env.reset()
        with self.env.physics.reset_context():
            self.env.physics.set_state(state)

    def microseconds(self, actions: np.ndarray) -> float:
        controls = self.middle + self.half * actions
        began = time.perf_counter()
        for action in controls:
            self.env.step(action)
        return 1e6 * (time.perf_counter() - began) / len(actions)


class Ours:
    """The same task as a Gymnasium environment."""

    def __init__(self, task: str, repeat: int) -> None:
        self.env = DMControlEnv(task) if repeat == 1 else make_env(task, action_repeat=repeat)
        self.repeat = repeat

    def start(self, seed: int) -> np.ndarray:
        self.env.reset(seed=seed)
        env = self.env.unwrapped
        assert isinstance(env, DMControlEnv)
        state: np.ndarray = env._env.physics.get_state()
        return state

    def microseconds(self, actions: np.ndarray) -> float:
        began = time.perf_counter()
        for action in actions[:: self.repeat]:
            self.env.step(action)
        return 1e6 * (time.perf_counter() - began) / len(actions)


def compare(task: str, rounds: int, steps: int) -> None:
    bare, line = Bare(task), f"{task:<28}"
    for repeat in (1, 2):
        ours = Ours(task, repeat)
        size = ours.env.action_space.shape
        assert size is not None
        shape = (steps // repeat, *size)
        drawn = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
        actions, pairs = drawn.repeat(repeat, axis=0), []
        for number in range(rounds):
            bare.start_at(ours.start(seed=number))
            pairs.append((bare.microseconds(actions), ours.microseconds(actions)))
        theirs, mine = (min(column) for column in zip(*pairs, strict=True))
        line += f" {theirs:8.0f} {mine:8.0f} {mine / theirs:8.2f}"
    print(line, flush=True)


def frame_times(task: str, rounds: int) -> None:
    found = []
    for quality in ("fast", "faithful"):
        env = make_env(task, "pixels", render_quality=quality).unwrapped
        assert isinstance(env, DMControlEnv)
        env.reset(seed=0)
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            env.observe()
            times.append(1e3 * (time.perf_counter() - began))
        found.append(median(times))
    print(f"{task:<28} {found[0]:8.1f} {found[1]:8.1f} {found[1] / found[0]:8.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", default=list(PAPER_TASKS))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--pixels", action="store_true")
    arguments = parser.parse_args()
    if arguments.pixels:
        print(f"{'ms a frame':<28} {'fast':>8} {'faithful':>8} {'ratio':>8}")
        for task in arguments.tasks:
            frame_times(task, arguments.rounds)
        return
    heads = 2 * f" {'bare':>8} {'ours':>8} {'ratio':>8}"
    print(f"{'µs a control step':<28}{heads}")
    for task in arguments.tasks:
        compare(task, arguments.rounds, arguments.steps)


if __name__ == "__main__":
    main()
