"""Where a quadruped went, from above (figure 8)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from lsp.envs.arena import OBSTACLE_RADIUS
from lsp.envs.quadruped import GOAL_RADIUS, Measurements
from lsp.experiments.figures.curves import partial_note
from lsp.experiments.figures.definitions import COVE_SHOWN, Target
from lsp.experiments.figures.evaluations import Records
from lsp.experiments.sweep.planned_run import PlannedRun
from lsp.report import plots
from lsp.runs.files import read_arrays


def draw_trajectories(target: Target, records: Records, out: Path) -> None:
    """A panel for each run: the root's way in every episode of the first COVE_SHOWN env steps,
    with a dot where a new skill began."""
    figure = Figure(figsize=(6 * len(target.curves), 6), layout="constrained")
    for axes, curve in zip(figure.subplots(1, len(target.curves), squeeze=False)[0], target.curves):
        _draw_run(axes, curve.runs[0], records.storage, curve.label)
    figure.suptitle(f"{target.title}{partial_note(target, records.of_folders)}")
    plots.save_figure(figure, out)


def episode_states(
    run: PlannedRun, storage: Path, limit: int
) -> Iterator[tuple[Float64[np.ndarray, "time S"], Float64[np.ndarray, "steps S"]]]:
    """Simulator states after each agent step, start included, and after each control step, of the
    episodes that begin before `limit` env steps."""
    begun = 0
    for path in sorted((run.folder(storage) / "episodes").glob("episode-*.npz")):
        if begun >= limit:
            return
        episode = read_arrays(path)
        states, taken = episode["sim_state"], episode["env_steps"]
        last = np.maximum(taken, 1) - 1  # the last control step that was taken
        held = np.arange(states.shape[1]) < taken[:, None]
        yield states[np.arange(len(states)), last], states[held]
        begun += int(taken.sum())


def _draw_run(axes: Axes, run: PlannedRun, storage: Path, label: str) -> None:
    episodes = list(episode_states(run, storage, COVE_SHOWN))
    for states, _ in episodes:
        way = Measurements(states).position[:, :2]
        axes.plot(*way.T, color=plots.color_of(run.config.method), linewidth=0.8, alpha=0.6)
        if run.config.has_skills:
            _mark_skills(axes, way, run.config.planner.skill_length)
    if episodes:
        _draw_arena(axes, episodes[0][0][0])
        reached = sum(_arrived(passed) for _, passed in episodes)
        label += f": goal reached in {reached} of {len(episodes)} episodes"
    else:
        label += ": nothing yet"
    axes.set_title(label)
    axes.set_aspect("equal")
    axes.set_xlabel("metres")


def _mark_skills(axes: Axes, way: Float[np.ndarray, "time 2"], length: int) -> None:
    axes.plot(*way[:-1:length].T, ".", color="#222222", markersize=3)


def _arrived(states: np.ndarray) -> bool:
    return bool((Measurements(states).distance <= GOAL_RADIUS).any())


def _draw_arena(axes: Axes, state: Float64[np.ndarray, " S"]) -> None:
    now = Measurements(state)
    for centre in now.obstacles:
        axes.add_patch(Circle(tuple(centre), OBSTACLE_RADIUS, color="#4D6699"))
    axes.add_patch(Circle(tuple(now.goal[:2]), GOAL_RADIUS, color="#CC1A1A", alpha=0.5))
    axes.autoscale_view()
