"""Write the results pages from the tables beside this file: no number of a result is typed.

The pages are Jinja templates in `results/pages`; a number in them is a call of a function of this
file. `README.md.jinja` fills the part of README.md between two comments, `NAME.md.jinja` becomes
docs/results/NAME.md.

    python results/recompute.py            writes the pages
    python results/recompute.py --check    names the pages that differ, and exits with 1
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lsp.experiments.figures.transfer_speed import steps_to
from lsp.report.seeds import over_seeds
from lsp.report.statistics import FEW, permutation_test, probability_of_improvement, summary

RESULTS = Path(__file__).parent
ROOT = RESULTS.parent
BEGIN, END = "<!-- results: written by results/recompute.py -->\n", "<!-- end of results -->"
RESAMPLES = 2000
FOUR_ROUNDS = "planner.num-iterations 4; planner.acting-iterations None"
"""Settings of runs that planned in four iterations of CEM in updates too, as `fast` once did."""
PLANNED_ALONE = f"policy.prior-share 0; {FOUR_ROUNDS}; behavior.prior-share 0"
"""Settings of runs that trained under planned skills alone, as `fast` did before commit f5ced39."""
PLANNED_TRANSFER = (
    f"policy.prior-share 0; {FOUR_ROUNDS}; planner.prior-weight 0; behavior.prior-share 0"
)
"""Of transfers from these, which scored plans without the prior of skills."""
MODERN = "actions.num-candidates 128; schedule.pretrain 1000; schedule.update-every 2"
"""Settings of runs of `fast` that are those of `modern`, from before it had that name."""
UPDATES_ALONE = "optimizer.average-rate 0.001; schedule.pretrain 1000; schedule.update-every 2"
"""Settings of runs of `fast` that are those of `modern` without planned actions."""
POLICY_ACTS = "actions.num-candidates 0"
"""Settings of runs of `modern` whose policy acts, with nothing planned below the skills."""
LAST_UPDATE = "optimizer.average-rate 0"
"""Settings of runs of `modern` from before averaged weights were evaluated."""
AS_MODERN = {MODERN: LAST_UPDATE, UPDATES_ALONE: POLICY_ACTS}
"""Settings of `fast`, and those of `modern` that say the same."""
HELD = "-relabel-anchor0.05-rate0.005-new0.5"

Curve = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Runs:
    """Evaluations of the runs of one kind: for each run env steps and returns."""

    curves: Sequence[Curve]

    def __len__(self) -> int:
        return len(self.curves)

    def at(self, steps: int) -> np.ndarray:
        """Returns after `steps` env steps of the runs that got there `[runs]`."""
        there = [curve for curve in self.curves if curve[0][-1] >= steps]
        return np.array([np.interp(steps, *curve) for curve in there])

    def mean(self, steps: int) -> str:
        """What stands for the runs: see `text`."""
        return f"{summary([self.at(steps)]).value:.0f}"

    def text(self, steps: int) -> str:
        """Mean (lowest–highest); from five runs on interquartile mean [95 % interval]."""
        found = summary([self.at(steps)])
        if found.runs == 1:
            return f"{found.value:.0f}"
        low, high = f"{found.low:.0f}", f"{found.high:.0f}"
        return f"{found.value:.0f} " + (
            f"({low}–{high})" if found.runs < FEW else f"[{low}, {high}]"
        )

    def each(self, steps: int) -> str:
        """The return of every run that got there; a dash where none did."""
        return ", ".join(f"{x:.0f}" for x in self.at(steps)) or "–"

    def over(self, *steps: int) -> str:
        """The mean return of all runs at these env steps."""
        return f"{np.mean([self.at(each) for each in steps]):.0f}"

    def mean_curve(self) -> Curve:
        steps, values = over_seeds(list(self.curves))
        return steps, values.mean(0)

    def steps_to(self, level: float) -> str:
        """Env steps after which the mean curve first reaches `level`."""
        found = steps_to(*self.mean_curve(), level)
        return "–" if found is None else f"{found / 1000:.0f}k"


def rows(table: str) -> Iterator[dict[str, str]]:
    """The rows of a CSV below results/, named without its ending."""
    with (RESULTS / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row.get("settings", "") in AS_MODERN:
                row |= {"preset": "modern", "settings": AS_MODERN[row["settings"]]}
            yield row


def runs(*tables: str, obs: str = "proprio", against: str = "env_steps", **columns: object) -> Runs:
    """The runs of tables such as "walker_walk/lsp" whose `columns` have these values; a tuple or
    list names several that a column may have. By table and seed; of preset `fast`, unless another
    is named.

    Raises:
        LookupError: there is none, or they have several settings, which are not to be pooled.
    """
    found: dict[tuple[object, ...], list[tuple[float, float]]] = {}
    settings = set()
    wanted = {"obs": obs, "preset": "fast"} | columns
    for table in tables:
        for row in rows(table):
            if all(_fits(row.get(key, ""), value) for key, value in wanted.items()):
                settings.add(row.get("settings", ""))
                run = int(row["seed"]), row["precision"], row.get("source_steps", "")
                point = float(row[against]), float(row["eval_return"])
                found.setdefault((tables.index(table), *run), []).append(point)
    if len(settings) != 1:
        raise LookupError(
            f"{tables} with {columns} have rows of {len(settings)} settings: name one"
        )
    curves = [np.array(sorted(found[key])).T for key in sorted(found)]
    return Runs([(steps, values) for steps, values in curves])


def _fits(text: str, wanted: object) -> bool:
    several = wanted if isinstance(wanted, (tuple, list)) else (wanted,)
    return text in map(str, several)


def earlier(table: str, **columns: object) -> Runs:
    """The runs of a table from before `fast` trained under skills from N(0, I) too."""
    method = table.rpartition("/")[2].partition("-")[0]
    if method in ("lsp", "no_mi"):
        transfer = "transfer_from" in table
        columns["settings"] = PLANNED_TRANSFER if transfer else PLANNED_ALONE
    return runs(table, **columns)  # type: ignore[arg-type]


def held(kind: str) -> Runs:
    """Transfers with what holds a policy to itself, from sources of 100k."""
    return runs(kind + HELD, settings="", source_steps=100_000)


def first(count: int, kind: Runs) -> Runs:
    """The runs of the lowest seeds, where others came later."""
    return Runs(kind.curves[:count])


def both(one: Runs, other: Runs) -> Runs:
    """Runs of two settings, where the page says so."""
    return Runs([*one.curves, *other.curves])


def has(table: str, **columns: object) -> bool:
    """Whether a table has rows whose `columns` have these values."""
    return bool(seeds(table, **columns))


def seeds(table: str, **columns: object) -> str:
    """The seeds of those rows: "0, 1"."""
    path = RESULTS / f"{table}.csv"
    found = {
        int(row["seed"])
        for row in (rows(table) if path.is_file() else ())
        if all(row.get(key, "") == str(value) for key, value in columns.items())
    }
    return ", ".join(map(str, sorted(found)))


def published(algorithm: str, task: str, steps: int, obs: str = "proprio") -> dict[str, float]:
    """Mean over seeds of a published agent after `steps` env steps, for each of its sources."""
    scores: dict[str, list[float]] = {}
    for row in rows("reference/published"):
        wanted = (algorithm, task, obs, str(steps))
        if (row["algorithm"], row["task"], row["obs"], row["env_steps"]) == wanted:
            scores.setdefault(row["source"], []).append(float(row["score"]))
    return {source: float(np.mean(values)) for source, values in sorted(scores.items())}


def published_text(algorithm: str, task: str, steps: int) -> str:
    """The mean of each source: "475–636", or one number; a dash where nobody has published."""
    means = sorted(published(algorithm, task, steps).values())
    return "–".join(f"{x:.0f}" for x in dict.fromkeys((means[0], means[-1]))) if means else "–"


def best_published(task: str, steps: int) -> tuple[str, float]:
    """The agent with the highest published mean, and that mean."""
    names = {row["algorithm"] for row in rows("reference/published") if row["task"] == task}
    means = {name: max(published(name, task, steps).values(), default=0.0) for name in names}
    return max(means.items(), key=lambda item: item[1])


def better(ours: Sequence[Runs], theirs: Sequence[Runs], *steps: int) -> str:
    """Probability that a run of ours beats one of theirs, averaged over tasks, with its 95 %
    interval; `steps` are one number for all tasks, or one a task.
    """
    found = probability_of_improvement(_scores(ours, *steps), _scores(theirs, *steps))
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def p_value(ours: Sequence[Runs], theirs: Sequence[Runs], steps: int) -> str:
    """One-sided, of the permutation test within tasks."""
    return f"{permutation_test(_scores(ours, steps), _scores(theirs, steps), 'greater').p:.3f}"


def _scores(kinds: Sequence[Runs], *steps: int) -> list[np.ndarray]:
    each = steps * len(kinds) if len(steps) == 1 else steps
    return [kind.at(at) for kind, at in zip(kinds, each, strict=True)]


def ratio(ours: Runs, theirs: Runs, level: float) -> tuple[float, float, float]:
    """Env steps of ours over theirs to a mean return of `level`, and the bootstrap interval over
    seeds; 0 where only ours get there, infinite where only theirs do.
    """
    (steps, a), (others, b) = over_seeds(list(ours.curves)), over_seeds(list(theirs.curves))
    rng = np.random.default_rng(0)
    resampled = [
        _ratio(steps, a[_redrawn(rng, a)], others, b[_redrawn(rng, b)], level)
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(resampled, [0.025, 0.975], method="inverted_cdf")
    return _ratio(steps, a, others, b, level), float(low), float(high)


def ratio_at(ours: Runs, theirs: Runs, level: float) -> float:
    """`ratio` without its interval."""
    (steps, a), (others, b) = over_seeds(list(ours.curves)), over_seeds(list(theirs.curves))
    return _ratio(steps, a, others, b, level)


def _redrawn(rng: np.random.Generator, seeds: np.ndarray) -> np.ndarray:
    return rng.integers(len(seeds), size=len(seeds))


def _ratio(
    steps: np.ndarray, ours: np.ndarray, others: np.ndarray, theirs: np.ndarray, level: float
) -> float:
    mine, other = steps_to(steps, ours.mean(0), level), steps_to(others, theirs.mean(0), level)
    if mine is None:
        return np.inf if other is not None else 1.0
    if other == 0:  # before the first step
        return 1.0 if mine == 0 else np.inf
    return mine / other if other is not None else 0.0


def ratio_text(ours: Runs, theirs: Runs, level: float) -> str:
    middle, low, high = (f"{x:.2f}" if np.isfinite(x) else "∞" for x in ratio(ours, theirs, level))
    return f"{middle} [{low}, {high}]"


def ratio_range(ours: Runs, theirs: Runs, lowest: int, highest: int) -> str:
    """Least and greatest ratio over all returns between two that both reach: "0.51 to 1.21"."""
    levels = range(lowest, highest + 1, 10)
    found = [ratio_at(ours, theirs, level) for level in levels]
    return f"{min(found):.2f} to {max(found):.2f}"


def total(table: str, column: str, **columns: object) -> int:
    """The sum of a column over the rows whose `columns` have these values."""
    return sum(
        int(row[column])
        for row in rows(table)
        if all(row[key] == str(value) for key, value in columns.items())
    )


def speed(precision: str) -> str:
    """Env steps a second of `lsp` on one thread, of all machines that compute so: "68 to 88"."""
    found = sorted(
        int(row["env_steps_per_s"])
        for row in rows("recorded/speed")
        if (row["products"], row["threads"], row["preset"]) == (precision, "1", "fast")
    )
    return " to ".join(str(x) for x in dict.fromkeys((found[0], found[-1])))


def render(template: str) -> str:
    """A page from its template."""
    environment = Environment(
        loader=FileSystemLoader(RESULTS / "pages"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.globals |= {
        function.__name__: function
        for function in (
            rows,
            runs,
            earlier,
            held,
            first,
            both,
            has,
            seeds,
            published_text,
            better,
            p_value,
            ratio_at,
            ratio_range,
            speed,
            total,
        )
    } | {
        "ratio": ratio_text,
        "FOUR_ROUNDS": FOUR_ROUNDS,
        "HELD": HELD,
        "LAST_UPDATE": LAST_UPDATE,
        "POLICY_ACTS": POLICY_ACTS,
    }
    return environment.get_template(template).render()


def pages() -> dict[Path, str]:
    """The text of every page whose numbers are computed."""
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    texts = {readme: before + BEGIN + render("README.md.jinja") + END + after}
    for template in sorted((RESULTS / "pages").glob("*.md.jinja")):
        if template.name != "README.md.jinja":
            texts[ROOT / "docs" / "results" / template.stem] = render(template.name)
    return texts


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    texts = pages()
    stale = [path for path, text in texts.items() if not path.is_file() or path.read_text() != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)} {'differs from' if check else 'written from'} the tables")
        if not check:
            path.write_text(texts[path], encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
