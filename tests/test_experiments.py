"""Sweeps and the paper's figures: what a run is called, and what a sweep lists."""

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lsp.cli.main import _parse, main
from lsp.config import (
    METHODS,
    RuntimeConfig,
    TransferConfig,
    flattened,
    make_config,
    to_dict,
)
from lsp.errors import UserError
from lsp.experiments.sweep.execution import Execution, cores
from lsp.experiments.sweep.planned_run import PlannedRun, grid, parse_seeds, unique
from lsp.experiments.sweep.worker import perform

RUNTIME = RuntimeConfig(threads=1, compile=False)


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
