"""What each planner earns with the weights of given runs, and what a plan costs.

Usage: planners.py RUN ... [--episodes 100] [--plans 50] [--csv FILE] [--device cpu] [--threads N].
Every run's newest checkpoint is evaluated with every planner, in the same episodes; nothing is
trained. Rows with a learned proposal need runs that were trained with skills.proposal = learned.
Prints a table of returns, mean over runs and the standard deviation between them, and of the
milliseconds of a plan for one state; the CSV has a line for each run and planner.
"""

import argparse
import csv
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median, pstdev
from typing import Any

from lsp.algorithm.agent import Agent
from lsp.api import environments_of, load_networks
from lsp.backends.backends import acting_backend
from lsp.backends.torch_setup import prepare_torch
from lsp.config import Config, RuntimeConfig, default_runtime, to_dict
from lsp.errors import UserError
from lsp.models.networks import Networks
from lsp.report.settings import joined, own_settings
from lsp.runs.folder import RunFolder
from lsp.training.evaluation import evaluate

PLANNERS: dict[str, dict[str, Any]] = {
    "cem": {},
    "mppi": {"refit": "mppi"},
    "gradient": {"refit": "gradient"},
    "learned + cem, 1 iteration": {"acting_iterations": 1},
    "learned alone": {"acting_iterations": 0},
}
"""What each changes in a planner that is CEM with as many iterations as in updates."""
WARM_UP = 5  # plans before any is timed


def with_planner(config: Config, name: str) -> Config | None:
    """The settings with that planner; None where it needs a proposal, and none was learned."""
    learned = name.startswith("learned")
    if learned and not config.has_proposal:
        return None
    own: dict[str, Any] = {"refit": "cem", "acting_iterations": None, "warm_start": False}
    return replace(
        config,
        planner=replace(config.planner, **(own | PLANNERS[name])),
        skills=replace(config.skills, proposal="learned" if learned else "normal"),
    )


def loaded(run: Path, device: str) -> Networks:
    """Raises UserError where the run plans no skills for one state."""
    networks = load_networks(run, device, trust=True)
    if not isinstance(networks, Networks) or not networks.config.plans_skills:
        raise UserError(f"{run}: {networks.config.method} plans no skills")
    if networks.config.planner.scope == "shared":
        raise UserError(f"{run}: with planner.scope = shared acting plans nothing")
    return networks


def planning(networks: Networks, runtime: RuntimeConfig) -> Callable[[], float]:
    """A function that plans for one state, and returns the milliseconds it took."""
    agent = Agent(networks, backend=acting_backend(networks, runtime))
    inputs = agent.latent._asdict() | {"mean": agent.plan.mean}

    def plan() -> float:
        began = time.perf_counter()
        agent.plan_ahead(inputs)["mean"].cpu()
        return 1000 * (time.perf_counter() - began)

    return plan


def measure(run: Path, episodes: int, plans: int, device: str) -> list[dict[str, Any]]:
    """A line for each planner. The plans of all are timed in turn: other programs disturb them."""
    networks, make = loaded(run, device), environments_of(run)
    trained = networks.config
    runtime = default_runtime(trained.preset, RuntimeConfig(device=device))
    lines: dict[str, dict[str, Any]] = {}
    timed: dict[str, Callable[[], float]] = {}
    for name in PLANNERS:
        config = with_planner(trained, name)
        if config is None:
            continue
        networks.config = config
        timed[name] = planning(networks, runtime)
        found = evaluate(networks, make, episodes, trained.seed, runtime).returns
        measured = {"return": float(found.mean()), "std": float(found.std())}
        lines[name] = facts(run, trained) | {"planner": name, "episodes": len(found)} | measured
        print(f"{run} {name}: {measured['return']:.1f}", flush=True)
    rounds = [{name: plan() for name, plan in timed.items()} for _ in range(plans + WARM_UP)]
    for name, line in lines.items():
        line["plan_ms"] = median(each[name] for each in rounds[WARM_UP:])
    return list(lines.values())


def facts(run: Path, trained: Config) -> dict[str, Any]:
    """What a run is."""
    return {
        "run": run.name,
        "task": trained.task,
        "method": trained.method,
        "settings": joined(own_settings(to_dict(trained))),
        "seed": trained.seed,
        "env_steps": RunFolder(run).reached,
    }


def table(lines: list[dict[str, Any]]) -> str:
    """Runs that differ in their seeds alone make one row of each planner."""
    kinds: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for line in lines:
        kind = (*(line[key] for key in ("task", "method", "settings", "planner")),)
        kinds.setdefault(kind, []).append(line)
    head = ["task", "method", "trained with", "planner", "runs", "return", "ms a plan"]
    rows = [head, ["---"] * len(head)]
    for kind, mine in kinds.items():
        returns = [line["return"] for line in mine]
        earned = f"{fmean(returns):.0f} ± {pstdev(returns):.0f}"
        cost = f"{fmean(line['plan_ms'] for line in mine):.1f}"
        rows.append([*(text or "–" for text in kind), str(len(mine)), earned, cost])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def write(path: Path, lines: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0].keys())
        writer.writeheader()
        writer.writerows(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--plans", type=int, default=50)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    asked = parser.parse_args()
    prepare_torch(RuntimeConfig(device=asked.device, threads=asked.threads))
    try:
        for run in asked.runs:
            loaded(run, asked.device)  # a mistake is said before hours are spent
        lines: list[dict[str, Any]] = []
        for run in asked.runs:
            lines += measure(run, asked.episodes, asked.plans, asked.device)
            if asked.csv is not None:
                write(asked.csv, lines)
    except UserError as error:
        parser.error(str(error))
    print(f"\n{table(lines)}")


if __name__ == "__main__":
    main()
