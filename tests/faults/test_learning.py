"""Rows 10 and 14: learning that goes wrong, and runs that are resumed as something else."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import command, steps_saved, train_here

from lsp.cli.main import main
from lsp.runs.checkpoint import load, save
from lsp.runs.files import read_arrays


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    train_here(folder, 400)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def fails(arguments: Any, capsys: Any) -> Any:
    """The line of the error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(each) for each in arguments])
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def all_checkpoints(run: Any) -> Any:
    return {path: load(path) for path in sorted((run / "checkpoints").glob("step-*"))}


def assert_finite(run: Any) -> None:
    for checkpoint in all_checkpoints(run).values():
        for name in ("networks", "optimizers"):
            for tensor in checkpoint.tensors[name].values():
                assert torch.isfinite(tensor).all()


def test_row_10_nan_in_a_loss_stops_and_keeps_the_batch(
    tmp_path: Any, capsys: Any, figure: Any
) -> None:
    run = tmp_path / "run"
    said = fails(command(run, 5000, model__learning_rate="1e30"), capsys)
    assert "not finite in update" in said
    assert str(run / "not_finite.npz") in said
    batch = read_arrays(run / "not_finite.npz")
    assert batch["reward"].shape == (4, 8)
    assert {"obs/position", "action", "is_first"} <= batch.keys()
    assert all_checkpoints(run)
    assert_finite(run)
    figure(10, "NaN in a loss, and in an action: stopped, batch kept, never checkpointed")


def test_row_10_nan_in_an_action_stops_and_keeps_what_was_seen(run: Any, capsys: Any) -> None:
    path, checkpoint = list(all_checkpoints(run).items())[-1]
    weights = checkpoint.tensors["networks"]
    for name in weights:
        if name.startswith("policy"):
            weights[name] = torch.full_like(weights[name], float("nan"))
    save(path.parent, checkpoint._replace(facts=checkpoint.facts | {"updates": 10**6}))
    before = steps_saved(run)
    said = fails(command(run, 5000), capsys)
    assert "the agent's action at env step" in said
    seen = read_arrays(run / "not_finite.npz")
    assert np.isnan(seen["next_action"]).all()
    assert np.isfinite(seen["obs/position"]).all()
    assert steps_saved(run) == before


def test_row_14_another_task_or_setting_is_named_and_forced_where_it_can_be(
    run: Any, capsys: Any, figure: Any
) -> None:
    other = {"policy__learning_rate": 1e-3, "planner__num_elites": 1}
    said = fails(command(run, 600, **other), capsys)
    assert "policy.learning_rate: 8e-05 → 0.001" in said
    assert "planner.num_elites: 2 → 1" in said
    assert "--force" in said
    main([*command(run, 600, **other), "--force"])
    warned = capsys.readouterr().err
    assert "resumes with other settings (policy.learning_rate: 8e-05 → 0.001" in warned
    assert steps_saved(run)[0] >= 600
    main(command(run, 600, **other))  # which is what it is from now on
    other |= {"num_envs": 2}  # the episode under way has no place among these
    main([*command(run, 800, **other), "--force"])
    assert steps_saved(run)[0] >= 800
    figure(14, "differing fields named; --force goes on with other rates, planner, environments")


def test_row_14_force_does_not_go_on_where_it_cannot(run: Any, capsys: Any) -> None:
    for changes, word in (
        ({"model__deter": 20}, "does not fit these settings"),
        ({"method": "dreamer"}, "does not fit these settings"),
        ({"skills__dim": 5}, "does not fit these settings: RuntimeError"),
        ({"task": "cartpole_balance"}, "does not fit these settings"),
    ):
        kept = [run / name for name in ("config.json", "spaces.json")]
        before = [path.read_bytes() for path in kept], steps_saved(run)
        said = fails([*command(run, 600, **changes), "--force"], capsys)
        assert word in said
        assert ([path.read_bytes() for path in kept], steps_saved(run)) == before


def test_row_14_another_schema_of_settings_is_named(run: Any, capsys: Any) -> None:
    config = json.loads((run / "config.json").read_text())
    config["planner"]["depth"] = config["planner"].pop("horizon")
    (run / "config.json").write_text(json.dumps(config))
    said = fails(command(run, 600), capsys)
    assert "planner: unknown or missing settings: depth, horizon" in said
    assert "--force" in said
    main([*command(run, 600), "--force"])
    assert "unknown or missing settings: depth, horizon" in capsys.readouterr().err
    assert steps_saved(run)[0] >= 600


def test_row_14_another_schema_of_checkpoints_is_named(run: Any, capsys: Any) -> None:
    for path in all_checkpoints(run):
        (path / "manifest.json").write_text('{"schema": 9}')
    said = fails(command(run, 600), capsys)
    assert "checkpoint schema 9, this version of lsp reads 2" in said


def test_row_14_transfer_to_other_observations_names_both(
    run: Any, tmp_path: Any, capsys: Any
) -> None:
    to = ["--logdir", tmp_path / "to", "--task", "cartpole_balance"]
    said = fails(["transfer", run, *to], capsys)
    assert "nothing can be carried over" in said or "its weights are not those" in said
