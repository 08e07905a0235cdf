"""Methods over several tasks, from runs whose returns are known."""

import csv
from dataclasses import replace
from typing import Any

import pytest

from lsp.config import make_config
from lsp.errors import UserError
from lsp.experiments.figures.comparison import standing, write_comparison
from lsp.experiments.figures.curves import evaluations, write_table
from lsp.experiments.figures.definitions import SCALES
from lsp.experiments.figures.evaluations import Records
from lsp.experiments.figures.reproduce import find_targets
from lsp.experiments.sweep.planned_run import PlannedRun
from lsp.report.tables import HEADER as RESULTS_HEADER
from lsp.runs.metrics import MetricsLogger


@pytest.fixture
def target() -> Any:
    (found,) = find_targets("methods", SCALES["small"])
    return found


def write_runs(target: Any, storage: Any, task: Any, method: Any, curves: Any) -> None:
    """One run for each of `curves`, dictionaries of env steps and returns."""
    line = next(x for x in target.curves if (x.panel, x.label) == (task, method))
    for run, curve in zip(line.runs, curves):
        folder = run.folder(storage)
        folder.mkdir(parents=True)
        logger = MetricsLogger(folder)
        for step, value in curve.items():
            logger.write("eval", step, {"eval/return": value})
        logger.close()
        (folder / "checkpoints" / f"step-{max(curve):09d}").mkdir(parents=True)


def test_a_method_is_looked_at_over_all_its_tasks(target: Any, tmp_path: Any) -> None:
    write_runs(target, tmp_path, "walker_walk", "lsp", [{100_000: 900}, {100_000: 800}])
    write_runs(target, tmp_path, "cheetah_run", "lsp", [{100_000: 400}, {100_000: 300}])
    found = standing(target, "lsp", Records(tmp_path))
    assert (found.tasks, found.runs) == (2, 4)
    assert found.middle == (600, 300, 900, 4)
    assert found.ours_better is None


def test_from_five_runs_on_intervals_are_stratified(target: Any, tmp_path: Any) -> None:
    write_runs(target, tmp_path, "walker_walk", "lsp", [{100_000: x} for x in (900, 800, 850)])
    write_runs(target, tmp_path, "cheetah_run", "lsp", [{100_000: x} for x in (400, 300, 350)])
    middle = standing(target, "lsp", Records(tmp_path)).middle
    assert middle is not None
    assert (middle.statistic, middle.value) == ("IQM", (350 + 400 + 800 + 850) / 4)
    assert middle.low >= 550  # drawn anew within each task, not across them
    assert middle.high <= 650


def test_ours_is_compared_task_by_task_by_finished_runs(target: Any, tmp_path: Any) -> None:
    write_runs(target, tmp_path, "walker_walk", "lsp", [{50_000: 500, 100_000: 500}] * 2)
    write_runs(target, tmp_path, "cheetah_run", "lsp", [{100_000: 400}] * 2 + [{50_000: 0}])
    write_runs(target, tmp_path, "walker_walk", "no_mi", [{100_000: 400}, {100_000: 600}])
    write_runs(target, tmp_path, "cheetah_run", "no_mi", [{100_000: 300}, {50_000: 900}])
    found = standing(target, "no_mi", Records(tmp_path))
    assert (found.tasks, found.runs) == (2, 3)
    # Against 400 and 600 one of two, against 300 always.
    assert found.ours_better is not None
    assert found.ours_better.value == pytest.approx((0.5 + 1) / 2)
    assert standing(target, "dreamer", Records(tmp_path)) == (0, 0, None, None)


def test_a_line_is_compared_with_the_runs_of_ours_that_got_there(
    target: Any, tmp_path: Any
) -> None:
    write_runs(target, tmp_path, "walker_walk", "lsp", [{20_000: 300, 100_000: 900}, {20_000: 100}])
    write_runs(target, tmp_path, "walker_walk", "no_mi", [{50_000: 400, 100_000: 800}])
    write_runs(target, tmp_path, "walker_walk", "dreamer", [{20_000: 50}])
    write_table(target, Records(tmp_path), tmp_path / "out.csv")
    with (tmp_path / "out.csv").open() as file:
        rows = {row["curve"]: row for row in csv.DictReader(file) if row["panel"] == "walker_walk"}
    assert rows["no_mi"]["lsp_better"] == "1.00"  # the second seed of lsp is not there yet
    assert rows["dreamer"]["lsp_better"] == "1.00"


def test_the_table_has_every_method(target: Any, tmp_path: Any) -> None:
    write_runs(target, tmp_path, "walker_walk", "lsp", [{100_000: 900}] * 3)
    write_runs(target, tmp_path, "walker_walk", "cem", [{100_000: 500}])
    write_comparison(target, Records(tmp_path), tmp_path / "out.csv")
    with (tmp_path / "out.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert set(rows) == {x.label for x in target.curves}
    cem = [rows["cem"][key] for key in ("runs", "statistic", "value", "low")]
    assert cem == ["1", "mean", "500.0", ""]
    assert rows["cem"]["lsp_better"] == "1.00"
    assert rows["hiro"]["value"] == ""
    assert (tmp_path / "out.png").stat().st_size > 5000
    assert "partial: 4 of" in (tmp_path / "out.md").read_text()


ROW = "{obs},fast,{seed},{step},{value},1.00,,10,,0.5,1,,abc"


def write_tables(folder: Any, task: Any, method: Any, rows: Any) -> None:
    """A table of `lsp collect`, of (observations, seed, env step, return)."""
    lines = [ROW.format(obs=o, seed=s, step=t, value=v) for o, s, t, v in rows]
    (folder / task).mkdir(parents=True, exist_ok=True)
    text = "\n".join([",".join(RESULTS_HEADER), *lines]) + "\n"
    (folder / task / f"{method}.csv").write_text(text)


def test_what_was_collected_stands_for_runs_whose_folders_are_gone(
    target: Any, tmp_path: Any
) -> None:
    write_runs(target, tmp_path, "walker_walk", "lsp", [{100_000: 900}, {50_000: 100}])
    tables = tmp_path / "tables"
    rows = [("proprio", seed, 100_000, 500 + seed) for seed in range(3)]
    shown = [*rows, ("proprio", 7, 100_000, 7.0), ("proprio", 2, 200_000, 9.0)]
    write_tables(tables, "walker_walk", "lsp", [*shown, ("pixels", 1, 100_000, 999.0)])
    write_tables(tables, "walker_walk", "no_mi", [("proprio", 0, 90_000, 400)])
    records = Records(tmp_path, tables)
    line = next(x for x in target.curves if (x.panel, x.label) == ("walker_walk", "lsp"))
    last = [values[-1] for _, values in evaluations(line, records)]
    assert last == [900, 501, 502]  # of folder and table what has got further
    assert all(map(records.finished, line.runs))
    found = standing(target, "no_mi", records)
    assert (found.tasks, found.runs) == (0, 0)  # not finished


def test_rows_of_other_settings_stand_for_no_run_of_the_figure(target: Any, tmp_path: Any) -> None:
    rows = [("proprio", seed, 100_000, 500 + seed) for seed in range(2)]
    write_tables(tmp_path, "walker_walk", "lsp", rows)
    table = tmp_path / "walker_walk" / "lsp.csv"
    header, *lines = table.read_text().splitlines()
    own = f"{lines[1]},planner.horizon 20"
    table.write_text("\n".join([f"{header},settings", f"{lines[0]},", own]) + "\n")
    line = next(x for x in target.curves if (x.panel, x.label) == ("walker_walk", "lsp"))
    records = Records(tmp_path / "no runs", tmp_path)
    assert [values[-1] for _, values in evaluations(line, records)] == [500]
    settings: dict[str, Any] = {"planner.horizon": 20}
    longer = [make_config(task="walker_walk", seed=s, **settings) for s in (0, 1)]
    line = replace(line, runs=tuple(PlannedRun(config, 100_000) for config in longer))
    assert [values[-1] for _, values in evaluations(line, records)] == [501]


def test_tables_that_are_none_are_refused(target: Any, tmp_path: Any) -> None:
    with pytest.raises(UserError, match="no folder of tables"):
        Records(tmp_path, tmp_path / "missing")
    write_tables(tmp_path, "walker_walk", "lsp", [])
    (tmp_path / "walker_walk" / "lsp.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="not a results table"):
        standing(target, "lsp", Records(tmp_path, tmp_path))
