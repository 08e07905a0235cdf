"""Where quadrupeds went, from above (figures 1 and 8)."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from lsp.envs.arena import OBSTACLE_RADIUS
from lsp.envs.quadruped import GOAL_RADIUS, Measurements
from lsp.experiments.figures.curves import partial_note, write_rows
from lsp.experiments.figures.definitions import COVE_SHOWN, LINE_SHOWN, Target
from lsp.experiments.figures.evaluations import Records
from lsp.experiments.sweep.planned_run import PlannedRun
from lsp.report import plots
from lsp.report.labels import color_of
from lsp.runs.folder import RunFolder
from lsp.training.episode_files import episode_files, read_episodes

HEADER = ("curve", "seed", "episodes", "reached")
_WIDTH = 5.0  # inches of a panel
_MARGIN = 0.5  # metres around all that is shown
_FARTHEST = 8.0  # metres from the start: one that walks away must not leave the arena a speck
_SKILL: dict[str, Any] = {"color": "#222222", "marker": ".", "linestyle": "", "markersize": 1.5}
_START: dict[str, Any] = {"color": "white", "marker": "X", "linestyle": "", "markersize": 8}
_START |= {"markeredgecolor": "black"}
_GOAL, _OBSTACLE = "#CC1A1A", "#4D6699"


class Way(NamedTuple):
    """One episode from above, in metres: where the torso was after each agent step, start
    included, and what stood in the arena."""

    path: Float64[np.ndarray, "time 2"]
    reached: bool
    goal: Float64[np.ndarray, " 2"]
    obstacles: Float64[np.ndarray, "count 2"]


Ways = Callable[[PlannedRun, Path], list[Way]]
"""Of (run, storage): the episodes to show."""


def first_ways(run: PlannedRun, storage: Path) -> list[Way]:
    """Those that begin in the first COVE_SHOWN env steps (figure 8)."""
    return list(map(_way, episode_states(run, storage, COVE_SHOWN)))


def last_ways(run: PlannedRun, storage: Path) -> list[Way]:
    """The last LINE_SHOWN of what there is (figure 1)."""
    return list(deque(map(_way, episode_states(run, storage)), LINE_SHOWN))


def draw_ways(target: Target, records: Records, out: Path, ways: Ways) -> None:
    """A row for each seed, a column for each line of the target, all panels on one scale."""
    shown = [[ways(run, records.storage) for run in curve.runs] for curve in target.curves]
    every = [way for column in shown for panel in column for way in panel]
    figure, panels = _panels(max(map(len, shown)), len(shown), every)
    for column, (curve, seeds) in enumerate(zip(target.curves, shown)):
        for axes, run, way in zip(panels[:, column], curve.runs, seeds):
            _draw_panel(axes, run, way)
            name = f"{curve.label}, seed {run.config.seed}"
            axes.set_title(_title(name, run, way, records), fontsize="medium")
            if every:
                _draw_arena(axes, every[0])
    figure.legend(handles=_legend(target), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(target.title)
    plots.save_figure(figure, out)


def write_arrivals(target: Target, records: Records, out: Path, ways: Ways) -> None:
    """In how many of the episodes that the picture shows each seed reached the goal."""
    rows: list[Sequence[str]] = [HEADER]
    for curve in target.curves:
        for run in curve.runs:
            reached = [way.reached for way in ways(run, records.storage)]
            counts = (run.config.seed, len(reached), sum(reached))
            rows.append((curve.label, *map(str, counts)))
    write_rows(rows, out, partial_note(target, records.of_folders))


def episode_states(
    run: PlannedRun, storage: Path, limit: int | None = None
) -> Iterator[tuple[Float64[np.ndarray, "time S"], Float64[np.ndarray, "steps S"]]]:
    """Simulator states after each agent step, start included, and after each control step, of the
    episodes that begin before `limit` env steps, where there is one."""
    begun, folder = 0, RunFolder(run.folder(storage))
    files = episode_files(folder.episodes)
    for episode in (each for path in files for each in read_episodes(path, folder.id)):
        if limit is not None and begun >= limit:
            return
        states, taken = episode["sim_state"], episode["env_steps"]
        last = np.maximum(taken, 1) - 1  # the last control step that was taken
        held = np.arange(states.shape[1]) < taken[:, None]
        yield states[np.arange(len(states)), last], states[held]
        begun += int(taken.sum())


def _way(episode: tuple[np.ndarray, np.ndarray]) -> Way:
    states, passed = episode
    start = Measurements(states[0])
    return Way(
        path=Measurements(states).position[:, :2].copy(),  # what else a state holds is let go
        reached=bool((Measurements(passed).distance <= GOAL_RADIUS).any()),
        goal=start.goal[:2].copy(),
        obstacles=start.obstacles.copy(),
    )


def _panels(rows: int, columns: int, every: Sequence[Way]) -> tuple[Figure, np.ndarray]:
    """Empty panels, `[rows, columns]`, all with the same limits: what is to be shown, as far as
    _FARTHEST from the start."""
    places = [part for x in every for part in (x.path, x.obstacles, x.goal[None])]
    shown = np.concatenate(places or [np.zeros((1, 2))])
    low, high = (x.clip(-_FARTHEST, _FARTHEST) for x in (shown.min(0), shown.max(0)))
    low, high = low - _MARGIN, high + _MARGIN
    height = _WIDTH * (high[1] - low[1]) / (high[0] - low[0])
    figure = Figure(figsize=(_WIDTH * columns, (height + 0.4) * rows + 1.5), layout="compressed")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in panels.ravel():
        axes.set_aspect("equal")
        axes.set_xlim(low[0], high[0])
        axes.set_ylim(low[1], high[1])
        axes.label_outer()
    for axes in panels[-1]:
        axes.set_xlabel(f"metres, {_FARTHEST:.0f} from the start at most")
    return figure, panels


def _draw_panel(axes: Axes, run: PlannedRun, ways: Sequence[Way]) -> None:
    for way in ways:
        axes.plot(*way.path.T, **_line(run))
        if run.config.has_skills:
            axes.plot(*way.path[: -1 : run.config.planner.skill_length].T, **_SKILL)


def _draw_arena(axes: Axes, way: Way) -> None:
    for centre in way.obstacles:
        axes.add_patch(Circle(tuple(centre), OBSTACLE_RADIUS, color=_OBSTACLE))
    axes.add_patch(Circle(tuple(way.goal), GOAL_RADIUS, color=_GOAL, alpha=0.5))
    axes.plot(*way.path[:1].T, zorder=3, **_START)


def _line(run: PlannedRun) -> dict[str, Any]:
    return {"color": color_of(run.config.method), "linewidth": 1.2, "alpha": 0.6}


def _title(name: str, run: PlannedRun, ways: Sequence[Way], records: Records) -> str:
    if not ways:
        return f"{name}: nothing yet"
    idle = "" if records.of_folders.counts(run) else "\n(its source learned nothing)"
    return f"{name}: goal reached in {sum(x.reached for x in ways)} of {len(ways)} episodes{idle}"


def _legend(target: Target) -> list[Artist]:
    """What is what: an entry for each line of the target, then what panels have in common."""
    firsts = [(curve.label, curve.runs[0]) for curve in target.curves]
    entries: list[Artist] = [
        Line2D([], [], label=f"{label}: the torso's way in an episode", **_line(run))
        for label, run in firsts
    ]
    if any(run.config.has_skills for _, run in firsts):
        entries.append(Line2D([], [], label="a new skill begins", **(_SKILL | {"markersize": 5})))
    entries.append(Line2D([], [], label="start", **_START))
    disc: dict[str, Any] = {"marker": "o", "linestyle": "", "markersize": 10}
    entries.append(Line2D([], [], label="goal, with its radius", color=_GOAL, alpha=0.5, **disc))
    entries.append(Line2D([], [], label="obstacle", color=_OBSTACLE, **disc))
    return entries
