"""`lsp skills`: a picture, a film of each skill, and how far apart they end."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure, SubFigure

from lsp.api import environments_of, load_networks
from lsp.envs import rendering_problem
from lsp.envs.lookup import Task
from lsp.envs.several import Env
from lsp.errors import UserError
from lsp.experiments.figures.curves import write_rows
from lsp.experiments.skills.above import draw_above
from lsp.experiments.skills.held import Held, hold, skill_grid
from lsp.report.plots import save_figure
from lsp.report.video import VideoWriter
from lsp.runs.agents import find_run
from lsp.runs.files import expanded
from lsp.runs.folder import RunFolder
from lsp.training.build import AnyNetworks

HOLD, GRID, REPEATS = 40, 9, 3  # agent steps, skills, and rollouts of each
SHOWN = 5  # moments of a strip of pictures
FRAMES_PER_SECOND = 25.0
HEADER = ("skill", "z", "to_other_skills", "between_repeats", "unit")


class Report(NamedTuple):
    """What was written, and the two distances that tell skills from noise."""

    held: Held
    files: list[Path]
    no_pictures: str | None


def show_skills(
    run: str | Path,
    out: str | Path | None = None,
    *,
    hold_steps: int = HOLD,
    grid: int = GRID,
    repeats: int = REPEATS,
    env: Task | None = None,
    trust: bool = False,
) -> Report:
    """Hold skills of a run's newest checkpoint, each from the same start, and show what they do.

    Written are distances.csv and .md, a film of each skill where its environment renders, and
    skills.png: from above where the body moves over ground (quadrupeds), else strips of pictures.

    Args:
        run: the run's folder, or an agent's folder or name (docs/guide/agents.md).
        out: folder to write into; without it held_skills/ in the run's, or of an agent in
            pictures/.
        hold_steps: agent steps that each skill is held.
        grid: how many skills, a square number: they lie on a grid along the first two axes, up to
            1.5 standard deviations of the prior.
        repeats: rollouts of each skill, with other noise in the filter.
        env: an environment in place of the run's task, or what makes it, as in `lsp.load`.
        trust: run the code that the run's settings name.

    Raises:
        UserError: the run has no checkpoint or no skills, or the numbers do not fit.
    """
    networks = load_networks(run, env=env, trust=trust)
    skills = skill_grid(networks.config.skills.dim, grid) if networks.config.skills.dim else None
    if skills is None:
        raise UserError(f"{run}: {networks.config.method} has no skills: name a run of lsp")
    make_env = environments_of(run, env)
    folder = RunFolder(find_run(run)).held_skills if out is None else expanded(out)
    return _show(networks, make_env, folder, skills, hold_steps, repeats)


def draw_agent(folder: Path, trust: bool = False) -> Path | None:
    """The picture of an agent's skills, in its folder; None where it has none, or nothing to see.

    Raises UserError where the agent cannot be read.
    """
    networks, make_env = load_networks(folder, trust=trust), environments_of(folder)
    if not networks.config.has_skills or networks.config.method == "hiro":
        return None
    skills = skill_grid(networks.config.skills.dim, GRID)
    held = hold(networks, make_env, skills, HOLD, REPEATS, film=False)
    if held.unit != "m":  # a body without a way over the ground is seen in its frames alone
        if _no_pictures(make_env) is not None:
            return None
        held = hold(networks, make_env, skills, HOLD, 1, film=True)
    figure, picture = Figure(figsize=(8, 8.4), layout="constrained"), folder / "skills.jpg"
    draw_skills(figure, networks.config.task, held)
    save_figure(figure, picture, dpi=80)  # it is shipped
    return picture


def _show(
    networks: AnyNetworks,
    make_env: Callable[[], Env],
    out: Path,
    skills: np.ndarray,
    steps: int,
    repeats: int,
) -> Report:
    config, problem = networks.config, _no_pictures(make_env)
    held = hold(networks, make_env, skills, steps, repeats, film=problem is None)
    table, picture = out / "distances.csv", out / "skills.png"
    write_rows(distance_rows(held), table)
    files = [table]
    if held.unit == "m" or held.frames is not None:
        figure = Figure(figsize=(8, 8.4), layout="constrained")
        draw_skills(figure, config.task, held)
        save_figure(figure, picture)
        files.append(picture)
    return Report(held, files + film_skills(held, out), problem)


def draw_skills(figure: Figure | SubFigure, task: str, held: Held, title: str = "") -> None:
    """From above where the body moves over ground, else a strip of pictures for each skill."""
    if held.unit == "m":
        draw_above(figure.subplots(), task, held)
    else:
        _draw_strips(figure, held)
    figure.suptitle(f"{title}{summary(held)}", fontsize="medium")


def summary(held: Held) -> str:
    """One line: how far apart skills end, and repeats of one skill."""
    unit = "m" if held.unit == "m" else "standard deviations"
    text = f"{len(held.skills)} skills from one start end {held.between_skills():.2f} {unit} apart"
    if held.ends.shape[1] > 1:
        text += f", repeats of one skill {held.between_repeats():.2f} {unit}"
    return text


def distance_rows(held: Held) -> list[tuple[str, ...]]:
    """A row for each skill: mean distance of its end to those of others, and of its repeats."""
    rows: list[tuple[str, ...]] = [HEADER]
    middles = held.ends.mean(1)
    for number, skill in enumerate(held.skills):
        others = np.delete(middles, number, 0)
        apart = np.linalg.norm(others - middles[number], axis=-1).mean()
        alone = Held(skill[None], held.ends[number : number + 1], held.unit, None, None)
        within = alone.between_repeats()
        repeats = "" if np.isnan(within) else f"{within:.3f}"
        rows.append((str(number + 1), vector(skill), f"{apart:.3f}", repeats, held.unit))
    return rows


def vector(skill: np.ndarray) -> str:
    """A skill's numbers, for titles and tables."""
    return " ".join(f"{x:g}" for x in skill)


def film_skills(held: Held, out: Path) -> list[Path]:
    """A film of each skill's first rollout, where there are pictures."""
    films = []
    for number, frames in enumerate(held.frames if held.frames is not None else ()):
        films.append(out / f"skill-{number + 1}.mp4")
        with VideoWriter(films[-1], FRAMES_PER_SECOND) as video:
            for frame in frames:
                video.add(frame)
    return films


def _draw_strips(figure: Figure | SubFigure, held: Held) -> None:
    assert held.frames is not None
    moments = np.linspace(0, held.frames.shape[1] - 1, SHOWN).round().astype(int)
    panels = figure.subplots(len(held.skills), 1, squeeze=False)[:, 0]
    for axes, frames, skill in zip(panels, held.frames, held.skills):
        axes.imshow(np.concatenate(frames[moments], axis=1))
        axes.set_ylabel(vector(skill), rotation=0, ha="right", va="center", fontsize="x-small")
        axes.set_xticks([])
        axes.set_yticks([])


def _no_pictures(make_env: Callable[[], Env]) -> str | None:
    """Why this environment shows nothing, in one line; None where it does."""
    env = make_env()
    try:
        if type(env.unwrapped).__module__.startswith("lsp.") and (problem := rendering_problem()):
            return problem
        env.reset(seed=0)
        env.render()
    except UserError as error:
        return str(error)
    finally:
        env.close()
    return None
