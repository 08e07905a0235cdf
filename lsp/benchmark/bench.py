"""How fast a method learns and acts on this machine, and what share of its matrix units it uses."""

import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np
import torch

from lsp.algorithm.agent import Agent
from lsp.algorithm.behavior import draw_starts
from lsp.algorithm.learner import Learner
from lsp.backends import cuda_graphs
from lsp.backends.backends import acting_backend
from lsp.backends.cuda_graphs import Tensors
from lsp.backends.hardware import compiler, cpu_name, uses_bf16
from lsp.benchmark.advice import Findings, advice
from lsp.benchmark.flops import UpdateFlops, update_flops
from lsp.benchmark.peaks import GEMM_SHAPES, Gemm, Memory, milliseconds, wait
from lsp.benchmark.traffic import Traffic, update_traffic
from lsp.config import Config, RuntimeConfig, make_config, to_dict, validated
from lsp.errors import UserError
from lsp.models.networks import Networks
from lsp.models.world_model import Latent
from lsp.rows import observations
from lsp.runs.files import write_bytes
from lsp.runs.folder import RunFolder
from lsp.training.parts import open_run, weights_of
from lsp.training.schedule import Progress
from lsp.training.trainer import Trainer

WARM_UP = {"cpu": 2, "cuda": cuda_graphs.WARM_UP + 1}
"""Updates, or plans of an acting agent, before any is timed: the first ones compile."""
FILL = 1000  # env steps of random episodes that the updates learn from
ACT_STEPS = 200  # agent steps of which acting is timed


@dataclass(frozen=True)
class Report:
    """What `lsp bench` measures; None for what a method lacks.

    Milliseconds are medians over updates, those of acting a mean and a maximum over agent steps,
    planning included. `behavior_ms` is what world model and planner leave of an update, `plan_ms`
    the median of the agent steps at which a plan is made. `*_utilisation` are shares of the peak of
    matrix products, `*_bandwidth` shares of the speed of memory that a part needs at least.
    """

    update_ms: float
    world_model_ms: float
    planner_ms: float | None
    behavior_ms: float
    act_ms: float
    act_ms_max: float
    plan_ms: float | None
    env_steps_per_s: float | None
    update_gflop: float
    achieved_gflops: float
    gemm_peak_gflops: float
    utilisation: float
    world_model_utilisation: float
    planner_utilisation: float | None
    behavior_utilisation: float
    memory_gb_per_s: float
    world_model_bandwidth: float
    planner_bandwidth: float | None
    behavior_bandwidth: float
    advice: str
    first_update_s: float
    peak_rss_mb: float
    settings: dict[str, Any]

    def lines(self) -> list[str]:
        """One line a figure, for people."""
        values = {name: value for name, value in asdict(self).items() if name != "settings"}
        width = max(len(name) for name in values)
        return [f"{name:<{width}}  {_said(value)}" for name, value in values.items()]

    def write(self, path: Path) -> None:
        """Raises UserError where `path` cannot be written."""
        try:
            write_bytes(path, f"{json.dumps(asdict(self), indent=2)}\n".encode())
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from error


def _said(value: float | str | None) -> str:
    if isinstance(value, str):
        return value
    return "–" if value is None else f"{value:.4g}"


def workload(sizes: str, task: str) -> Config:
    """Dreamer at the sizes of benchmarks/peers: `paper` is the preset, `small` has 128 units
    everywhere, 16 sequences of 32, and imagines 10 steps from all 512 states.

    Raises UserError for other sizes.
    """
    if sizes not in GEMM_SHAPES:
        raise UserError(f"unknown sizes {sizes!r}: choose one of {', '.join(GEMM_SHAPES)}")
    paper, two = make_config("dreamer", "paper", task=task), (128, 128)
    if sizes == "paper":
        return paper
    layers: dict[str, Any] = {"encoder": two, "decoder": two, "reward": two}
    return replace(
        paper,
        model=replace(paper.model, deter=128, stoch=24, hidden=128, **layers),
        policy=replace(paper.policy, layers=two),
        value=replace(paper.value, layers=two),
        behavior=replace(paper.behavior, horizon=10),
        replay=replace(paper.replay, batch=16, length=32),
    )


def bench(
    config: Config,
    runtime: RuntimeConfig,
    repeats: int = 20,
    env_steps: int = 2000,
    run: Path | None = None,
) -> Report:
    """Measure updates and acting of `config`, on fresh weights or on those of `run`.

    `env_steps` are trained end to end, logging and a checkpoint included; 0 leaves that out.
    """
    began = time.monotonic()
    if repeats < 1 or env_steps < 0:
        raise UserError(
            f"repeats must be at least 1 and env-steps at least 0: {repeats}, {env_steps}"
        )
    if config.method == "hiro":
        raise UserError("bench measures world models and planners, and method hiro has neither")
    schedule = replace(config.schedule, prefill=FILL, pretrain=0, eval_every=0, log_every=FILL)
    config = validated(replace(config, schedule=schedule))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(open_run(config, RunFolder(Path(folder) / "run"), runtime))
        try:
            if run is not None:
                _take_weights(trainer, run)
            train(trainer, FILL)
            update(trainer)
            wait(runtime.device)
            first_update = time.monotonic() - began
            networks, learner = _parts(trainer)
            for _ in range(WARM_UP[networks.device.type] - 1):
                update(trainer)
            gemm = Gemm(config, learner.backend.frozen_copy.dtype, runtime.device)
            memory = Memory(runtime.device)
            times = time_updates(trainer, runtime, repeats, gemm, memory)
            acting = time_acting(trainer, runtime)
            rate = end_to_end(trainer, env_steps) if env_steps else None
        finally:
            trainer.close()
    return Report(
        update_ms=times.update,
        world_model_ms=times.world_model,
        planner_ms=times.planner,
        behavior_ms=times.behavior,
        act_ms=fmean(acting),
        act_ms_max=max(acting),
        plan_ms=_plan_ms(config, acting),
        env_steps_per_s=rate,
        first_update_s=first_update,
        peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        settings=_settings(config, runtime, gemm, run),
        **_limits(networks, runtime, times, rate, gemm, memory),
    )


def _limits(
    networks: Networks,
    runtime: RuntimeConfig,
    times: "UpdateTimes",
    rate: float | None,
    gemm: Gemm,
    memory: Memory,
) -> dict[str, Any]:
    """What updates need of the machine, of which share of its peaks that is, and what limits."""
    flops, traffic = update_flops(networks), update_traffic(networks, gemm.dtype)
    achieved = flops.total / (times.update / 1000) / 1e9
    products = _shares(flops, times, gemm.peak)
    moved = _shares(traffic, times, memory.peak)
    limits: dict[str, Any] = {
        "update_gflop": flops.total / 1e9,
        "achieved_gflops": achieved,
        "gemm_peak_gflops": gemm.peak,
        "utilisation": achieved / gemm.peak,
        "memory_gb_per_s": memory.peak,
    }
    limits |= {f"{part}_utilisation": share for part, share in products.items()}
    limits |= {f"{part}_bandwidth": share for part, share in moved.items()}
    found = _findings(networks.config, runtime, times, rate, achieved / gemm.peak, moved)
    return limits | {"advice": advice(found)}


class UpdateTimes(NamedTuple):
    """Median milliseconds."""

    update: float
    world_model: float
    planner: float | None = None

    @property
    def behavior(self) -> float:
        """What the others leave of an update."""
        return self.update - self.world_model - (self.planner or 0.0)


def _shares(
    needed: UpdateFlops | Traffic, times: UpdateTimes, peak: float
) -> dict[str, float | None]:
    """Of a peak in 10⁹ a second, for each part of an update; None for what a method lacks."""
    return {
        part: None if not (taken := getattr(times, part)) else amount / (taken / 1000) / 1e9 / peak
        for part, amount in needed._asdict().items()
    }


def _findings(
    config: Config,
    runtime: RuntimeConfig,
    times: UpdateTimes,
    rate: float | None,
    utilisation: float,
    bandwidths: dict[str, float | None],
) -> Findings:
    per_env_step = times.update / 1000 / config.schedule.update_every
    on_gpu = runtime.device.startswith("cuda")
    return Findings(
        updates_share=None if rate is None else min(1.0, per_env_step * rate),
        utilisation=utilisation,
        bandwidth=max(x for x in bandwidths.values() if x is not None),
        kernels=runtime.compile and compiler() is not None,
        bf16=uses_bf16(runtime),
        can_bf16=uses_bf16(replace(runtime, bf16=True)),
        threads=torch.get_num_threads(),
        cores=os.cpu_count() or 1,
        num_envs=config.num_envs,
        on_gpu=on_gpu,
    )


def time_updates(
    trainer: Trainer, runtime: RuntimeConfig, repeats: int, gemm: "Gemm", memory: Memory
) -> UpdateTimes:
    """Whole updates and their parts in turn, with the peaks measured between them."""
    (networks, learner), config = _parts(trainer), trainer.config
    device = networks.device
    data = {key: torch.as_tensor(x).to(device) for key, x in trainer.draw_batch().items()}
    model, is_terminal = learner.backend.model, data["is_terminal"]
    count = config.behavior.num_starts

    def learn(data: Tensors) -> Tensors:
        loss, _, _ = model.loss(data, learner.generator, learner.backend.scan)
        return learner.descend("model", loss)

    def plan(starts: Tensors) -> Tensors:
        return learner.plan(Latent(**starts))[0]._asdict()

    with torch.no_grad():
        _, latents, _ = model.loss(data, learner.generator)
    starts = draw_starts(latents, is_terminal, count, learner.generator).latent._asdict()
    record, draws = learner.backend.record, learner.generator
    works: list[Callable[[], Any]] = [partial(update, trainer), partial(record(learn, draws), data)]
    works += [partial(record(plan, draws), starts)] if config.plans_skills else []
    for work in works[1:]:
        for _ in range(WARM_UP[device.type]):
            work()
    times: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        gemm.measure()
        memory.measure()
        for work, taken in zip(works, times, strict=True):
            taken.append(milliseconds(work, runtime.device))
    return UpdateTimes(*map(median, times))


def _parts(trainer: Trainer) -> tuple[Networks, Learner]:
    """Of a method that has a world model."""
    assert isinstance(trainer.networks, Networks)
    assert isinstance(trainer.learner, Learner)
    return trainer.networks, trainer.learner


def time_acting(trainer: Trainer, runtime: RuntimeConfig) -> list[float]:
    """Milliseconds of each agent step while collecting, on observations of the replay."""
    networks = _parts(trainer)[0]
    agent = Agent(networks, "collect", backend=acting_backend(networks, runtime))
    rows = trainer.replay.sample(1, trainer.config.replay.length, np.random.default_rng(0))
    seen = observations(rows)
    steps = [{key: x[0, t] for key, x in seen.items()} for t in range(trainer.config.replay.length)]
    times = []
    warm_up = WARM_UP[networks.device.type] * trainer.config.acting.replan_every
    for step in range(warm_up + ACT_STEPS):
        observation = steps[step % len(steps)]
        times.append(milliseconds(partial(agent.act, observation), runtime.device))
    return times[warm_up:]


def _plan_ms(config: Config, acting: list[float]) -> float | None:
    """Of the agent steps at which a plan is made: the first, and every so many after it."""
    plans = config.plans_skills and config.planner.scope == "per_state"
    return median(acting[:: config.acting.replan_every]) if plans or config.plans_actions else None


def end_to_end(trainer: Trainer, env_steps: int) -> float:
    """Env steps per second of training: env, acting, updates, logging and a checkpoint."""
    before, began = trainer.env_steps, time.monotonic()
    train(trainer, before + env_steps)
    return (trainer.env_steps - before) / (time.monotonic() - began)


def train(trainer: Trainer, env_steps: int) -> None:
    """Train until `env_steps`, rounded up to the next log line, without an evaluation."""

    def listen(progress: Progress) -> None:
        trainer.stopping = progress.env_steps >= env_steps

    trainer.stopping = False
    trainer.run(2 * env_steps + FILL, listen)


def update(trainer: Trainer) -> None:
    trainer.learner.update(trainer.draw_batch())


def _take_weights(trainer: Trainer, run: Path) -> None:
    folder = RunFolder(run)
    checkpoint = folder.newest_checkpoint()
    if checkpoint is None:
        raise UserError(f"{run} has no checkpoint yet: train it first")
    trainer.networks.load_state_dict(weights_of(checkpoint, folder))


def _settings(
    config: Config, runtime: RuntimeConfig, gemm: Gemm, run: Path | None
) -> dict[str, Any]:
    on_gpu = runtime.device.startswith("cuda")
    return {
        "machine": torch.cuda.get_device_name() if on_gpu else cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": str(gemm.dtype).removeprefix("torch."),
        "gemm_shape": list(gemm.shape),
        "run": None if run is None else str(run),
        "runtime": to_dict(runtime),
        "config": to_dict(config),
    }
