"""The paper's figures: what each needs, and what is drawn."""

import csv
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import short_run, source_of
from test_experiments import call, debug_run, perform_here
from unchecked import unchecked

from lsp.config import (
    RuntimeConfig,
    make_config,
    validated,
)
from lsp.envs import arena
from lsp.envs.quadruped import GOAL_RADIUS, Measurements
from lsp.experiments.figures import curves, definitions, skill_pictures, trajectories
from lsp.experiments.figures.definitions import SCALES, TARGETS, Scale
from lsp.experiments.figures.evaluations import Records
from lsp.experiments.figures.reproduce import draw, find_targets, runs_of
from lsp.experiments.figures.trajectories import draw_ways, episode_states, first_ways, last_ways
from lsp.experiments.sweep.estimate import elapsed, hours, listing
from lsp.experiments.sweep.planned_run import PlannedRun
from lsp.report import plots
from lsp.report.tables import collect
from lsp.runs.files import write_json
from lsp.runs.metrics import MetricsLogger
from lsp.training.episode_files import write_episodes

RUN = "0123456789abcdef"


# Ways


def test_a_way_is_told_by_agent_steps_and_an_arrival_by_control_steps(tmp_path: Any) -> None:
    run, states = debug_run(), np.arange(6.0).reshape(3, 2, 1)
    folder = run.folder(tmp_path) / "episodes"
    folder.mkdir(parents=True)
    write_json(run.folder(tmp_path) / "run.json", {"id": RUN})
    episode = {"sim_state": states, "env_steps": np.array([0, 2, 1], np.int32)}
    write_episodes(folder / "episode-000000.npz", RUN, [episode])
    ((way, passed),) = episode_states(run, tmp_path, 100)
    assert way.ravel().tolist() == [0, 3, 4]
    assert passed.ravel().tolist() == [2, 3, 4]


def write_ways(run: Any, storage: Any, ends: Any) -> None:
    """Episodes of three env steps in the arena of a run's task, straight to each of `ends`."""
    spec = arena.TASKS[run.config.task]
    folder = run.folder(storage) / "episodes"
    folder.mkdir(parents=True)
    for number, end in enumerate(ends):
        assert not isinstance(spec.obstacles, int)
        states = np.zeros((4, 1, 60 + 2 * len(spec.obstacles)))
        states[:, 0, :2] = np.linspace((0, 0), end, 4)
        states[..., 3] = 1  # upright
        states[..., 57:59], states[..., 60:] = spec.goal, np.ravel(spec.obstacles)
        episode: Any = {"sim_state": states, "env_steps": np.array([0, 1, 1, 1], np.int32)}
        write_episodes(folder / f"episode-{number:06d}.npz", RUN, [episode])
    write_json(run.folder(storage) / "run.json", {"id": RUN})


def test_figure_8_shows_the_first_episodes_and_figure_1_the_last(
    tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(trajectories, "COVE_SHOWN", 3 * 40)
    run = find_targets("fig1", SCALES["small"])[0].runs[-1]
    write_ways(run, tmp_path, [(x, 0) for x in np.linspace(0, 6, 61)])
    first, last = first_ways(run, tmp_path), last_ways(run, tmp_path)
    assert [way.path[-1, 0] for way in first] == pytest.approx(np.linspace(0, 3.9, 40))
    assert [way.path[-1, 0] for way in last] == pytest.approx(np.linspace(5.1, 6, 10))
    # The goal stands 5 m ahead, and has a radius of 0.5 m.
    assert [way.reached for way in first] == [False] * 40
    assert [way.reached for way in last] == [True] * 5 + [False] * 5


def ways_figure(target: Any, storage: Any, monkeypatch: Any, ways: Any = first_ways) -> Any:
    figures = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, out: figures.append(figure))
    draw_ways(target, Records(storage), storage / "drawn.png", ways)
    return figures[0]


def test_ways_of_all_seeds_are_drawn_on_one_scale(tmp_path: Any, monkeypatch: Any) -> None:
    (target,) = find_targets("fig8", SCALES["small"])
    walked = []  # panel by panel: a row for each seed
    for seed in range(3):
        for curve, ends in zip(target.curves, ([(-1, seed)], [(-2, -3), (3 - seed, 0)])):
            write_ways(curve.runs[seed], tmp_path, ends)
            walked.append(ends)
    panels = ways_figure(target, tmp_path, monkeypatch).axes
    assert [each.get_title() for each in panels] == [
        "dreamer, seed 0: goal reached in 0 of 1 episodes",
        "lsp, policy fixed, seed 0: goal reached in 1 of 2 episodes",
        "dreamer, seed 1: goal reached in 0 of 1 episodes",
        "lsp, policy fixed, seed 1: goal reached in 0 of 2 episodes",
        "dreamer, seed 2: goal reached in 0 of 1 episodes",
        "lsp, policy fixed, seed 2: goal reached in 0 of 2 episodes",
    ]
    obstacles = {(*np.round(place, 6), arena.OBSTACLE_RADIUS) for place in arena.COVE}
    for each, ends in zip(panels, walked, strict=True):
        drawn = [line.get_xydata() for line in each.lines if line.get_linestyle() == "-"]
        assert [tuple(way[-1]) for way in drawn] == ends
        # Half a metre around the goal and all ways.
        assert (each.get_xlim(), each.get_ylim()) == ((-2.5, 3.5), (-3.5, 2.5))
        assert each.get_aspect() == 1
        (start,) = (line for line in each.lines if line.get_marker() == "X")
        assert start.get_xydata().tolist() == [[0, 0]]
        circles = {(*np.round(x.center, 6), x.radius) for x in each.patches}
        assert circles == obstacles | {(3, 0, GOAL_RADIUS)}


def test_who_walks_away_does_not_make_the_arena_a_speck(tmp_path: Any, monkeypatch: Any) -> None:
    (target,) = find_targets("fig8", SCALES["small"])
    write_ways(target.runs[-1], tmp_path, [(-30, 20)])
    panels = ways_figure(target, tmp_path, monkeypatch).axes
    assert {each.get_xlim() for each in panels} == {(-8.5, 3.5)}
    assert {each.get_ylim()[1] for each in panels} == {8.5}
    assert sum("nothing yet" in each.get_title() for each in panels) == 5
    assert all(len(each.patches) == 8 for each in panels)  # the arena stands there all the same


def test_a_legend_says_what_is_what(tmp_path: Any, monkeypatch: Any) -> None:
    (target,) = find_targets("fig8", SCALES["small"])
    (legend,) = ways_figure(target, tmp_path, monkeypatch).legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "dreamer: the torso's way in an episode",
        "lsp, policy fixed: the torso's way in an episode",
        "a new skill begins",
        "start",
        "goal, with its radius",
        "obstacle",
    ]


def test_ways_from_a_source_that_learned_nothing_are_marked(
    tmp_path: Any, monkeypatch: Any
) -> None:
    (target,) = find_targets("fig8", SCALES["small"])
    run = target.curves[0].runs[0]
    write_ways(run, tmp_path, [(1, 0)])
    folder = source_of(run).folder(tmp_path)
    (folder / "checkpoints" / "step-000100000").mkdir(parents=True)
    logger = MetricsLogger(folder)
    logger.write("eval", 100_000, {"eval/return": 499.0})
    logger.close()
    figure = ways_figure(target, tmp_path, monkeypatch)
    assert figure.axes[0].get_title().endswith("\n(its source learned nothing)")


# The paper's figures


@cache
def all_targets(scale: str) -> list[Any]:
    """Of one seed: what others run is the same."""
    with unchecked():
        return find_targets("all", replace(SCALES[scale], seeds=(0,)))


def test_every_target_lists_its_runs(tmp_path: Any) -> None:
    for scale in SCALES:
        targets = all_targets(scale)
        assert [target.name for target in targets] == list(TARGETS)
        with unchecked():
            for run in runs_of(targets):
                validated(run.settings(tmp_path))


def test_figures_share_their_runs() -> None:
    names = {t.name: {run.name for run in t.runs} for t in all_targets("small")}
    assert names["fig7"] <= names["fig5"]
    assert names["fig8"] == names["fig9"]
    assert len(names["fig1"] & names["fig9"]) == 2  # the sources
    assert len(names["fig10"] & names["fig4"]) == 1
    assert len(names["fig6b"] & names["fig4"]) == 2


def test_no_source_is_trained_further_by_another_figure() -> None:
    for scale in SCALES:
        runs = runs_of(all_targets(scale))
        lengths = {run.name: run.steps for run in runs}
        for run in runs:
            if run.source:
                assert lengths[run.source.name] == run.source.steps


def test_the_cove_holds_skills_as_long_as_the_paper() -> None:
    (target,) = find_targets("fig9", SCALES["paper"])
    lsp = target.curves[1].runs[0].config
    assert (
        lsp.planner.skill_length,
        lsp.planner.horizon,
        lsp.behavior.horizon,
    ) == (30, 120, 30)
    assert lsp.transfer.freeze_policy
    assert source_of(target.curves[1].runs[0]).steps == 500_000


def test_the_line_is_met_with_the_skills_of_the_source_and_everything_learns() -> None:
    (target,) = find_targets("fig1", SCALES["paper"])
    assert [curve.label for curve in target.curves] == ["dreamer", "lsp"]
    for run in (run for curve in target.curves for run in curve.runs):
        source, planner = source_of(run), run.config.planner
        assert run.config.task == "quadruped_line"
        assert not run.config.transfer.freeze_policy
        assert (planner.skill_length, planner.horizon) == (10, 10)
        skills = source.config.planner
        assert skills.skill_length == skills.horizon == 10
        assert (source.config.task, source.steps) == ("quadruped_obstacles_walk", 500_000)


def test_the_help_and_the_docs_name_every_target(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        call("reproduce --help")
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"{', '.join(TARGETS)} or all" in said
    table = (Path(__file__).parents[1] / "docs" / "guide" / "experiments.md").read_text()
    assert all(f"| `{name}` |" in table for name in TARGETS)


def test_small_sources_are_long_where_getting_up_comes_first() -> None:
    runs = runs_of(all_targets("small"))
    lengths = {run.source.config.task: run.source.steps for run in runs if run.source}
    assert lengths == {
        "quadruped_getup_walk": 250_000,
        "quadruped_upright_walk": 100_000,
        "quadruped_obstacles_walk": 100_000,
    }


def test_a_longer_horizon_takes_longer_where_the_planner_looks_ahead() -> None:
    runs = [PlannedRun(make_config(method, "fast"), 60_000) for method in ("lsp", "dreamer")]
    longer = [
        replace(run, config=replace(run.config, planner=replace(run.config.planner, horizon=120)))
        for run in runs
    ]
    before, more = ([hours(run, bf16=True) for run in each] for each in (runs, longer))
    assert more[0] == pytest.approx(5.4 * before[0])
    assert more[1] == before[1]


def test_a_machine_without_bf16_takes_longer(tmp_path: Any, monkeypatch: Any) -> None:
    run = PlannedRun(make_config("lsp", "fast"), 108_000)
    for features, total in ((["amx_bf16"], "0.5"), ([], "1.0")):
        monkeypatch.setattr("lsp.backends.hardware.bf16_features", lambda found=features: found)
        *_, summed, note = listing([run], tmp_path, 1, RuntimeConfig())
        assert f"1 to do: {total} hours of one thread, about {total} hours with 1" in summed
        assert ("without bf16" in note) == (not features)
    without = listing([run], tmp_path, 1, RuntimeConfig(bf16=False))
    assert "1.0 hours" in without[-2]


def test_what_waits_for_its_source_is_not_halved_by_two_jobs() -> None:
    source = PlannedRun(make_config("lsp", "fast"), 1000)
    after = PlannedRun(make_config("lsp", "fast", task="walker_run"), 1000, source)
    other = PlannedRun(make_config("lsp", "fast", seed=1), 1000)
    left = {source.name: 3.0, after.name: 2.0, other.name: 4.0}
    assert elapsed([source, after], left, 2) == 5.0
    assert elapsed([source, after, other], left, 2) == 5.0
    assert elapsed([source, after, other], left, 1) == 9.0
    assert elapsed([after], left, 2) == 2.0  # its source is done
    assert elapsed([source, after], left | {source.name: 0.0}, 2) == 2.0
    assert elapsed([], {}, 2) == 0.0


def test_a_figure_without_runs_says_so(tmp_path: Any) -> None:
    for target in all_targets("debug"):
        (picture,) = draw([target], Records(tmp_path), tmp_path / "figures")
        assert picture.stat().st_size > 5000


def test_titles_say_what_is_seen_and_the_terminal_what_is_missing(
    tmp_path: Any, monkeypatch: Any, capsys: Any
) -> None:
    figures = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, out: figures.append(figure))
    for target in all_targets("debug"):
        draw([target], Records(tmp_path), tmp_path / "figures")
    titles = [figure.get_suptitle() for figure in figures]
    assert {title for title, _ in TARGETS.values()} <= set(titles)
    assert not any("partial" in title or "finished" in title for title in titles)
    call(f"reproduce fig6b --scale debug --no-run --storage {tmp_path}")
    said = capsys.readouterr().out
    assert "partial: 0 of 3 runs finished" in said
    assert "| quadruped_getup_walk | lsp | 0/1 |" in said
    call(f"reproduce fig10 --scale debug --no-run --storage {tmp_path}")
    assert "partial: 0 of 2 runs finished" in capsys.readouterr().out


def test_panels_reach_as_far_as_their_runs_are_to_go(tmp_path: Any, monkeypatch: Any) -> None:
    (target,) = find_targets("fig6b", SCALES["small"])
    figures = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, out: figures.append(figure))
    for returns in ({}, {5000: 3.0, 10_000: 7.0}):
        logger = MetricsLogger(target.runs[0].folder(tmp_path))
        for steps, mean in returns.items():
            logger.write("eval", steps, {"eval/return": mean})
        logger.close()
        curves.draw_curves(target, Records(tmp_path), tmp_path / "drawn.png")
    nothing, something = (figure.axes[0] for figure in figures)
    assert nothing.get_xlim() == something.get_xlim() == (0, 255_000)
    assert nothing.get_ylim() == (0, 1000)
    assert something.get_ylim()[1] < 1000
    assert something.xaxis.get_major_formatter()(50_000) == "50k"


def test_seeds_without_a_common_step_are_drawn_alone(tmp_path: Any) -> None:
    (target,) = find_targets("fig5", SCALES["small"])
    line = next(curve for curve in target.curves if len(curve.runs) > 1)
    for run, steps in zip(line.runs[:2], ([5000], [10_000, 20_000]), strict=True):
        logger = MetricsLogger(run.folder(tmp_path))
        for each in steps:
            logger.write("eval", each, {"eval/return": 1.0})
        logger.close()
    (picture,) = draw([target], Records(tmp_path), tmp_path / "figures")
    with picture.with_suffix(".csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["seeds"].startswith("2/")]
    assert [(row["curve"], row["env_steps"], row["value"]) for row in rows] == [
        (line.label, "0", "")
    ]


# As `debug`, where `short_episodes` are 25 agent steps: sources hold whole ones to relabel.
SHORT = replace(
    SCALES["debug"], single=240, source=300, upright=300, transfer=100, cove=100, eval_every=300
)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: Any) -> Path:
    """Where the figures of this module share their runs."""
    folder: Path = tmp_path_factory.mktemp("experiments")
    return folder


@pytest.fixture
def small(monkeypatch: Any, short_episodes: Any) -> None:
    """Short runs; and fewer of what is alike: tasks of figure 4, skills of figures 7 and 10."""
    monkeypatch.setattr(definitions, "make_config", lambda method, _, **x: short_run(method, **x))
    monkeypatch.setattr(definitions, "PIXEL_TASKS", ("walker_run",))
    monkeypatch.setattr(definitions, "METHOD_TASKS", ("walker_walk",))
    monkeypatch.setattr(definitions, "STATE_TASKS", ("quadruped_getup_walk",))
    for name, value in (("STEPS", 4), ("SKILLS", 4), ("REPEATS", 2)):
        monkeypatch.setattr(skill_pictures, name, value)
    monkeypatch.setattr("lsp.experiments.skills.above._PIXELS", 96)


def reproduced(name: str, storage: Path, scale: Scale = SHORT) -> Path:
    targets = find_targets(name, scale)
    with unchecked():  # other tests check these trainings
        perform_here(runs_of(targets), storage)
    (picture,) = draw(targets, Records(storage), storage / "figures")
    return picture


def check_tables(name: str, storage: Path, folder: Path) -> None:
    """From what `lsp collect` wrote of the runs a figure's table is the same as from the runs."""
    targets = find_targets(name, SHORT)
    collect([run.folder(storage) for run in runs_of(targets)], folder / "tables")
    records = Records(folder / "no runs", folder / "tables")
    (picture,) = draw(targets, records, folder / "figures")
    found, expected = (
        list(csv.reader((place / f"{name}.csv").read_text().splitlines()))
        for place in (picture.parent, storage / "figures")
    )
    assert len(expected) > 2
    for row, same in zip(found, expected, strict=True):
        for text, wanted in zip(row, same, strict=True):
            # Tables keep two digits of a return.
            assert text == wanted or float(text) == pytest.approx(float(wanted), abs=0.11)


@pytest.mark.xdist_group("figures")  # one worker for those that share their runs
def test_figure_6b(storage: Any, small: Any, tmp_path: Any) -> None:
    picture = reproduced("fig6b", storage)
    check_tables("fig6b", storage, tmp_path)
    with picture.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["curve"] for row in rows] == ["lsp", "dreamer", "no_mi"]
    assert [row["env_steps"] for row in rows] == ["300"] * 3
    assert rows[1]["lsp_better"] in ("0.00", "0.50", "1.00")
    assert "partial" not in picture.with_suffix(".md").read_text()


@pytest.mark.xdist_group("figures")
def test_figures_8_and_9(storage: Any, small: Any, tmp_path: Any) -> None:
    reproduced("fig9", storage)
    check_tables("fig9", storage, tmp_path)
    picture = reproduced("fig8", storage)
    assert picture.stat().st_size > 20_000
    with picture.with_suffix(".csv").open() as file:
        rows = [(row["curve"], row["episodes"]) for row in csv.DictReader(file)]
    assert rows == [("dreamer", "1"), ("lsp, policy fixed", "1")]
    (target,) = find_targets("fig8", SHORT)
    ((states, _), *_) = episode_states(target.curves[1].runs[0], storage, 10_000)
    now = Measurements(states)
    assert len(states) == 26  # a start and 25 agent steps
    assert np.linalg.norm(now.position[0, :2]) < 0.1
    np.testing.assert_allclose(now.goal[0], (3, 0, 0))


def check_figure(picture: Any) -> None:
    assert picture.stat().st_size > 20_000
    assert picture.with_suffix(".csv").exists()
    assert "partial" not in picture.with_suffix(".md").read_text()


@pytest.mark.xdist_group("figures")
@pytest.mark.parametrize("name", ["methods", "fig1", "fig4", "fig5", "fig7", "fig10"])
def test_every_other_figure(name: Any, storage: Any, small: Any) -> None:
    check_figure(reproduced(name, storage))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fig4", "fig7"])
def test_every_other_figure_at_its_full_size(name: Any, tmp_path: Any) -> None:
    check_figure(reproduced(name, tmp_path, SCALES["debug"]))
