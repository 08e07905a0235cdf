"""From the name of a figure to the figure: its runs, then what they show."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from lsp.errors import UserError
from lsp.experiments.figures.definitions import SCALES, TARGETS, Scale, Target, target
from lsp.experiments.figures.evaluations import Records
from lsp.experiments.sweep.planned_run import PlannedRun, unique


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


def runs_of(targets: Iterable[Target]) -> list[PlannedRun]:
    """All runs, each once, first seeds first."""
    return unique(run for each in targets for run in each.runs)


def draw(targets: Sequence[Target], records: Records, out: Path) -> list[Path]:
    """Draw each figure from what is there, and write its tables; return the pictures."""
    for each in targets:
        for name, make in _products(each.name).items():
            make(each, records, out / name)
    return [out / f"{each.name}.png" for each in targets]


def report(target: Target, records: Records, picture: Path) -> list[str]:
    """What is said of a figure that was drawn: its table, what is missing, and where it is."""
    from lsp.experiments.figures.curves import partial_note

    table = picture.with_suffix(".md")
    text = table.read_text(encoding="utf-8").rstrip() if table.exists() else ""
    note = partial_note(target, records)
    said = [] if not note or note in text else [note]
    return [*([text] if text else []), *said, str(picture)]


Product = Callable[[Target, Records, Path], None]
"""Of (target, records of its runs, file to write)."""


def _products(name: str) -> dict[str, Product]:
    """What is made for a target, by the names of its files."""
    from lsp.experiments.figures.comparison import write_comparison
    from lsp.experiments.figures.curves import draw_curves, write_table
    from lsp.experiments.figures.skill_pictures import draw_held_skills
    from lsp.experiments.figures.trajectories import (
        draw_ways,
        first_ways,
        last_ways,
        write_arrivals,
    )
    from lsp.experiments.figures.transfer_speed import write_speeds, write_successes

    picture, table = f"{name}.png", f"{name}.csv"
    curves: dict[str, Product] = {picture: draw_curves, table: write_table}
    special: dict[str, dict[str, Product]] = {
        "methods": curves | {"methods-comparison.csv": write_comparison},
        "fig1": {
            picture: partial(draw_ways, ways=last_ways),
            table: partial(write_arrivals, ways=last_ways),
        },
        "fig5": curves | {"fig5-speed.csv": write_speeds},
        "fig7": {picture: draw_held_skills},
        "fig8": {
            picture: partial(draw_ways, ways=first_ways),
            table: partial(write_arrivals, ways=first_ways),
        },
        "fig9": curves | {"fig9-success.csv": write_successes},
        "fig10": {picture: draw_held_skills},
    }
    return special.get(name, curves)
