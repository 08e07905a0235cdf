"""Sweeps and the paper's figures: what a run is called, who carries it out, what is drawn."""

import csv
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import short_run, source_of
from forked import Forked, sweep_worker
from unchecked import unchecked

from lsp.cli.main import _parse, main
from lsp.config import (
    METHODS,
    RuntimeConfig,
    TransferConfig,
    flattened,
    make_config,
    on_another_task,
    to_dict,
    validated,
)
from lsp.envs import arena
from lsp.envs.quadruped import GOAL_RADIUS, Measurements
from lsp.errors import RunWarning, UserError
from lsp.experiments.figures import curves, definitions, skill_pictures, trajectories
from lsp.experiments.figures.definitions import SCALES, TARGETS, Scale
from lsp.experiments.figures.evaluations import Records
from lsp.experiments.figures.reproduce import draw, find_targets, runs_of
from lsp.experiments.figures.trajectories import draw_ways, episode_states, first_ways, last_ways
from lsp.experiments.sweep import local_engine, worker
from lsp.experiments.sweep.estimate import elapsed, hours, listing
from lsp.experiments.sweep.execution import Execution, cores
from lsp.experiments.sweep.planned_run import Outcome, PlannedRun, grid, parse_seeds, unique
from lsp.experiments.sweep.progress_screen import Screen, last_line
from lsp.experiments.sweep.worker import perform
from lsp.report import plots
from lsp.report.tables import collect
from lsp.runs.files import write_json
from lsp.runs.metrics import MetricsLogger, read_metrics
from lsp.training.episode_files import write_episodes
from lsp.training.transfer import transferred

RUNTIME = RuntimeConfig(threads=1, compile=False)

RUN = "0123456789abcdef"


def debug_run(steps: Any = 1000, method: Any = "lsp", **changes: Any) -> PlannedRun:
    return PlannedRun(make_config(method, "debug", task="walker_walk", **changes), steps)


def settled_run(settings: dict[str, Any]) -> PlannedRun:
    return debug_run(**settings)


def brief(steps: int, task: str = "walker_walk", source: Any = None, **changes: Any) -> PlannedRun:
    """Of 50 agent steps an episode, also in a process of its own, and evaluated once."""
    settings = {"action_repeat": 20, "schedule.prior_episodes": 0} | changes
    return PlannedRun(make_config("lsp", "debug", task=task, **settings), steps, source)


def call(command: str) -> None:
    main(shlex.split(command))


@pytest.fixture
def forked(monkeypatch: Any) -> None:
    """The local engine's processes, without what each takes to start: other tests start them."""

    def start(run: Any, storage: Any, runtime: Any) -> Any:
        given = worker.job(run, storage, runtime)
        return Forked(sweep_worker, [], run.log(storage), Path.cwd(), os.environ, given)

    monkeypatch.setattr(local_engine, "_start", start)


def perform_here(runs: Any, storage: Any) -> None:
    """An engine for tests: this process, which has imported everything already."""
    argv = sys.argv
    for run in runs:
        perform(run, storage.resolve(), RUNTIME, lambda line: None)
    sys.argv = argv


# Names


def test_the_name_of_a_run_stays() -> None:
    # Another name would have everybody's runs done again.
    assert debug_run().name == "walker_walk-lsp-debug-s0-99341206"
    fast = make_config("dreamer", "fast", task="walker_walk")
    assert PlannedRun(fast, 1).name == "walker_walk-dreamer-fast-s0-47e85372"


def test_a_name_says_which_settings_are_not_the_methods_own(tmp_path: Any) -> None:
    run = settled_run({"planner.horizon": 5, "policy.layers": (8, 4), "seed": 3})
    own = "policy.layers_8x4-planner.horizon_5"
    assert run.name == f"walker_walk-lsp-debug-s3-{own}-{run._key}"
    every = {f"{part}.learning_rate": 1e-9 for part in ("model", "policy", "value", "skills")}
    many = settled_run(every | {"optimizer.epsilon": 0.1, "optimizer.clip": 0.123})
    assert len(many.name) < 200
    odd = settled_run({"model.untransformed": ("goal/../x", "y z")}).name
    assert Path(odd).name == odd


def test_a_folder_that_was_named_before_is_taken(tmp_path: Any) -> None:
    run = settled_run({"planner.horizon": 5})
    assert run.folder(tmp_path) == tmp_path / run.name
    former = tmp_path / f"walker_walk-lsp-debug-s0-{run._key}"
    former.mkdir()
    assert run.folder(tmp_path) == former
    assert debug_run().folder(tmp_path) != former


def test_the_length_is_no_part_of_the_name() -> None:
    assert debug_run(1000).name == debug_run(2000).name


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"obs": "pixels"}, {"action_repeat": 1}, {"task": "walker_run"}]
)
def test_every_setting_is_part_of_the_name(changes: Any) -> None:
    config = debug_run().config
    nested = replace(config, planner=replace(config.planner, horizon=20))
    names = {
        debug_run().name,
        PlannedRun(replace(config, **changes), 1).name,
        PlannedRun(nested, 1).name,
    }
    assert len(names) == 3


def test_a_transfer_is_named_by_its_source_and_the_length_of_that() -> None:
    config = make_config("lsp", "debug", task="walker_run")
    sources = [None, debug_run(1000), debug_run(2000), debug_run(1000, seed=1)]
    assert len({PlannedRun(config, 500, source).name for source in sources}) == 4


def test_a_shared_run_is_done_once_for_its_longest_length() -> None:
    source = debug_run(1000)
    transfer = PlannedRun(make_config("lsp", "debug", task="walker_run"), 500, source)
    runs = unique([debug_run(400), transfer, debug_run(200)])
    assert [(run.name, run.steps) for run in runs] == [(source.name, 1000), (transfer.name, 500)]


@pytest.mark.parametrize("method", METHODS)
def test_the_command_of_a_run_gives_its_settings(method: Any, tmp_path: Any) -> None:
    source = debug_run(method=method)
    config = replace(
        source.config,
        task="walker_run",
        transfer=TransferConfig(relabel=True, reset=("value",)),
        value=replace(source.config.value, layer_norm=False),
        policy=replace(source.config.policy, layers=(8, 4)),
        behavior=replace(source.config.behavior, num_starts=None, lambda_=0.5),
    )
    run = PlannedRun(config, 700, source)
    parsed: Any = _parse(run.command(tmp_path))
    assert parsed.config == run.settings(tmp_path)
    assert (parsed.steps, parsed.logdir) == (700, run.folder(tmp_path))


def test_a_run_survives_the_way_to_another_process() -> None:
    run = PlannedRun(make_config("dreamer", "debug", task="walker_run"), 500, debug_run())
    assert PlannedRun.from_dict(run.to_dict()) == run


@pytest.mark.parametrize(("text", "seeds"), [("0-2", [0, 1, 2]), ("3", [3]), ("0-1,5", [0, 1, 5])])
def test_seeds_are_ranges_and_lists(text: Any, seeds: Any) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "4-0", "0-9999999999"])
def test_seeds_that_are_none_are_refused(text: Any) -> None:
    with pytest.raises(UserError, match="--seeds"):
        parse_seeds(text)


# The grid


def test_flags_change_each_methods_own_settings() -> None:
    sweep: Any = _parse(shlex.split("sweep --preset debug --method lsp,dreamer --skills.layers 8"))
    lsp, dreamer = sweep.configs
    assert (lsp.skills.dim, dreamer.skills.dim) == (3, 0)
    assert lsp.skills.layers == dreamer.skills.layers == (8,)


def settings_of(command: str, *names: str) -> list[Any]:
    """Some settings of each of a sweep's configs."""
    sweep: Any = _parse(shlex.split(command))
    found = []
    for config in sweep.configs:
        flat = flattened(to_dict(config))
        found.append(tuple(flat[name] for name in names))
    return found


def test_lists_of_settings_are_crossed_with_each_other_and_with_methods() -> None:
    command = "sweep --preset debug --method lsp,dreamer --planner.horizon 5,10 --skills.dim=2,4"
    found = settings_of(command, "method", "planner.horizon", "skills.dim")
    assert found == [
        *(("lsp", 5, 2), ("dreamer", 5, 2), ("lsp", 5, 4), ("dreamer", 5, 4)),
        *(("lsp", 10, 2), ("dreamer", 10, 2), ("lsp", 10, 4), ("dreamer", 10, 4)),
    ]


@pytest.mark.parametrize(
    ("flags", "name", "values"),
    [
        ("--policy.layers 64 64,32", "policy.layers", [(64, 64), (32,)]),
        ("--policy.layers '64 64, 32'", "policy.layers", [(64, 64), (32,)]),
        ("--policy.layers 64 64", "policy.layers", [(64, 64)]),
        ("--model.decoder-std 0.1 0.5,0.2 1", "model.decoder_std", [(0.1, 0.5), (0.2, 1.0)]),
        ("--value.layer-norm true,false", "value.layer_norm", [True, False]),
        ("--value.layer-norm", "value.layer_norm", [True]),
        ("--model.termination None,False", "model.termination", [None, False]),
        (r"--model.untransformed 'a\,b c,d'", "model.untransformed", [("a,b", "c"), ("d",)]),
        ("--planner.skill-length 3,4", "planner.skill_length", [3, 4]),
        ("--planner.skill_length 3", "planner.skill_length", [3]),
    ],
)
def test_commas_separate_and_spaces_belong_together(flags: Any, name: Any, values: Any) -> None:
    found = [each for (each,) in settings_of(f"sweep --preset debug {flags}", name)]
    assert found == values


def test_a_sweep_of_settings_lists_folders_named_after_them(tmp_path: Any, capsys: Any) -> None:
    call(f"sweep --preset debug --planner.horizon 5,7 --seeds 0-1 --storage {tmp_path} --dry-run")
    lines = [x for x in capsys.readouterr().out.splitlines() if "env steps  walker" in x]
    assert len(lines) == 4
    assert [sum(f"planner.horizon_{h}-" in x for x in lines) for h in (5, 7)] == [2, 2]


def test_a_grid_is_tasks_times_methods_times_seeds() -> None:
    configs = [make_config(method, "debug") for method in ("lsp", "dreamer")]
    runs = grid(configs, ["walker_walk", "walker_run"], [0, 1], 100)
    assert len({run.name for run in runs}) == len(runs) == 8
    assert [run.config.seed for run in runs] == [0] * 4 + [1] * 4


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


def test_a_dry_run_lists_and_does_nothing(tmp_path: Any, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("lsp.backends.hardware.bf16_features", lambda: ["amx_bf16"])
    storage = tmp_path / "runs"
    settings = "--task walker_walk,walker_run --method lsp,dreamer --seeds 0-2 --steps 126000"
    call(f"sweep {settings} --storage {storage} --jobs 2 --dry-run")
    said = capsys.readouterr().out
    assert said.count("env steps  walker_") == 12
    # 6 · 126000 / 60 s and 6 · 126000 / 110 s.
    assert "12 runs, 12 to do: 5.4 hours of one thread, about 2.7 hours with 2 at once" in said
    assert not storage.exists()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("sweep --method lsp,dreamr", "unknown method 'dreamr'"),
        ("sweep --seeds x --dry-run", "--seeds x"),
        ("sweep --seed 3 --dry-run", "--seeds, such as 0-4"),
        ("sweep --steps -5 --dry-run", "steps must be at least 0"),
        ("sweep --planner.horizon 5,,10 --dry-run", "--planner.horizon 5,,10: a list has no empty"),
        ("sweep --planner.horizon 5,far --dry-run", "far"),
        ("sweep --planner.horizon 5,0 --dry-run", "horizon (H) must be at least 1"),
        ("sweep --value.layer-norm on,off --dry-run", "give true,false"),
        ("sweep --preset debug,fast --dry-run", "unknown preset 'debug,fast'"),
        ("sweep --task walker_walk, --dry-run", "Unknown task ''"),
        ("sweep --task walker_wlak --dry-run", "Did you mean"),
        ("reproduce fig6b --scale debug --tables nosuch", "no folder of tables"),
        ("reproduce fig6b --scale debug --out pyproject.toml", "pyproject.toml"),
        ("sweep --jobs 0 --dry-run", "--jobs"),
        ("sweep --threads 0 --preset debug --steps 9", "threads must be"),
        ("sweep --address auto --preset debug --steps 9", "--engine ray"),
        ("reproduce fig3 --scale small", "no such target 'fig3'"),
        ("reproduce fig4 --scale huge", "unknown scale 'huge'"),
    ],
)
def test_mistakes_are_one_line(command: Any, says: Any, capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        call(command)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_threads_share_the_cores() -> None:
    assert Execution(jobs=1).runtime(RuntimeConfig()).threads == cores()
    assert Execution(jobs=10 * cores()).runtime(RuntimeConfig()).threads == 1
    assert Execution().runtime(RuntimeConfig(threads=3)).threads == 3


# Carrying runs out


def test_a_sweep_trains_what_is_missing_and_only_that(
    tmp_path: Any, capsys: Any, forked: Any
) -> None:
    command = (
        "sweep --preset debug --task walker_walk --method lsp,dreamer --steps 60 --jobs 2 "
        "--action-repeat 20 "
        f"--storage {tmp_path}"
    )
    call(command)
    folders = sorted(tmp_path.glob("walker_walk-*"))
    assert [folder.name.split("-")[1] for folder in folders] == ["dreamer", "lsp"]
    before = [(folder / "metrics.jsonl").stat().st_mtime_ns for folder in folders]
    assert "(2 of 2)" in capsys.readouterr().out
    call(command)
    assert [(folder / "metrics.jsonl").stat().st_mtime_ns for folder in folders] == before
    assert capsys.readouterr().out == "Nothing to do: all runs are done.\n"


class Killing(Screen):
    """Kills a run's process once, as soon as there is a checkpoint."""

    def __init__(self, storage: Any, pool_running: Any) -> None:
        super().__init__(storage, 1, None)
        self.processes = pool_running
        self.lines: list[str] = []

    def say(self, line: Any) -> None:
        self.lines.append(line)


def test_a_killed_process_goes_on_from_its_checkpoint(
    tmp_path: Any, forked: Any, monkeypatch: Any
) -> None:
    started, start = [], local_engine._start

    def remember(run: Any, storage: Any, runtime: Any) -> Any:
        started.append(start(run, storage, runtime))
        return started[-1]

    monkeypatch.setattr(local_engine, "_start", remember)
    screen = Killing(tmp_path, started)

    def kill(running: Any) -> None:
        if len(started) == 1 and run.reached(tmp_path) >= 1000:
            started[0].kill()

    screen.update = kill  # type: ignore[method-assign]
    (tmp_path / "logs").mkdir()
    run = brief(2000)
    outcome = local_engine.run_locally([run], tmp_path, 1, RUNTIME, screen)
    assert outcome == Outcome({}, False)
    assert len(started) == 2
    assert run.finished(tmp_path)
    assert "died (exit -9)" in screen.lines[0]
    assert "on from 0 env steps" not in screen.lines[0]
    steps = [x["env_steps"] for x in read_metrics(run.folder(tmp_path)) if x["kind"] == "train"]
    assert steps == list(range(200, 2001, 200))


def test_a_run_that_cannot_be_done_is_one_line_and_the_others_go_on(
    tmp_path: Any, capsys: Any, forked: Any
) -> None:
    runs = [brief(200, "walker_wak"), brief(200)]
    transfer = brief(200, "walker_run", runs[0])
    outcome = Execution(storage=tmp_path, jobs=2).carry_out([*runs, transfer], RUNTIME)
    assert set(outcome.failed) == {runs[0].name, transfer.name}
    assert "Unknown task 'walker_wak'" in outcome.failed[runs[0].name]
    assert "its source" in outcome.failed[transfer.name]
    assert runs[1].finished(tmp_path)
    assert capsys.readouterr().out.count("failed: ") == 2


def test_a_transfer_waits_for_its_source_and_starts_from_it(tmp_path: Any, forked: Any) -> None:
    source = brief(400)
    config = on_another_task(source.config, "walker_run", TransferConfig())
    transfer = PlannedRun(config, 200, source)
    outcome = Execution(storage=tmp_path, jobs=2).carry_out([source, transfer], RUNTIME)
    assert outcome == Outcome({}, False)
    assert transfer.finished(tmp_path)
    # What `lsp transfer` would have recorded.
    expected = transferred(source.folder(tmp_path), "walker_run")
    assert transfer.settings(tmp_path).resolved() == expected


def test_a_source_of_another_length_is_refused(tmp_path: Any, short_episodes: Any) -> None:
    perform_here([brief(400)], tmp_path)
    transfer = brief(200, "walker_run", brief(200))
    with pytest.raises(UserError, match=r"trained for 400 env steps, and .* starts from 200"):
        perform_here([transfer], tmp_path)


def test_a_source_whose_end_is_damaged_is_refused(tmp_path: Any, short_episodes: Any) -> None:
    source = brief(400)
    perform_here([source], tmp_path)
    newest = source.folder(tmp_path) / "checkpoints" / "step-000000400"
    (newest / "networks.safetensors").write_bytes(b"damaged")
    transfer = brief(200, "walker_run", source)
    with (
        pytest.warns(RunWarning, match="resuming from step"),
        pytest.raises(UserError, match=r"newest is damaged.*remove it"),
    ):
        perform_here([transfer], tmp_path)
    assert not transfer.folder(tmp_path).exists()


def test_the_source_of_a_sweep_is_a_run_however_it_is_spelled(
    tmp_path: Any, monkeypatch: Any, capsys: Any, short_episodes: Any
) -> None:
    perform_here([brief(20)], tmp_path)
    monkeypatch.chdir(tmp_path)
    name = brief(20).name
    for source in (name, f"./{name}", str(tmp_path / name)):
        call(f"sweep --preset debug --transfer.source {source} --dry-run")
    said = capsys.readouterr().out
    assert len({line for line in said.splitlines() if "env steps  walker" in line}) == 1
    with pytest.raises(SystemExit):
        call("sweep --transfer.source nowhere --dry-run")
    assert "nowhere is not a run" in capsys.readouterr().err


# Ray's own processes take half a minute to come and go.
STOPPED_BY = [
    ("local", signal.SIGINT),
    pytest.param("local", signal.SIGTERM, marks=pytest.mark.slow),
    pytest.param("ray", signal.SIGTERM, marks=pytest.mark.slow),
    pytest.param("ray", signal.SIGINT, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("engine", "number"), STOPPED_BY)
def test_a_signal_saves_every_run(tmp_path: Any, engine: Any, number: Any) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    command = (
        "sweep --preset debug --task walker_walk --seeds 0-1 --steps 1000000 --jobs 2 "
        f"--engine {engine} "
        f"--storage {tmp_path}"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "lsp", *shlex.split(command)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    logs = [tmp_path / "logs" / f"{debug_run(seed=seed).name}.log" for seed in (0, 1)]
    deadline = time.monotonic() + 120
    while not all("env steps" in last_line(log) for log in logs) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Stopped and saved" in said
    for seed in (0, 1):
        assert debug_run(seed=seed).reached(tmp_path) > 0


def test_two_processes_do_not_train_the_same_run_at_once(tmp_path: Any, forked: Any) -> None:
    run = brief(600)
    (tmp_path / "logs").mkdir()
    processes = [local_engine._start(run, tmp_path, RUNTIME) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    steps = [x["env_steps"] for x in read_metrics(run.folder(tmp_path)) if x["kind"] == "train"]
    assert steps == [200, 400, 600]


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
