"""How the cost of an LSP update grows with G, iterations, H, start states and batch.

Usage: cost.py OUT.png [--threads N] [--repeats 8] [--rounds 3]. Runs `lsp bench --preset fast` at
each point, one setting changed at a time and all others at the preset's values, and draws the
milliseconds of the update's parts in the best round: other programs only ever slow one down. Half
an hour.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from matplotlib.figure import Figure

SWEEPS = {
    "G, candidates": ("--planner.num-candidates", [8, 16, 32, 64]),
    "CEM iterations": ("--planner.num-iterations", [1, 2, 4, 8]),
    "H, planning horizon": ("--planner.horizon", [5, 10, 20, 40]),
    "start states": ("--behavior.num-starts", [8, 16, 32, 64]),
    "sequences in a batch": ("--replay.batch", [8, 16, 32, 64]),
}
PARTS = {"world_model_ms": "world model", "planner_ms": "planner", "behavior_ms": "behaviour"}


def best(flag: str, value: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Of some rounds the one with the shortest update."""
    rounds = [measure(flag, value, arguments) for _ in range(arguments.rounds)]
    return min(rounds, key=lambda report: report["update_ms"])


def measure(flag: str, value: int, arguments: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "lsp", "bench", "--env-steps", "0", flag, str(value)]
    command += ["--repeats", str(arguments.repeats)]
    if arguments.threads is not None:
        command += ["--threads", str(arguments.threads)]
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "bench.json"
        subprocess.run([*command, "--json", str(figures)], check=True, stdout=subprocess.DEVNULL)
        report: dict[str, float] = json.loads(figures.read_text())
        return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    figure = Figure(figsize=(3 * len(SWEEPS), 3.2), layout="constrained")
    panels = figure.subplots(1, len(SWEEPS), sharey=True)
    for axes, (name, (flag, values)) in zip(panels, SWEEPS.items(), strict=True):
        reports = [best(flag, value, arguments) for value in values]
        for value, report in zip(values, reports, strict=True):
            print(name, value, *(f"{part} {report[part]:.1f}" for part in PARTS), flush=True)
        series = [[report[part] for report in reports] for part in PARTS]
        axes.stackplot(values, series, labels=PARTS.values(), alpha=0.8)
        axes.set(xlabel=name, xscale="log", xticks=values, xticklabels=values, xlim=values[::3])
        axes.minorticks_off()
    panels[0].set_ylabel("ms an update")
    panels[0].legend(loc="upper left", fontsize=8)
    figure.savefig(arguments.out, dpi=120)


if __name__ == "__main__":
    main()
