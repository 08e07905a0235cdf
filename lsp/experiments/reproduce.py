"""From the name of a figure to the figure: its runs, then what they show."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from lsp.errors import UserError
from lsp.experiments.grid import Run, unique
from lsp.experiments.targets import SCALES, TARGETS, Scale, Target, target


def find_scale(name: str) -> Scale:
    """Raises UserError for an unknown scale."""
    if name not in SCALES:
        raise UserError(f"unknown scale {name!r}: choose paper or small")
    return SCALES[name]


def find_targets(name: str, scale: Scale) -> list[Target]:
    """One figure, or `all`. Raises UserError for an unknown one."""
    if name != "all" and name not in TARGETS:
        raise UserError(f"no such target {name!r}: choose one of {', '.join(TARGETS)}, all")
    return [target(each, scale) for each in (TARGETS if name == "all" else [name])]


def runs_of(targets: Iterable[Target]) -> list[Run]:
    """All runs, each once, first seeds first."""
    return unique(run for each in targets for run in each.runs)


def draw(targets: Sequence[Target], storage: Path, out: Path) -> list[Path]:
    """Draw each figure from what is there, and write its table; return the pictures."""
    from lsp.experiments.curves import draw_curves, write_table
    from lsp.experiments.skill_shows import draw_skills
    from lsp.experiments.speed import write_speeds, write_successes
    from lsp.experiments.trajectories import draw_trajectories

    pictures = []
    for each in targets:
        picture = out / f"{each.name}.png"
        if each.name in ("fig7", "fig10"):
            draw_skills(each, storage, picture)
        else:
            drawing = draw_trajectories if each.name == "fig8" else draw_curves
            drawing(each, storage, picture)
            write_table(each, storage, picture.with_suffix(".csv"))
        if each.name == "fig5":
            write_speeds(each, storage, out / "fig5-speed.csv")
        if each.name == "fig9":
            write_successes(each, storage, out / "fig9-success.csv")
        pictures.append(picture)
    return pictures
