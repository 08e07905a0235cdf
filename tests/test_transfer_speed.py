"""The headline's numbers, from runs whose curves are known."""

import csv
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import source_of
from matplotlib.figure import Figure

from lsp.experiments.figures.curves import draw_line, evaluations
from lsp.experiments.figures.definitions import SCALES
from lsp.experiments.figures.evaluations import Records
from lsp.experiments.figures.reproduce import find_targets
from lsp.experiments.figures.transfer_speed import (
    half_of_the_gain,
    steps_to,
    success_shares,
    write_speeds,
    write_successes,
)
from lsp.runs.metrics import MetricsLogger

STEPS = np.array([0.0, 10_000, 20_000, 30_000])


def test_steps_to_a_return_lie_between_the_evaluations() -> None:
    values = np.array([100.0, 300, 700, 600])
    assert steps_to(STEPS, values, 500.0) == 15_000
    assert steps_to(STEPS, values, 100.0) == 0
    assert steps_to(STEPS, values, 700.0) == 20_000
    assert steps_to(STEPS, values, 701.0) is None
    assert steps_to(STEPS, values, None) is None
    assert steps_to(np.empty(0), np.empty(0), 1.0) is None


def test_half_of_the_gain_is_over_standing_still() -> None:
    assert half_of_the_gain("quadruped_reach", np.array([312.0, 512])) == 412
    assert half_of_the_gain("quadruped_cove", np.array([0.0, 80])) == 40
    assert half_of_the_gain("quadruped_reach", np.array([20.0])) is None
    assert half_of_the_gain("quadruped_reach", np.empty(0)) is None


def write_run(run: Any, storage: Any, evaluations: Any = (), episodes: Any = ()) -> None:
    folder = run.folder(storage)
    folder.mkdir(parents=True)
    logger = MetricsLogger(folder)
    for step, value in evaluations:
        logger.write("eval", step, {"eval/return": value})
    for step, reached in episodes:
        logger.write("episode", step, {"episode/return": 0.0, "episode/success": reached})
    logger.close()


def read(path: Any) -> Any:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_transfer_from_a_source_that_learned_nothing_does_not_count(tmp_path: Any) -> None:
    (target,) = find_targets("fig5", SCALES["small"])
    curve = next(x for x in target.curves if "getup" in x.panel and x.label == "dreamer")
    for run, learned, value in zip(curve.runs, (499.0, 501.0, None), (40.0, 600.0, 610.0)):
        if learned is not None:  # of the third nothing is known
            write_run(source_of(run), tmp_path, [(0, 900.0), (250_000, learned)])
            saved = source_of(run).folder(tmp_path) / "checkpoints" / "step-000250000"
            saved.mkdir(parents=True)
        write_run(run, tmp_path, [(0, 100.0), (100_000, value)])
    records = Records(tmp_path)
    assert [records.counts(run) for run in curve.runs] == [False, True, True]
    assert all(records.counts(source_of(run)) for run in curve.runs)
    assert [values[-1] for _, values in evaluations(curve, records)] == [600, 610]
    write_speeds(target, records, tmp_path / "speed.csv")
    rows = {row["curve"]: row for row in read(tmp_path / "speed.csv") if "getup" in row["panel"]}
    assert rows["dreamer"]["seeds"] == "2/3"
    assert float(rows["dreamer"]["steps_to_500"]) < 100_000
    note = "not counted: 1 from a source that learned nothing"
    assert note in (tmp_path / "speed.md").read_text()
    axes = Figure().subplots()
    draw_line(axes, curve, records)
    alone = Figure().subplots()
    draw_line(alone, replace(curve, runs=curve.runs[:1]), records)
    label = "dreamer, not counted: its source learned nothing"
    assert [line.get_label() for line in alone.lines] == [label]
    (source_of(curve.runs[0]).folder(tmp_path) / "checkpoints" / "step-000250000").rmdir()
    assert records.counts(curve.runs[0])  # its source is not at its end
    assert [line.get_linestyle() for line in axes.lines].count(":") == 1


def test_speeds_compare_lines_of_the_same_panel(tmp_path: Any) -> None:
    (target,) = find_targets("fig5", SCALES["small"])
    curves = {curve.label: curve for curve in target.curves if "getup" in curve.panel}
    fast = [(0, 100), (50_000, 600), (100_000, 853)]
    slow = [(0, 100), (50_000, 200), (100_000, 400)]
    write_run(curves["lsp"].runs[0], tmp_path, fast)
    write_run(curves["dreamer"].runs[0], tmp_path, slow)
    write_speeds(target, Records(tmp_path), tmp_path / "speed.csv")
    rows = {row["curve"]: row for row in read(tmp_path / "speed.csv") if "getup" in row["panel"]}
    lsp, dreamer, hiro = rows["lsp"], rows["dreamer"], rows["hiro"]
    assert (lsp["seeds"], dreamer["seeds"], hiro["seeds"]) == ("1/3", "1/3", "0/3")
    assert (lsp["steps_to_500"], dreamer["steps_to_500"]) == ("40000", "")
    assert float(lsp["return_at_70k"]) == pytest.approx(600 + 253 * 2 / 5, abs=1)
    assert dreamer["return_at_70k"] == "280"
    assert lsp["half"] == dreamer["half"] == "582"  # 312 + (853 - 312) / 2
    assert lsp["steps_to_half"] == "48250"
    assert set(hiro.values()) == {hiro["panel"], "hiro", "0/3", "", "582"}
    others = [row for row in read(tmp_path / "speed.csv") if "getup" not in row["panel"]]
    assert {row["half"] for row in others} == {""}
    assert "partial: 0 of" in (tmp_path / "speed.md").read_text()


def test_successes_are_shares_of_the_episodes_in_each_ten_thousand_steps(tmp_path: Any) -> None:
    (target,) = find_targets("fig9", SCALES["small"])
    lsp = target.curves[1]
    # The figure shows 60k env steps.
    ended = [(1000, 0.0), (10_000, 1.0), (31_000, 1.0), (81_000, 0.0)]
    write_run(lsp.runs[0], tmp_path, episodes=ended)
    write_run(lsp.runs[1], tmp_path, episodes=[(2000, 0.0), (9000, 0.0), (32_000, 1.0)])
    np.testing.assert_allclose(success_shares(lsp, Records(tmp_path)), [0.25, np.nan, np.nan, 1.0])
    # Of a source that learned nothing.
    source = source_of(lsp.runs[2])
    write_run(source, tmp_path, [(source.steps, 10.0)])
    (source.folder(tmp_path) / "checkpoints" / f"step-{source.steps:09d}").mkdir(parents=True)
    write_run(lsp.runs[2], tmp_path, episodes=[(1000, 1.0)])
    np.testing.assert_allclose(success_shares(lsp, Records(tmp_path)), [0.25, np.nan, np.nan, 1.0])
    write_successes(target, Records(tmp_path), tmp_path / "success.csv")
    ours, theirs = read(tmp_path / "success.csv")[::-1]
    assert ours["to 10000"] == "0.25"
    assert ours["to 20000"] == ""
    assert ours["to 40000"] == "1.00"
    assert theirs["to 10000"] == ""
