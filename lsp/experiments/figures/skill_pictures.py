"""What single skills do, each from the same start (figures 7 and 10)."""

from pathlib import Path

from matplotlib.figure import Figure, SubFigure

from lsp.api import load_networks
from lsp.envs import make_env, rendering_problem
from lsp.experiments.figures.curves import write_rows
from lsp.experiments.figures.definitions import Curve, Target
from lsp.experiments.figures.evaluations import Records
from lsp.experiments.skills.held import Held, hold, skill_grid
from lsp.experiments.skills.report import draw_skills, film_skills
from lsp.report import plots

STEPS = 40  # agent steps that each skill is held (figure 7)
SKILLS, REPEATS = 9, 3
_SIZE = 7.5  # inches of a panel


def draw_held_skills(target: Target, records: Records, out: Path) -> None:
    """Beside each other for every run: its skills from above; and, in a folder beside `out`, a film
    of each skill where this machine renders."""
    figure = Figure(figsize=(_SIZE * len(target.curves), _SIZE + 0.7), layout="constrained")
    parts = figure.subfigures(1, len(target.curves), squeeze=False)[0]
    rows: list[tuple[str, ...]] = [("run", "between skills (m)", "between repeats of one (m)")]
    for part, curve in zip(parts, target.curves):
        held = _draw_run(part, curve, records.storage, out)
        distances = (held.between_skills(), held.between_repeats()) if held else ()
        rows.append((curve.label, *(f"{x:.3f}" for x in distances), *[""] * (2 - len(distances))))
    figure.suptitle(target.title)
    plots.save_figure(figure, out)
    write_rows(rows, out.with_suffix(".csv"))


def _draw_run(figure: SubFigure, curve: Curve, storage: Path, out: Path) -> Held | None:
    run = curve.runs[0]
    config, reached = run.config, run.reached(storage)
    if reached == 0:
        figure.suptitle(f"{curve.label}: nothing yet")
        return None
    settings = config.task, config.obs, config.action_repeat, config.render_quality
    skills, film = skill_grid(config.skills.dim, SKILLS), rendering_problem() is None
    networks = load_networks(run.folder(storage))
    held = hold(networks, lambda: make_env(*settings), skills, STEPS, REPEATS, film)
    draw_skills(figure, config.task, held, f"{curve.label}, {reached:,} env steps:\n")
    film_skills(held, out.with_suffix("") / run.name)
    return held
