"""Draw the pictures of the results from the tables beside this file, into docs/pictures.

python results/draw.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from recompute import (
    HELD,
    ROOT,
    Runs,
    best_published,
    earlier,
    held,
    published,
    ratio,
    rows,
    runs,
)

from lsp.report.labels import COLORS
from lsp.report.plots import STANDING_STILL, finish, save_figure
from lsp.report.seeds import bands, draw_seeds

PICTURES = ROOT / "docs" / "pictures"
GREY = "#555555"
# Ours, and what published agents call the task of the same start and reward.
COMPARED = {
    "walker_walk": "walker_walk",
    "walker_run": "walker_run",
    "cheetah_run": "cheetah_run",
    "quadruped_getup_walk": "quadruped_walk",
}
TASKS = (*COMPARED, "quadruped_upright_walk", "quadruped_reach", "quadruped_obstacles_reach")
GETUP = "quadruped_getup_reach/transfer_from_quadruped_getup_walk/"
REACH = "quadruped_reach/transfer_from_quadruped_upright_walk/"
RUN = "walker_run/transfer_from_walker_walk/"
IN_IMAGINATION = "bfloat16 in imagination"  # precision of those that can be compared in hours
STEPS = np.arange(10_000, 100_001, 10_000)


def draw_returns(out: Path) -> None:
    """The mean over four tasks of lsp, dreamer and the best published agent."""
    figure = Figure(figsize=(7.2, 4), layout="constrained")
    axes = figure.subplots()
    for method in ("lsp", "dreamer"):
        middle, low, high = _mean_over_tasks([earlier(f"{task}/{method}") for task in COMPARED])
        axes.plot(STEPS, middle, color=COLORS[method], marker="o", markersize=4, label=method)
        axes.fill_between(STEPS, low, high, color=COLORS[method], alpha=0.15, linewidth=0)
    best = np.mean([best_published(task, 100_000)[1] for task in COMPARED.values()])
    v3 = [np.mean([*published("dreamerv3", x, 100_000).values()]) for x in COMPARED.values()]
    marks: dict[str, Any] = {"color": GREY, "linestyle": "", "markersize": 9}
    axes.plot(100_000, best, marker="*", label="best published of each task", **marks)
    axes.plot(100_000, np.mean(v3), marker="D", label="DreamerV3, published", **marks)
    axes.set_ylim(0, 900)
    finish(axes, "Mean return over four locomotion tasks", loc="upper left")
    save_figure(figure, out)


def _mean_over_tasks(tasks: list[Runs], resamples: int = 2000) -> list[np.ndarray]:
    """Mean over tasks of the mean over seeds at STEPS, and its bootstrap interval over seeds."""
    values = [np.stack([task.at(int(x)) for x in STEPS], -1) for task in tasks]
    rng = np.random.default_rng(0)
    drawn = [
        np.mean([x[rng.integers(len(x), size=len(x))].mean(0) for x in values], axis=0)
        for _ in range(resamples)
    ]
    middle = np.mean([x.mean(0) for x in values], axis=0)
    return [middle, *np.quantile(drawn, [0.025, 0.975], axis=0)]


def draw_single_tasks(out: Path) -> None:
    """A panel a task: lsp and dreamer, and published agents as points."""
    figure = Figure(figsize=(14, 6.4), layout="constrained")
    panels = figure.subplots(2, 4, sharex=True).ravel()
    panels[-1].remove()
    figure.suptitle(f"Return of evaluations; {bands([3, 9])}", fontsize="medium")
    for axes, task in zip(panels, TASKS):
        for method in ("lsp", "dreamer"):
            seeds = [
                (x[x <= STEPS[-1]], y[x <= STEPS[-1]])
                for x, y in earlier(f"{task}/{method}").curves
            ]
            draw_seeds(axes, seeds, method, COLORS[method])
        for name, marker in (("tdmpc2", "*"), ("dreamerv3", "D")):
            found = published(name, COMPARED.get(task, task), STEPS[-1]).values()
            axes.plot([STEPS[-1]] * len(found), list(found), marker, color=GREY, label=name)
        if task in STANDING_STILL:
            axes.axhline(STANDING_STILL[task], color="#BBBBBB", linestyle=(0, (2, 2)))
        axes.set_ylim(0, 1020)
        finish(axes, f"{task}", loc="upper left")
        if task != TASKS[0]:
            axes.get_legend().remove()
    save_figure(figure, out)


def draw_getup(out: Path) -> None:
    """Learning to get up: lsp, without its intrinsic reward, and dreamer (figure 6b)."""
    figure = Figure(figsize=(7.2, 4), layout="constrained")
    axes = figure.subplots()
    for method in ("lsp", "no_mi", "dreamer"):
        draw_seeds(axes, runs(f"quadruped_getup_walk/{method}").curves, method, COLORS[method])
    axes.axhline(500, color="#BBBBBB", linestyle=(0, (2, 2)), label="standing still")
    finish(axes, f"quadruped_getup_walk\n{bands([3])}", loc="upper left")
    save_figure(figure, out)


def draw_hours(out: Path) -> None:
    """Returns on walker_walk against hours of training, of the runs of one commit and machine."""
    figure = Figure(figsize=(7.2, 4), layout="constrained")
    axes = figure.subplots()
    for method in ("lsp", "dreamer"):
        kind = earlier(f"walker_walk/{method}", against="wall_hours", precision=IN_IMAGINATION)
        for curve in kind.curves:
            axes.plot(*curve, color=COLORS[method], marker="o", markersize=3, label=method)
    finish(axes, "walker_walk: return against hours, one line a run", loc="lower right")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("hours on one thread that multiplies bf16")
    save_figure(figure, out)


def draw_transfer_ratio(out: Path) -> None:
    """Env steps of lsp over those of dreamer to reach each return."""
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    rival = earlier(REACH + "dreamer-relabel")
    panels = {
        "quadruped_getup_walk → quadruped_getup_reach": (
            earlier(GETUP + "lsp"),
            earlier(GETUP + "dreamer"),
        ),
        "quadruped_upright_walk → quadruped_reach": (earlier(REACH + "lsp-relabel"), rival),
        "the same, from sources whose skills live, both free": (
            runs(REACH + "lsp-relabel-new0.5", settings=""),
            runs(REACH + "dreamer-relabel-new0.5", settings=""),
        ),
        "the same, both held to themselves": (held(REACH + "lsp"), held(REACH + "dreamer")),
    }
    levels = range(150, 751, 10)
    places = figure.subplots(2, 2, sharey=True).flat
    for axes, (title, (ours, theirs)) in zip(places, panels.items()):
        middle, low, high = np.array([ratio(ours, theirs, x) for x in levels]).T
        top = 3.0
        axes.fill_between(
            levels,
            np.minimum(low, top),
            np.minimum(high, top),
            color=COLORS["lsp"],
            alpha=0.15,
            linewidth=0,
            label=f"95 % bootstrap interval, {len(ours)} and {len(theirs)} seeds",
        )
        axes.plot(levels, np.minimum(middle, top), color=COLORS["lsp"], label="here")
        axes.axhline(1, color="#999999", linewidth=0.8)
        axes.plot(500, 70 / 130, "*", color=GREY, markersize=10, label="the paper: 70k / 130k")
        axes.set_ylim(0, top)
        finish(axes, title, "env steps of lsp / env steps of dreamer", loc="upper left")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("return to reach")
    save_figure(figure, out)


def draw_transfer(out: Path) -> None:
    """Both transfers: mean over seeds, lowest and highest."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    styles = {"lsp": "-", "lsp-frozen": "--", "dreamer": "-"}
    names = {"lsp": "lsp", "lsp-frozen": "lsp, frozen policy", "dreamer": "dreamer"}
    panels = (
        ("quadruped_getup_walk → quadruped_getup_reach", GETUP, "", 107),
        ("quadruped_upright_walk → quadruped_reach", REACH, "-relabel", 312),
    )
    for axes, (title, table, ending, still) in zip(figure.subplots(1, 2, sharey=True), panels):
        for kind, style in styles.items():
            curves = earlier(f"{table}{kind}{ending}").curves
            draw_seeds(axes, curves, names[kind], COLORS[kind], linestyle=style)
        if table == REACH:
            name = "lsp, held (--anchor 0.05)"
            draw_seeds(axes, held(REACH + "lsp").curves, name, COLORS["lsp"], linestyle=":")
        axes.axhline(still, color="#BBBBBB", linestyle=(0, (2, 2)), label="standing still")
        finish(axes, f"{title}\n{bands([3])}", loc="lower right")
    save_figure(figure, out)


def draw_running(out: Path) -> None:
    """From walking to running, with an anchor, without, and from scratch."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for method in ("lsp", "dreamer"):
        for name, kind, style in (
            ("free", runs(f"{RUN}{method}-relabel-new0.5"), "-"),
            ("held (--anchor 0.05)", runs(f"{RUN}{method}{HELD}"), ":"),
            ("from scratch", earlier(f"walker_run/{method}"), "--"),
        ):
            curves = [(steps[steps <= 50_000], x[steps <= 50_000]) for steps, x in kind.curves]
            draw_seeds(axes, curves, f"{method}, {name}", COLORS[method], linestyle=style)
    finish(axes, f"walker_walk → walker_run\n{bands([3])}", loc="center left")
    legend = axes.get_legend()
    assert legend is not None
    legend.set_bbox_to_anchor((1.0, 0.5))
    save_figure(figure, out)


def draw_planned(out: Path) -> None:
    """Return under planned skills and under skills from N(0, I), a pair of bars a run."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    axes = figure.subplots()
    kinds: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows("recorded/planned_against_prior"):
        if row["critic"] == "current" and not row["transfer_from"]:
            kinds.setdefault((row["method"], row["task"]), []).append(row)
    place, ticks = 0.0, {}
    for (method, task), group in kinds.items():
        ticks[place + (len(group) - 1) / 2] = f"{method}\n{task}"
        for row in group:
            for column, shift, color, label in (
                ("planned", -0.2, COLORS["lsp"], "planned"),
                ("prior", 0.2, "#BBBBBB", "from N(0, I)"),
            ):
                axes.bar(
                    place + shift,
                    float(row[f"{column}_return"]),
                    0.4,
                    yerr=float(row[f"{column}_std"]),
                    color=color,
                    ecolor="#777777",
                    error_kw={"linewidth": 0.7},
                    label=label,
                )
            place += 1
        place += 0.8
    finish(
        axes,
        "One set of weights, two ways to choose skills: every pair is a run",
        loc="upper right",
    )
    axes.set_xticks(list(ticks), list(ticks.values()), rotation=40, ha="right", fontsize=8)
    axes.set_xlabel("")
    axes.grid(axis="x", visible=False)
    save_figure(figure, out)


PICTURE: dict[str, Callable[[Path], None]] = {
    "returns.png": draw_returns,
    "single_tasks.png": draw_single_tasks,
    "getup_walk.png": draw_getup,
    "hours.png": draw_hours,
    "transfer_ratio.png": draw_transfer_ratio,
    "transfer.png": draw_transfer,
    "running.png": draw_running,
    "planned.png": draw_planned,
}


def main() -> None:
    for name, draw in PICTURE.items():
        draw(PICTURES / name)
        print(f"docs/pictures/{name}")


if __name__ == "__main__":
    main()
