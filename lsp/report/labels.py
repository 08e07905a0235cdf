"""What curves of a figure are called, and coloured: methods, and the settings that differ."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from lsp.report.settings import all_settings, differing, joined, own_settings, parsed
from lsp.report.tables import SETTINGS, RecordedRun, Row

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLORS = {
    "lsp": "#0072B2",
    "lsp-frozen": "#004C73",
    "dreamer": "#D55E00",
    "random_skills": "#009E73",
    "no_mi": "#CC79A7",
    "rand_skills_init": "#E69F00",
    "hiro": "#56B4E9",
    "cem": "#7F3C8D",
}
OTHER_COLOR = "#000000"
_SPARE = ("#882255", "#999933", "#44AA99", "#661100", "#6699CC", "#AA4499", "#117733", "#DDCC77")


class _Told(NamedTuple):
    """What is known of a run.

    Attributes:
        name: its method with what a table's name adds.
        place: preset, observations and, of a transfer, its source.
        all: its settings.
        own: those that are not its method's.
    """

    name: str
    place: dict[str, str]
    all: dict[str, str]
    own: dict[str, str]


def label_runs(runs: Sequence[RecordedRun]) -> list[str]:
    """The method of each, and the settings in which it differs: `lsp, planner.horizon 20`.

    It differs from others of the same method or, in what is not its method's own, from any. Seed,
    task, paths and when a run is measured tell none apart: runs of one label are seeds.
    """
    told = [_told(run) for run in runs]
    names = {name for x in told for name in x.place}
    places = {name for name in names if len({x.place[name] for x in told if name in x.place}) > 1}
    own = differing(x.own for x in told)
    labels = []
    for each in told:
        alike = [x for x in told if (x.name, x.place) == (each.name, each.place)]
        shown = differing(x.all for x in alike) | {name for name in each.own if name in own}
        settings = {name: text for name, text in each.all.items() if name in shown}
        place = {name: text for name, text in each.place.items() if name in places}
        labels.append(_label(each.name, place | settings))
    return labels


def label_rows(rows: Sequence[tuple[str, Row]]) -> list[str]:
    """The same of rows of tables, each with its table's name.

    Rows hold what is not their method's own; what is the same in all of them is left out.
    """
    own = [parsed(row[SETTINGS]) for _, row in rows]
    shown = differing(own)
    return [
        _label(name, {key: text for key, text in settings.items() if key in shown})
        for (name, _), settings in zip(rows, own)
    ]


def color_of(method: str) -> str:
    """Of a method, whatever else its table's name says of a transfer."""
    return COLORS.get(re.sub("-(relabel|reset|paid-by).*", "", method), OTHER_COLOR)


def colors_of(labels: Iterable[str]) -> dict[str, str]:
    """A colour for each label, no two alike: the method's own for the first of its labels."""
    ordered = sorted(dict.fromkeys(labels), key=lambda label: label.count(","))
    methods = {label: color_of(label.partition(",")[0]) for label in ordered}
    spare = itertools.cycle([x for x in (*_SPARE, *COLORS.values()) if x not in methods.values()])
    colors: dict[str, str] = {}
    for label in ordered:
        taken = methods[label] in colors.values()
        colors[label] = next(spare) if taken else methods[label]
    return colors


def _told(run: RecordedRun) -> _Told:
    place = {key: str(run.config[key]) for key in ("preset", "obs")}
    if run.source:
        place |= {"from": str(run.source["task"]), "after": f"{run.source['env_steps']:,} steps"}
    config: Mapping[str, object] = run.config
    return _Told(run.table.stem, place, all_settings(config), own_settings(config))


def _label(name: str, settings: Mapping[str, str]) -> str:
    return ", ".join([name, *([joined(settings, ", ")] if settings else [])])
