import csv
import json
from dataclasses import replace
from typing import Any

import pytest

from lsp.config import METHODS, TransferConfig, make_config, on_another_task, to_dict
from lsp.errors import UserError
from lsp.report.settings import joined, own_settings, parsed
from lsp.report.tables import collect, read_table
from lsp.runs.folder import RunFolder
from lsp.runs.metrics import MetricsLogger

HEADER = (
    "obs,preset,seed,env_steps,eval_return,eval_std,success,episodes,prior_return,wall_hours,"
    "threads,precision,commit"
)
EVAL = {"eval/return": 400.256, "eval/std": 20.0, "eval/success": None, "eval/episodes": 10}


def make_run(
    folder: Any,
    evals: Any,
    *,
    seed: Any = 0,
    method: Any = "lsp",
    task: Any = "walker_walk",
    dirty: Any = False,
    **changes: Any,
) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    config = {"task": task, "method": method, "preset": "fast", "seed": seed, "obs": "proprio"}
    (folder / "config.json").write_text(json.dumps(config | {"model": {"deter": 96}} | changes))
    command = f"lsp train --task {task} --seed {seed}"
    info = {"command": command, "commit": "abc123", "dirty": dirty, "threads": 1, "device": "cpu"}
    info["precision"] = "float32"
    (folder / "run.json").write_text(json.dumps(info | {"versions": {"torch": "2.13.0"}}))
    logger = MetricsLogger(folder)
    logger.write("train", 500, {"model/kl": 1.0})
    for env_steps, value in evals:
        logger.write("eval", env_steps, EVAL | {"eval/return": value, "wall_hours": 0.25})
    logger.close()
    return folder


def rows(out: Any, method: Any = "lsp") -> Any:
    with (out / "walker_walk" / f"{method}.csv").open() as file:
        return [(row["seed"], row["env_steps"], row["eval_return"]) for row in csv.DictReader(file)]


def test_the_table_has_the_agreed_header_and_one_row_an_evaluation(tmp_path: Any) -> None:
    run = make_run(tmp_path / "run", [(20000, 450), (10000, 400.256)])
    collect([run], tmp_path / "out")
    assert (tmp_path / "out" / "walker_walk" / "lsp.csv").read_text().splitlines() == [
        HEADER,
        "proprio,fast,0,10000,400.26,20.00,,10,,0.2500,1,float32,abc123",
        "proprio,fast,0,20000,450.00,20.00,,10,,0.2500,1,float32,abc123",
    ]


def test_a_dirty_checkout_shows_in_the_commit(tmp_path: Any) -> None:
    collect([make_run(tmp_path / "run", [(1, 1)], dirty=True)], tmp_path / "out")
    (row,) = read_table(tmp_path / "out" / "walker_walk" / "lsp.csv")
    assert row["commit"] == "abc123+dirty"


def test_success_is_written_where_the_task_has_a_goal(tmp_path: Any) -> None:
    run = make_run(tmp_path / "run", [])
    logger = MetricsLogger(run)
    logger.write("eval", 5, EVAL | {"eval/success": 0.7})
    logger.close()
    collect([run], tmp_path / "out")
    (row,) = read_table(tmp_path / "out" / "walker_walk" / "lsp.csv")
    assert row["success"] == "0.700"


def test_a_run_collected_again_replaces_its_rows_and_leaves_the_others(tmp_path: Any) -> None:
    out = tmp_path / "out"
    collect([make_run(tmp_path / "a", [(100, 1), (200, 2)], seed=10)], out)
    collect([make_run(tmp_path / "b", [(100, 3)], seed=2)], out)
    collect([make_run(tmp_path / "c", [(300, 9)], seed=10)], out)
    assert rows(out) == [("2", "100", "3.00"), ("10", "300", "9.00")]


def test_of_two_evaluations_at_one_step_the_later_counts(tmp_path: Any) -> None:
    collect([make_run(tmp_path / "run", [(100, 1), (100, 2)])], tmp_path / "out")
    assert rows(tmp_path / "out") == [("0", "100", "2.00")]


def test_several_runs_at_once(tmp_path: Any) -> None:
    runs = [make_run(tmp_path / f"{seed}", [(100, seed)], seed=seed) for seed in (1, 0)]
    runs.append(make_run(tmp_path / "dreamer", [(100, 5)], method="dreamer"))
    collect(runs, tmp_path / "out")
    assert rows(tmp_path / "out") == [("0", "100", "0.00"), ("1", "100", "1.00")]
    assert rows(tmp_path / "out", "dreamer") == [("0", "100", "5.00")]


def test_commands_are_kept_once_a_run(tmp_path: Any) -> None:
    runs = [make_run(tmp_path / f"{seed}", [(100, seed)], seed=seed) for seed in (10, 2)]
    collect(runs, tmp_path / "out")
    path = tmp_path / "out" / "walker_walk" / "commands.md"
    once = path.read_text()
    collect(runs[:1], tmp_path / "out")
    assert path.read_text() == once
    assert once.index("seed 2\n") < once.index("seed 10\n")
    assert once.count("\nlsp train --task walker_walk --seed 2\n") == 1
    assert "commit abc123, threads 1, cpu, products in float32, torch 2.13.0" in once
    info = json.loads((runs[1] / "run.json").read_text())
    (runs[1] / "run.json").write_text(json.dumps(info | {"command": "lsp train --other"}))
    collect(runs[1:], tmp_path / "out")
    assert "--other" in path.read_text()
    assert "--task walker_walk --seed 2\n" not in path.read_text()


def make_transfer(
    folder: Any, *, seed: Any = 0, length: Any = 10, method: Any = "lsp", **transfer: Any
) -> Any:
    """A run on quadruped_reach that another one on quadruped_walk came before."""
    before = make_config(method, "fast", task="quadruped_walk", seed=seed)
    k = length if before.has_skills else None
    h = 4 * length if before.plans_skills or before.plans_actions else None
    begun = TransferConfig("gone", **transfer)
    config = on_another_task(before, "quadruped_reach", begun, k, h).resolved()
    make_run(folder, [(100, 1.0)], seed=seed)
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    RunFolder(folder).write_source(folder.with_name("gone"), before, 250_000)
    return folder


def test_transfers_have_tables_of_their_own(tmp_path: Any) -> None:
    out = tmp_path / "out"
    runs = [
        make_transfer(tmp_path / "plain"),
        make_transfer(tmp_path / "frozen", freeze_policy=True),
        make_transfer(tmp_path / "relabelled", relabel=True),
        make_transfer(tmp_path / "both", relabel=True, freeze_policy=True),
        make_transfer(tmp_path / "reset", reset=("value", "reward"), relabel=True),
    ]
    collect(runs, out)
    folder = out / "quadruped_reach" / "transfer_from_quadruped_walk"
    relabelled = "lsp-relabel-new0.5"
    fixed = ["lsp-frozen-anchor0.05", "lsp-frozen-relabel-anchor0.05"]
    tables = ["lsp", *fixed, relabelled, f"{relabelled}-reset-reward-value"]
    assert sorted(path.stem for path in folder.glob("*.csv")) == tables
    assert (folder / f"{fixed[0]}.csv").read_text().splitlines() == [
        HEADER + ",source_steps,skill_length,horizon",
        "proprio,fast,0,100,1.00,20.00,,10,,0.2500,1,float32,abc123,250000,10,40",
    ]
    commands = (folder / "commands.md").read_text()
    heading = f"## {fixed[0]}, proprio, fast, seed 0, after 250000 env steps of quadruped_walk"
    assert f"{heading}, K 10, H 40, float32\n" in commands


def test_skill_lengths_of_transfers_stand_side_by_side(tmp_path: Any) -> None:
    lengths = (10, 30)
    runs = [make_transfer(tmp_path / f"{length}", length=length) for length in lengths]
    for run in [*runs, runs[0]]:
        collect([run], tmp_path)
    (table,) = tmp_path.glob("quadruped_reach/*/lsp*.csv")
    assert [row["horizon"] for row in read_table(table)] == ["40", "120"]


@pytest.mark.parametrize(("method", "noted"), [("cem", ("", "12")), ("dreamer", ("", ""))])
def test_what_a_method_does_not_plan_is_left_out(tmp_path: Any, method: Any, noted: Any) -> None:
    collect([make_transfer(tmp_path / "run", method=method, length=3)], tmp_path)
    (table,) = tmp_path.glob("quadruped_reach/*/*.csv")
    (row,) = read_table(table)
    assert (row["skill_length"], row["horizon"]) == noted
    heading = f"after 250000 env steps of quadruped_walk{', H 12' if noted[1] else ''}, float32\n"
    assert heading in table.with_name("commands.md").read_text()


def settled(folder: Any, *, seed: Any = 0, method: Any = "lsp", **settings: Any) -> Any:
    """A run with all of its settings, some of them its own."""
    config = make_config(method, "fast", task="walker_walk", seed=seed, **settings)
    make_run(folder, [(100, 1.0)], seed=seed)
    (folder / "config.json").write_text(json.dumps(to_dict(config.resolved())))
    return folder


def test_runs_of_several_settings_stand_side_by_side(tmp_path: Any) -> None:
    out = tmp_path / "out"
    runs = [
        settled(tmp_path / "short", **{"planner.horizon": 5}),
        settled(tmp_path / "layers", **{"planner.horizon": 5, "policy.layers": (64, 32)}),
        settled(tmp_path / "plain"),
        settled(tmp_path / "seed", seed=1, **{"planner.horizon": 5}),
    ]
    for run in [*runs, runs[0]]:
        collect([run], out)
    table = out / "walker_walk" / "lsp.csv"
    own = "planner.horizon 5"
    assert table.read_text().splitlines()[0] == f"{HEADER},settings"
    assert [(row["settings"], row["seed"]) for row in read_table(table)] == [
        ("", "0"),
        (own, "0"),
        (own, "1"),
        (f"policy.layers 64 32; {own}", "0"),
    ]
    commands = table.with_name("commands.md").read_text()
    assert commands.count("\n## ") == 4
    assert f"## lsp, proprio, fast, seed 0, policy.layers 64 32, {own}, float32\n" in commands


def test_runs_of_two_precisions_stand_side_by_side(tmp_path: Any) -> None:
    runs = [make_run(tmp_path / name, [(1, 1)]) for name in ("float32", "bfloat16")]
    info = json.loads((runs[1] / "run.json").read_text()) | {"precision": "bfloat16"}
    (runs[1] / "run.json").write_text(json.dumps(info))
    for run in [*runs, runs[0]]:
        collect([run], tmp_path / "out")
    table = tmp_path / "out" / "walker_walk" / "lsp.csv"
    assert [row["precision"] for row in read_table(table)] == ["bfloat16", "float32"]


def test_a_table_from_before_is_read_as_of_the_methods_own_settings(tmp_path: Any) -> None:
    out = tmp_path / "out"
    collect([settled(tmp_path / "plain"), settled(tmp_path / "other", seed=1)], out)
    table = out / "walker_walk" / "lsp.csv"
    before = table.read_text().splitlines()
    assert before[0] == HEADER
    collect([settled(tmp_path / "own", **{"skills.dim": 7})], out)
    after = table.read_text().splitlines()
    assert after == [f"{HEADER},settings", *(f"{row}," for row in before[1:]), after[-1]]
    assert after[-1].endswith(",skills.dim 7")


def test_when_a_run_is_measured_is_no_setting_of_what_it_learns(tmp_path: Any) -> None:
    often = settled(tmp_path / "often", **{"schedule.eval_every": 7})
    later = settled(tmp_path / "later", **{"schedule.prefill": 7})
    collect([often, later], tmp_path)
    found = {row["settings"] for row in read_table(tmp_path / "walker_walk" / "lsp.csv")}
    assert found == {"", "schedule.prefill 7"}
    with pytest.raises(UserError, match=r"plain and .*often are both .*collect one"):
        collect([settled(tmp_path / "plain"), often], tmp_path)


@pytest.mark.parametrize("method", METHODS)
def test_a_transfers_own_defaults_are_no_settings_that_tell_it_apart(method: Any) -> None:
    config = make_config(method, "fast", task="quadruped_walk")
    transfer = TransferConfig("gone", relabel=True, anchor=0.1, freeze_policy=True)
    length = 30 if config.has_skills else None
    moved = on_another_task(config, "quadruped_reach", transfer, length).resolved()
    assert own_settings(to_dict(moved)) == {}
    changed = replace(moved, optimizer=replace(moved.optimizer, clip=1.0))
    assert own_settings(to_dict(changed)) == {"optimizer.clip": "1"}


def test_settings_of_another_version_are_compared_as_far_as_there_are_two() -> None:
    config = to_dict(make_config("lsp", "fast", task="walker_walk").resolved())
    del config["behavior"]["prior_share"]
    config["planner"] |= {"horizon": 20, "telepathy": True}
    assert own_settings(config) == {"planner.horizon": "20"}
    assert own_settings(config | {"preset": "of another version"}) == {}


def test_a_run_that_lacks_a_setting_is_told_apart_where_its_preset_has_it_by_now() -> None:
    config = to_dict(make_config("lsp", "modern", task="walker_walk").resolved())
    assert own_settings(config) == {}
    del config["optimizer"]["average_rate"]  # which did nothing before it was there
    assert own_settings(config) == {"optimizer.average-rate": "0"}


def test_settings_are_read_as_they_are_written() -> None:
    settings = {"planner.horizon": "5", "policy.layers": "64 32", "value.layer-norm": "False"}
    assert parsed(joined(settings)) == settings
    assert parsed("") == {}


def test_what_another_reward_pays_has_a_table_of_its_own(tmp_path: Any) -> None:
    runs = [
        # Nothing begins anew where nothing is carried over.
        make_run(tmp_path / "plain", [(100, 1)], transfer={"reset": ["reward", "value"]}),
        make_run(tmp_path / "paid", [(100, 1000)], reward="my.rewards:backwards"),
    ]
    collect(runs, tmp_path / "out")
    assert rows(tmp_path / "out") == [("0", "100", "1.00")]
    paid = rows(tmp_path / "out", "lsp-paid-by-my-rewards-backwards")
    assert paid == [("0", "100", "1000.00")]


def test_a_transfer_without_its_source_is_refused(tmp_path: Any) -> None:
    run = make_transfer(tmp_path / "run")
    (run / "source.json").unlink()
    with pytest.raises(UserError, match=r"run has no source\.json"):
        collect([run], tmp_path / "out")


def test_nothing_is_written_unless_every_run_is_good(tmp_path: Any) -> None:
    good = make_run(tmp_path / "good", [(100, 1)])
    bad = make_run(tmp_path / "bad", [], seed=1)
    with pytest.raises(UserError, match="bad has no evaluation"):
        collect([good, bad], tmp_path / "out")
    with (bad / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "eval", "env_steps": 100, "eval/failed": 3, "wall_hours": 0.1}\n')
    with pytest.raises(UserError, match="bad has no evaluation yet: train further"):
        collect([good, bad], tmp_path / "out")
    with pytest.raises(UserError, match="missing"):
        collect([good, tmp_path / "missing"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_runs_that_claim_the_same_rows_are_refused(tmp_path: Any) -> None:
    runs = [make_run(tmp_path / name, [(100, 1)]) for name in ("one", "two")]
    with pytest.raises(UserError, match=r"one and .*two"):
        collect(runs, tmp_path / "out")


@pytest.mark.parametrize("task", ["../../etc", "a/b", "", "."])
def test_a_strangers_run_cannot_choose_where_we_write(tmp_path: Any, task: Any) -> None:
    with pytest.raises(UserError, match="not a plain name"):
        collect([make_run(tmp_path / "run", [(100, 1)], task=task)], tmp_path / "out")


@pytest.mark.parametrize("text", ["{", "[]", '{"task": "walker_walk"}'])
def test_damaged_settings_are_reported(tmp_path: Any, text: Any) -> None:
    run = make_run(tmp_path / "run", [(100, 1)])
    (run / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        collect([run], tmp_path / "out")


def test_damage_of_all_sorts_is_named(tmp_path: Any) -> None:
    out = tmp_path / "out"
    groups = make_run(tmp_path / "groups", [(100, 1)], transfer="x")
    values = make_run(tmp_path / "values", [(100, 1)])
    (values / "metrics.jsonl").write_text('{"kind": "eval", "env_steps": 1, "eval/return": "x"}\n')
    source = make_transfer(tmp_path / "source")
    (source / "source.json").write_text('{"task": "walker_walk", "env_steps": "x"}')
    for run, named in ((groups, "transfer"), (values, "line 1"), (source, "env_steps 'x'")):
        with pytest.raises(UserError, match=named):
            collect([run], out)
    good, commands = make_run(tmp_path / "good", [(100, 1)]), out / "walker_walk" / "commands.md"
    commands.parent.mkdir(parents=True)
    commands.write_text("# Commands\n\n## bare")
    collect([good], out)
    assert "## bare\n" in commands.read_text()
    commands.write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"commands\.md is not what lsp collect wrote"):
        collect([good], out)


def test_a_foreign_table_is_not_overwritten(tmp_path: Any) -> None:
    table = tmp_path / "out" / "walker_walk" / "lsp.csv"
    table.parent.mkdir(parents=True)
    table.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="header"):
        collect([make_run(tmp_path / "run", [(100, 1)])], tmp_path / "out")
    assert table.read_text() == "a,b\n1,2\n"


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("proprio,fast,0,10000,much,20.00,,10,,0.2500,1,float32,abc", "'much' is no number"),
        ("proprio,fast,first,10000,400,20.00,,10,,0.2500,1,float32,abc", "'first' is no number"),
        ("proprio,fast,0,1e4,400,20.00,,10,,0.2500,1,float32,abc", "'1e4' is no number"),
        ("proprio,fast,0,10000,400", "more or fewer columns"),
        ("proprio,fast,0,10000,400,20.00,,10,,0.2500,1,float32,abc,more", "more or fewer columns"),
    ],
)
def test_a_row_that_was_edited_badly_is_named(tmp_path: Any, row: Any, complaint: Any) -> None:
    table = tmp_path / "walker_walk" / "lsp.csv"
    table.parent.mkdir()
    table.write_text(f"{HEADER}\nproprio,fast,3,20000,,,,10,,0.2500,1,float32,abc\n{row}\n")
    with pytest.raises(UserError, match=complaint) as error:
        read_table(table)
    assert "lsp.csv, proprio seed" in str(error.value)
    before = table.read_text()
    with pytest.raises(UserError, match=complaint):
        collect([make_run(tmp_path / "run", [(1, 1)])], tmp_path)
    assert table.read_text() == before


def test_a_table_that_is_no_text_is_left_alone(tmp_path: Any) -> None:
    table = tmp_path / "walker_walk" / "lsp.csv"
    table.parent.mkdir()
    table.write_bytes(f"{HEADER}\nproprio,fast,0,1,1,1,,1,1,1,,\xff\n".encode("latin-1"))
    before = table.read_bytes()
    with pytest.raises(UserError, match="not UTF-8"):
        collect([make_run(tmp_path / "run", [(1, 1)])], tmp_path)
    assert table.read_bytes() == before
