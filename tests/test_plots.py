import csv
import json
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest

from lsp.config import make_config, to_dict
from lsp.errors import UserError
from lsp.report import plots
from lsp.report.labels import COLORS, colors_of
from lsp.report.tables import HEADER, TRANSFER_HEADER, collect
from lsp.runs.metrics import MetricsLogger


def make_run(
    folder: Any,
    method: Any = "lsp",
    task: Any = "walker_walk",
    episodes: Any = True,
    skills: Any = True,
) -> Any:
    folder.mkdir()
    config = {"task": task, "method": method, "preset": "fast", "seed": 0, "obs": "proprio"}
    (folder / "config.json").write_text(json.dumps(config))
    info = {"command": "lsp train", "commit": None, "dirty": False, "threads": 1}
    (folder / "run.json").write_text(json.dumps(info))
    logger = MetricsLogger(folder)
    for step in range(1000, 11000, 1000):
        if episodes:
            logger.write("episode", step, {"episode/return": step / 100})
        if skills:
            suffixes = ("", "_given_start", "_prior", "_prior_forward")
            names = (*(f"mutual_information{x}" for x in suffixes), "log_q")
            values = {f"skills/{name}": step / 1e4 for name in (*names, "effect", "noise")}
            logger.write("train", step, values | {"skills/log_q": None})
    if episodes:
        logger.write("eval", 5000, {"eval/return": 50.0, "eval/std": 5.0})
        logger.write("eval", 10000, {"eval/return": 100.0, "eval/std": 5.0})
    logger.close()
    return folder


def make_frozen(run: Any) -> Any:
    """The run as a transfer with a fixed policy."""
    config = json.loads((run / "config.json").read_text())
    transfer = {"source": "runs/x", "freeze_policy": True, "relabel": False, "reset": []}
    config |= {"transfer": transfer, "planner": {}, "skills": {"dim": 3}}
    (run / "config.json").write_text(json.dumps(config))
    (run / "source.json").write_text(json.dumps({"task": "walker_stand", "env_steps": 100}))
    return run


def write_csv(path: Any, header: Any, rows: Any) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def table(folder: Any, method: Any, points: Any) -> Any:
    """points: (seed, env_steps, return)."""
    rows = [("proprio", "fast", s, e, r, 1, "", 10, "", 1, 1, "", "abc") for s, e, r in points]
    return write_csv(folder / f"{method}.csv", HEADER, rows)


@pytest.fixture
def drawn(monkeypatch: Any) -> Any:
    """The figures that were saved."""
    figures = []
    save = plots.save_figure

    def keep(figure: Any, out: Any) -> None:
        figures.append(figure)
        save(figure, out)

    monkeypatch.setattr(plots, "save_figure", keep)
    return figures


def curves(axes: Any) -> Any:
    return {line.get_label(): line for line in axes.get_lines()}


def test_a_learning_curve_shows_the_evaluations_over_the_episodes(
    tmp_path: Any, drawn: Any
) -> None:
    plots.plot_runs([make_run(tmp_path / "run")], tmp_path / "curve.png")
    (axes,) = drawn[0].axes
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == (
        "walker_walk",
        "env steps",
        "return",
    )
    assert curves(axes)["lsp"].get_xydata().tolist() == [[5000, 50], [10000, 100]]
    assert len(axes.get_lines()[0].get_xydata()) == 10
    picture = imageio.imread(tmp_path / "curve.png")
    assert picture.shape[0] > 300
    assert picture.std() > 5
    assert not list(tmp_path.glob("*.tmp"))


def test_methods_have_their_own_colours_and_tasks_their_own_panels(
    tmp_path: Any, drawn: Any
) -> None:
    runs = [
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b"),
        make_run(tmp_path / "c", method="dreamer"),
        make_run(tmp_path / "d", task="cheetah_run"),
        make_frozen(make_run(tmp_path / "e")),
    ]
    plots.plot_runs(runs, tmp_path / "curve.png")
    other, walker = drawn[0].axes
    assert other.get_title() == "cheetah_run"
    labels = [text.get_text() for text in walker.get_legend().get_texts()]
    assert sorted(labels) == ["dreamer", "lsp (2 runs)", "lsp-frozen", "training episodes"]
    colors = {line.get_label(): line.get_color() for line in walker.get_lines()}
    assert len({colors[name] for name in ("lsp (2 runs)", "lsp-frozen", "dreamer")}) == 3


def settled(folder: Any, method: Any = "lsp", seed: Any = 0, **settings: Any) -> Any:
    """A run with all of its settings, some of them its own."""
    run = make_run(folder, method)
    config = make_config(method, "fast", task="walker_walk", seed=seed, **settings)
    (run / "config.json").write_text(json.dumps(to_dict(config.resolved())))
    return run


def labels_of(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()][:-1]  # but the episodes


def test_runs_are_labelled_by_the_settings_in_which_they_differ(tmp_path: Any, drawn: Any) -> None:
    runs = [
        settled(tmp_path / "a"),
        settled(tmp_path / "b", **{"planner.horizon": 20}),
        settled(tmp_path / "c", seed=1, **{"planner.horizon": 20, "schedule.eval_every": 7}),
        settled(tmp_path / "d", **{"planner.horizon": 20, "policy.layers": (64, 64)}),
        settled(tmp_path / "e", "dreamer"),
    ]
    ends = plots.plot_runs(runs, tmp_path / "curve.png")
    (axes,) = drawn[0].axes
    before = "policy.layers " + " ".join(map(str, make_config().policy.layers))
    assert labels_of(axes) == [
        f"lsp, {before}, planner.horizon 10",
        f"lsp, {before}, planner.horizon 20 (2 runs)",
        "lsp, policy.layers 64 64, planner.horizon 20",
        "dreamer",
    ]
    lines = curves(axes)
    assert len({lines[label].get_color() for label in labels_of(axes)}) == 4
    assert lines["dreamer"].get_color() == COLORS["dreamer"]
    assert len(ends) == 4
    note = "one run: mean ± std over episodes\nline: mean, band: lowest to highest"
    assert legend_note(axes) == note


def test_settings_that_are_the_methods_own_are_no_part_of_its_label(
    tmp_path: Any, drawn: Any
) -> None:
    runs = [settled(tmp_path / "a"), settled(tmp_path / "b", "dreamer")]
    runs += [settled(tmp_path / "c", "cem", **{"planner.horizon": 20})]
    plots.plot_runs(runs, tmp_path / "curve.png")
    assert labels_of(drawn[0].axes[0]) == ["lsp", "dreamer", "cem, planner.horizon 20"]
    paper = make_config("lsp", "paper", task="walker_walk").resolved()
    (runs[0] / "config.json").write_text(json.dumps(to_dict(paper)))
    plots.plot_runs([runs[0], settled(tmp_path / "d")], tmp_path / "curve.png")
    assert labels_of(drawn[1].axes[0]) == ["lsp, preset paper", "lsp, preset fast"]


def test_one_run_alone_is_called_by_its_method(tmp_path: Any, drawn: Any) -> None:
    plots.plot_runs([settled(tmp_path / "a", **{"planner.horizon": 20})], tmp_path / "curve.png")
    assert labels_of(drawn[0].axes[0]) == ["lsp"]


def test_tables_are_labelled_by_settings_too(tmp_path: Any, drawn: Any) -> None:
    own = {"planner.horizon": 20, "skills.dim": 5}
    runs = [
        settled(tmp_path / "a", **{"skills.dim": 5}),
        settled(tmp_path / "b", **own),
        settled(tmp_path / "c", seed=1, **own),
        settled(tmp_path / "d", "dreamer"),
    ]
    collect(runs, tmp_path / "out")
    plots.plot_results(tmp_path / "out" / "walker_walk", tmp_path / "out.png")
    lines = curves(drawn[0].axes[0])
    assert list(lines) == [
        "dreamer (proprio, fast, 1 seed)",
        "lsp, skills.dim 5 (proprio, fast, 1 seed)",
        "lsp, skills.dim 5, planner.horizon 20 (proprio, fast, 2 seeds)",
    ]
    assert len({line.get_color() for line in lines.values()}) == 3
    collect(runs[:1], tmp_path / "alike")
    plots.plot_results(tmp_path / "alike" / "walker_walk", tmp_path / "out.png")
    assert list(curves(drawn[1].axes[0])) == ["lsp (proprio, fast, 1 seed)"]


def test_colours_are_distinct_and_a_method_keeps_its_own() -> None:
    labels = ["lsp, planner.horizon 5", "lsp", "mine", "yours", "lsp, skills.dim 1", "dreamer"]
    colors = colors_of(labels)
    assert len(set(colors.values())) == len(labels)
    assert (colors["lsp"], colors["dreamer"]) == (COLORS["lsp"], COLORS["dreamer"])


def test_a_run_without_an_episode_has_no_curve(tmp_path: Any) -> None:
    run = make_run(tmp_path / "run", episodes=False)
    with pytest.raises(UserError, match="nothing to plot"):
        plots.plot_runs([run], tmp_path / "curve.png")
    assert not (tmp_path / "curve.png").exists()


def test_skill_metrics_are_drawn_and_nulls_left_out(tmp_path: Any, drawn: Any) -> None:
    plots.plot_skills(make_run(tmp_path / "run"), tmp_path / "skills.png")
    information, log_q, effect = drawn[0].axes
    assert len(curves(information)["planned z, against the batch"].get_xydata()) == 10
    assert len(curves(log_q)["log q(z | states, start)"].get_xydata()) == 0
    assert len(curves(effect)["over noise, skill fixed"].get_xydata()) == 10
    assert "z from N(0, I), forward estimator" in curves(information)
    assert (tmp_path / "skills.png").stat().st_size > 5000


def test_a_single_point_of_a_skill_metric_is_seen(tmp_path: Any, drawn: Any) -> None:
    run = make_run(tmp_path / "run")
    metrics = run / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    metrics.write_text(json.dumps(train[0]) + "\n")
    plots.plot_skills(run, tmp_path / "skills.png")
    assert curves(drawn[0].axes[0])["planned z, against the batch"].get_marker() == "o"
    metrics.write_text("\n".join(map(json.dumps, train[:2])) + "\n")
    plots.plot_skills(run, tmp_path / "skills.png")
    assert curves(drawn[1].axes[0])["planned z, against the batch"].get_marker() == "None"


def test_a_method_without_skills_has_no_skill_figure(tmp_path: Any) -> None:
    run = make_run(tmp_path / "run", method="dreamer", skills=False)
    with pytest.raises(UserError, match="no skill"):
        plots.plot_skills(run, tmp_path / "skills.png")


def test_results_show_the_mean_over_seeds_where_all_have_values(tmp_path: Any, drawn: Any) -> None:
    folder = tmp_path / "walker_walk"
    # Seed 1 is evaluated elsewhere and stops at 200; at 150 seed 0 is interpolated to 150.
    points = [
        (0, 100, 100),
        (0, 200, 200),
        (0, 300, 300),
        (1, 100, 300),
        (1, 150, 350),
        (1, 200, 0),
    ]
    table(folder, "lsp", points)
    (end,) = plots.plot_results(folder, tmp_path / "out.png")
    line, beyond = drawn[0].axes[0].get_lines()
    assert line.get_xydata().tolist() == [[100, 200], [150, 250], [200, 100]]
    assert line.get_label() == "lsp (proprio, fast, 2 seeds)"
    assert beyond.get_xydata().tolist() == [[200, 200], [300, 300]]
    assert end == f"{line.get_label()}, after 200 env steps: " + (
        "mean of 2 100.0, lowest to highest 0.0 to 200.0"
    )
    assert legend_note(drawn[0].axes[0]) == "line: mean, band: lowest to highest"
    low_high = drawn[0].axes[0].collections[0].get_paths()[0].get_extents()
    assert (low_high.y0, low_high.y1) == (0, 350)


def legend_note(axes: Any) -> str:
    text: str = axes.get_legend().get_title().get_text()
    return text


def test_bands_are_labelled_as_what_they_are(tmp_path: Any, drawn: Any) -> None:
    folder = tmp_path / "walker_walk"
    scores = [0.0, 100, 110, 120, 1000]
    table(folder, "lsp", [(seed, 100, value) for seed, value in enumerate(scores)])
    table(folder, "dreamer", [(seed, 100, value) for seed, value in enumerate(scores[:4])])
    table(folder, "cem", [(0, 100, 5)])
    plots.plot_results(folder, tmp_path / "out.png")
    axes = drawn[0].axes[0]
    assert legend_note(axes) == (
        "below 5 runs: mean, lowest to highest\nfrom 5 runs: IQM, 95 % bootstrap interval"
    )
    ends = {name.split()[0]: line.get_ydata()[-1] for name, line in curves(axes).items()}
    assert ends == {"lsp": 110, "dreamer": 82.5, "cem": 5}


def test_returns_are_drawn_against_hours(tmp_path: Any, drawn: Any) -> None:
    folder = tmp_path / "walker_walk"
    rows = [
        ("proprio", "fast", 0, 100 * h, 7.0 * h, 1, "", 10, "", h, 1, "", "abc") for h in (1, 2)
    ]
    write_csv(folder / "lsp.csv", HEADER, rows)
    (end,) = plots.plot_results(folder, tmp_path / "out.png", unit="hours")
    (axes,) = drawn[0].axes
    assert axes.get_lines()[0].get_xydata().tolist() == [[1, 7], [2, 14]]
    assert axes.get_xlabel() == "hours of training"
    assert end.endswith("after 2.00 hours: 14.0, one run")
    write_csv(folder / "lsp.csv", HEADER, [(*rows[0][:9], "", *rows[0][10:])])
    with pytest.raises(UserError, match="no returns against hours"):
        plots.plot_results(folder, tmp_path / "out.png", unit="hours")


def test_runs_are_drawn_against_hours_too(tmp_path: Any, drawn: Any) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(UserError, match="nothing to plot"):
        plots.plot_runs([run], tmp_path / "curve.png", "hours")
    logger = MetricsLogger(run)
    logger.write("eval", 20_000, {"eval/return": 9.0, "eval/std": 1.0, "wall_hours": 0.5})
    logger.close()
    (end,) = plots.plot_runs([run], tmp_path / "curve.png", "hours")
    (line,) = drawn[0].axes[0].get_lines()
    assert line.get_xydata().tolist() == [[0.5, 9]]
    assert end == "lsp, after 0.50 hours: 9.0, one run"


def test_a_published_grid_of_100k_is_drawn_as_points(tmp_path: Any, drawn: Any) -> None:
    folder = tmp_path / "walker_walk"
    table(folder, "lsp", [(0, 10_000, 50), (0, 150_000, 80)])
    header = ("algorithm", "task", "obs", "env_steps", "seed", "score", "source")
    rows = [
        ("tdmpc2", "walker_walk", "proprio", 100_000 * k, seed, 10 * k + seed, "coarse")
        for k in range(4)
        for seed in (1, 3)
    ]
    rows += [("sac", "walker_walk", "proprio", 50_000 * k, 0, k, "fine") for k in range(5)]
    reference = write_csv(tmp_path / "published.csv", header, rows)
    plots.plot_results(folder, tmp_path / "out.png", reference)
    lines = curves(drawn[0].axes[0])
    points = lines["tdmpc2, published (proprio, coarse, 2 seeds)"]
    assert points.get_linestyle() == "None"
    assert points.get_xydata().tolist() == [[0, 2], [100_000, 12]]  # none beyond our steps
    assert lines["sac, published (proprio, fine, 1 seed)"].get_linestyle() != "None"


def test_the_kind_of_run_that_most_curves_are_of_is_solid(tmp_path: Any, drawn: Any) -> None:
    folder = tmp_path / "walker_walk"
    for method, observed in (("dreamer", ("pixels", "proprio")), ("lsp", ("proprio",))):
        rows = [(obs, "fast", 0, 100, 1.0, 1, "", 10, "", 1, 1, "", "abc") for obs in observed]
        write_csv(folder / f"{method}.csv", HEADER, rows)
    plots.plot_results(folder, tmp_path / "out.png")
    dashes = {name: line.get_linestyle() for name, line in curves(drawn[0].axes[0]).items()}
    assert dashes == {
        "dreamer (pixels, fast, 1 seed)": "--",
        "dreamer (proprio, fast, 1 seed)": "-",
        "lsp (proprio, fast, 1 seed)": "-",
    }


def test_transfers_are_drawn_by_skill_length_over_the_line_of_standing_still(
    tmp_path: Any, drawn: Any
) -> None:
    folder = tmp_path / "quadruped_reach" / "transfer_from_quadruped_upright_walk"
    rows = [
        (
            "proprio",
            "fast",
            0,
            100,
            value,
            1,
            "",
            10,
            "",
            1,
            1,
            "",
            "abc",
            250000,
            length,
            4 * length,
        )
        for value, length in ((5, 10), (7, 30))
    ]
    write_csv(folder / "lsp-frozen.csv", TRANSFER_HEADER, rows)
    plots.plot_results(folder, tmp_path / "out.png")
    (axes,) = drawn[0].axes
    assert axes.get_title() == "quadruped_upright_walk → quadruped_reach"
    lines = curves(axes)
    assert lines["standing still"].get_ydata()[0] == 312
    for value, length in ((5, 10), (7, 30)):
        label = f"lsp-frozen (proprio, fast, after 250,000, K {length}, H {4 * length}, 1 seed)"
        assert lines[label].get_xydata().tolist() == [[100, value]]


def test_published_curves_are_those_of_the_task_and_clipped_to_our_steps(
    tmp_path: Any, drawn: Any
) -> None:
    folder = tmp_path / "walker_walk"
    table(folder, "lsp", [(0, 10000, 50), (0, 20000, 80)])
    header = ("algorithm", "task", "obs", "env_steps", "seed", "score", "source")
    rows = [
        ("tdmpc2", "walker_walk", "proprio", e, 1, e / 100, "a/b") for e in (0, 15000, 30000, 45000)
    ]
    rows += [("tdmpc2", "walker_run", "proprio", 0, 1, 9, "a/b")]
    rows += [("drq", "walker_walk", "pixels", 0, 1, 9, "a/b")]
    reference = write_csv(tmp_path / "published.csv", header, rows)
    plots.plot_results(folder, tmp_path / "out.png", reference)
    lines = curves(drawn[0].axes[0])
    published = lines.pop("tdmpc2, published (proprio, a/b, 1 seed)")
    assert published.get_xydata()[:, 0].tolist() == [0, 15000, 30000]
    assert list(lines) == ["lsp (proprio, fast, 1 seed)"]
    assert np.isclose(drawn[0].axes[0].get_xlim()[1], 20400)


@pytest.mark.parametrize("reference", ["missing.csv", "other.csv", "words.csv"])
def test_a_reference_that_is_none_is_reported(tmp_path: Any, reference: Any) -> None:
    write_csv(tmp_path / "other.csv", ("a", "b"), [(1, 2)])
    header = ("algorithm", "task", "obs", "env_steps", "seed", "score", "source")
    row = ("dreamer", "walker_walk", "proprio", 1000, 0, "abc", "somewhere")
    write_csv(tmp_path / "words.csv", header, [row])
    table(tmp_path / "walker_walk", "lsp", [(0, 1, 1)])
    with pytest.raises(UserError, match=reference):
        plots.plot_results(tmp_path / "walker_walk", tmp_path / "o.png", tmp_path / reference)


def test_a_folder_without_tables_is_reported(tmp_path: Any) -> None:
    with pytest.raises(UserError, match=r"no results.*lsp collect"):
        plots.plot_results(tmp_path, tmp_path / "out.png")
    (tmp_path / "transfer_from_walker_walk").mkdir()
    with pytest.raises(UserError, match=r"no results.*draw .*transfer_from_walker_walk"):
        plots.plot_results(tmp_path, tmp_path / "out.png")


def test_only_pictures_can_be_written(tmp_path: Any) -> None:
    with pytest.raises(UserError, match=r"\.png"):
        plots.plot_runs([make_run(tmp_path / "run")], tmp_path / "curve.doc")
