"""The command line: what works leaves a whole run behind, what does not says so in one line."""

import csv
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import short_episodes

import lsp
from lsp.cli.main import main
from lsp.envs import rendering_problem
from lsp.errors import UserError
from lsp.runs.metrics import read_metrics
from lsp.tasks import PAPER_TASKS
from lsp.training.evaluation import episode_seeds

pytestmark = pytest.mark.usefixtures("short_episodes")

DEBUG = "--preset debug --task walker_walk --threads 1 --action-repeat 4 --schedule.eval-every 300"


def run(command: str) -> None:
    main(shlex.split(command))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: Any) -> Path:
    """A debug run of LSP, 400 env steps."""
    folder: Path = tmp_path_factory.mktemp("runs") / "lsp"
    with short_episodes():
        run(f"train {DEBUG} --steps 400 --logdir {folder}")
    return folder


def test_train_leaves_metrics_a_checkpoint_and_pictures(trained: Any) -> None:
    lines = read_metrics(trained)
    assert {"train", "episode", "eval"} == {line["kind"] for line in lines}
    assert all(line["eval/prior_return"] > 0 for line in lines if line["kind"] == "eval")
    assert (trained / "curve.png").stat().st_size > 1000
    assert (trained / "skills.png").stat().st_size > 1000
    assert sorted(x.name for x in (trained / "checkpoints").iterdir())[-1] == "step-000000400"
    assert json.loads((trained / "run.json").read_text())["threads"] == 1


def test_a_training_in_which_no_episode_has_ended_draws_no_curve(
    tmp_path: Any, capsys: Any
) -> None:
    folder = tmp_path / "run"
    never = "--schedule.eval-episodes 0 --schedule.prior-episodes 0"
    run(f"train {DEBUG} {never} --steps 20 --logdir {folder}")
    said = capsys.readouterr().out
    assert "To continue: " in said
    assert "Learning curve" not in said
    assert not (folder / "curve.png").exists()


def test_train_says_how_it_went_and_how_to_go_on(
    tmp_path: Any, capsys: Any, monkeypatch: Any
) -> None:
    command = f"train {DEBUG} --steps 200 --logdir {tmp_path / 'run'}"
    monkeypatch.setattr("sys.argv", ["lsp", *shlex.split(command)])
    run(command)
    said = capsys.readouterr().out
    assert "Evaluation after 200 env steps: return" in said
    assert "steps/s" in said
    assert "Time: " in said
    assert f"lsp train {DEBUG} --steps 400 --logdir {tmp_path / 'run'}" in said
    run(command.replace("--steps 200", "--steps 100"))
    assert f"lsp train {DEBUG} --steps 400 --logdir" in capsys.readouterr().out


def test_the_same_command_again_finds_nothing_left_to_do(trained: Any, capsys: Any) -> None:
    before = (trained / "metrics.jsonl").read_text()
    run(f"train {DEBUG} --steps 400 --logdir {trained}")
    assert (trained / "metrics.jsonl").read_text() == before
    assert "Evaluation after 400 env steps" in capsys.readouterr().out


def test_flags_change_single_settings_of_the_preset(tmp_path: Any) -> None:
    folder = tmp_path / "run"
    run(f"train {DEBUG} --steps 0 --planner.horizon 20 --skills.dim 2 --logdir {folder}")
    config = json.loads((folder / "config.json").read_text())
    assert config["planner"]["horizon"] == 20
    assert config["skills"]["dim"] == 2
    assert config["planner"]["num_candidates"] == 4  # the preset's


def test_dreamer_has_no_skills_and_horizon_15(tmp_path: Any) -> None:
    run(f"train {DEBUG} --method dreamer --steps 0 --logdir {tmp_path / 'run'}")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["skills"]["dim"] == 0
    assert config["behavior"]["horizon"] == 15


def test_eval_draws_other_episodes_writes_json_and_takes_an_older_checkpoint(
    trained: Any, tmp_path: Any, capsys: Any
) -> None:
    out = tmp_path / "eval.json"
    run(f"eval {trained} --episodes 2 --threads 1 --json {out}")
    own = json.loads(out.read_text())
    assert own["checkpoint"] == 400
    assert own["eval/returns"] == pytest.approx(list(lsp.evaluate(trained, 2).returns))
    run(f"eval {trained} --episodes 2 --threads 1 --seed 7 --json {out}")
    other = json.loads(out.read_text())
    assert other["seed"] == 7
    assert not set(own["eval/returns"]) & set(other["eval/returns"])
    assert lsp.evaluate(trained, 2, seed=7).returns.tolist() == other["eval/returns"]
    run(f"eval {trained} --episodes 2 --threads 1 --checkpoint 0 --json {out}")
    older = json.loads(out.read_text())
    assert older["checkpoint"] == 0
    assert older["eval/returns"] != own["eval/returns"]
    assert "of 17 env steps: there are 0" in fails(f"eval {trained} --checkpoint 17", capsys)
    assert "there is no folder" in fails(f"eval {trained} --json {tmp_path}/no/x.json", capsys)
    assert "is a folder: name" in fails(f"eval {trained} --json {tmp_path}", capsys)
    assert "is a folder: name" in fails(f"bench --preset debug --json {tmp_path}", capsys)
    for seed in (-1, 2**32, 10**30):
        assert "seed must be at least 0 and below" in fails(f"eval {trained} --seed {seed}", capsys)
        with pytest.raises(UserError, match="seed must be"):
            lsp.load(trained, seed=seed)


def test_each_draw_has_episodes_of_its_own() -> None:
    seeds = [set(episode_seeds(5, draw=draw)) for draw in (None, 0, 7)]
    assert len(set.union(*seeds)) == 15
    assert episode_seeds(5, draw=7) == episode_seeds(9, draw=7)[:5]
    assert not set(episode_seeds(5, 1, draw=7)) & seeds[2]


def test_no_steps_say_what_they_did(tmp_path: Any, trained: Any, capsys: Any) -> None:
    run(f"train {DEBUG} --steps 0 --logdir {tmp_path / 'run'}")
    said = capsys.readouterr().out
    assert "Nothing was trained: settings and untrained weights are saved" in said
    assert "--steps 100000" in said
    run(f"train {DEBUG} --steps 400 --logdir {trained}")
    assert "Nothing was trained: the run has 400 env steps already" in capsys.readouterr().out


def test_tasks_are_listed_as_they_are_typed(capsys: Any) -> None:
    run("tasks")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "walker_walk"
    assert {line.split()[0] for line in lines[:14]} == set(PAPER_TASKS)
    assert any("gymnasium:package:ID" in line for line in lines)


def test_paths_are_read_as_a_shell_reads_them(
    trained: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("HOME", str(trained.parent))
    monkeypatch.setenv("RUNS", str(trained.parent))
    home, variable = f"~/{trained.name}", f"$RUNS/{trained.name}"
    lsp.load(home)
    returns = [lsp.evaluate(path, 1).returns for path in (trained, home, Path(variable))]
    assert returns[0] == returns[1] == returns[2]
    monkeypatch.setenv("RUNS", str(tmp_path))
    config = lsp.make_config("lsp", "debug", task="walker_run", action_repeat=4)
    runtime = lsp.RuntimeConfig(threads=1)
    assert lsp.train(config, "$RUNS/mine", 0, runtime)
    assert lsp.transfer(home, "walker_run", "$RUNS/after", 0, runtime)
    run(f"train {DEBUG} --steps 0 --logdir=$RUNS/typed")
    assert {"mine", "after", "typed"} <= {path.name for path in tmp_path.iterdir()}
    lsp.show_skills(home, "$RUNS/shown", hold_steps=2, grid=4, repeats=2)
    assert (tmp_path / "shown" / "distances.csv").is_file()


def test_eval_repeats_the_evaluation_of_the_training(trained: Any, capsys: Any) -> None:
    run(f"eval {trained} --episodes 1")
    last = [line for line in read_metrics(trained) if line["kind"] == "eval"][-1]
    assert f"return {last['eval/return']:.1f} ± 0.0" in capsys.readouterr().out


def test_eval_can_draw_skills_instead_of_planning_them(trained: Any, monkeypatch: Any) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("planned")

    planned, chosen = (lsp.evaluate(trained, 2, skills=x).returns for x in (None, "planned"))
    np.testing.assert_array_equal(planned, chosen)
    monkeypatch.setattr("lsp.algorithm.agent.plan_skills", refuse)
    assert (lsp.evaluate(trained, 2, skills="prior").returns != planned).any()
    with pytest.raises(AssertionError, match="planned"):
        lsp.evaluate(trained, 1)


@pytest.mark.parametrize("skills", ["constant", "shuffled"])
def test_eval_has_controls_beside_planned_skills(skills: Any, trained: Any, capsys: Any) -> None:
    run(f"eval {trained} --episodes 2 --skills {skills}")
    said = capsys.readouterr().out
    planned = lsp.evaluate(trained, 2).returns
    controlled = lsp.evaluate(trained, 2, skills=skills).returns
    assert (controlled != planned).any()
    assert f"return {controlled.mean():.1f} ±" in said


@pytest.mark.parametrize("method", ["dreamer", "cem", "hiro"])
def test_eval_has_no_skills_to_choose_without_skills(
    method: Any, tmp_path: Any, capsys: Any
) -> None:
    run(f"train {DEBUG} --method {method} --steps 0 --logdir {tmp_path}")
    with pytest.raises(SystemExit) as caught:
        run(f"eval {tmp_path} --skills prior")
    assert caught.value.code == 2
    assert f"{method} has no skills" in capsys.readouterr().err


@pytest.mark.skipif(rendering_problem() is not None, reason=str(rendering_problem()))
def test_eval_films_an_episode(trained: Any) -> None:
    run(f"eval {trained} --episodes 1 --video")
    assert (trained / "video.mp4").stat().st_size > 10_000


def test_without_rendering_training_still_works_and_names_the_packages(
    trained: Any, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("lsp.envs.dmc.rendering_problem", lambda: "install libegl1")
    run(f"train {DEBUG} --steps 400 --logdir {trained} --video")
    assert "No video: walker_walk: install libegl1" in capsys.readouterr().out


def test_plot_and_collect(trained: Any, tmp_path: Any, capsys: Any) -> None:
    run(f"plot {trained} --out {tmp_path / 'curve.png'}")
    assert (tmp_path / "curve.png").exists()
    run(f"collect {trained} --out {tmp_path / 'results'}")
    table = tmp_path / "results" / "walker_walk" / "lsp.csv"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["env_steps"] for row in rows] == ["300", "400"]
    assert rows[0]["preset"] == "debug"
    capsys.readouterr()
    run(f"plot {table.parent} --out {tmp_path / 'results.png'}")
    assert (tmp_path / "results.png").exists()


def test_doctor_reports_versions_and_rendering(capsys: Any) -> None:
    run("doctor")
    said = capsys.readouterr().out
    for word in ("torch", "mujoco", "threads", "GPU", "rendering", "disk"):
        assert word in said


def test_from_python_in_a_few_lines(trained: Any) -> None:
    agent, env = lsp.load(trained), lsp.make_env("walker_walk")
    observation, _ = env.reset(seed=0)
    action = agent.act(observation)
    assert action.shape == (6,)
    assert np.abs(action).max() <= 1


MISTAKES = {
    "unknown task": "train --task walker_wlak",
    "unknown method": "train --method lps",
    "unknown preset": "train --preset quick",
    "unknown observations": "train --obs smell",
    "unknown flag": "train --stpes 100",
    "K below 1": "train --planner.skill-length 0",
    "G below 1": "train --planner.num-candidates 0 --planner.num-elites 0",
    "M above G": "train --planner.num-elites 17",
    "H below 1": "train --planner.horizon 0",
    "behaviour H below 1": "train --behavior.horizon 0",
    "negative steps": "train --steps -1",
    "steps not a number": "train --steps many",
    "one of two numbers": "train --model.decoder-std 0.2",
    "no threads": "train --threads 0",
    "unknown device": "train --device tpu",
    "device of no use": "train --device meta",
    "GPU that is not there": "train --device cuda:99",
    "more starts than states": "train --behavior.num-starts 100000",
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_costs_one_line_exit_code_2_and_nothing_half_written(
    mistake: Any, tmp_path: Any, capsys: Any
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(SystemExit) as stopped:
        run(f"{mistake} --logdir {folder}")
    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith("lsp: ")
    assert captured.err.count("\n") == 1
    assert "[bold]" not in captured.err
    assert not folder.exists()


def test_plot_refuses_what_it_would_not_draw(trained: Any, tmp_path: Any, capsys: Any) -> None:
    (tmp_path / "results").mkdir()
    for command, why in (
        (f"plot {trained} --reference nosuch.csv", "--reference is drawn beside"),
        (f"plot --skills {trained} nosuch", "--skills draws one run"),
        (f"plot {tmp_path / 'results'} nosuch", "name one folder"),
    ):
        assert why in fails(command, capsys)


def fails(command: str, capsys: Any) -> str:
    """The single line that a failing command prints."""
    with pytest.raises(SystemExit) as stopped:
        run(command)
    assert stopped.value.code == 2
    said: str = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_a_folder_of_another_task_is_refused_and_left_alone(trained: Any, capsys: Any) -> None:
    files = [path for path in trained.rglob("*") if path.name != "lock"]
    before = {path: path.stat().st_mtime_ns for path in files}
    said = fails(f"train --preset debug --task cheetah_run --logdir {trained}", capsys)
    assert "task: walker_walk → cheetah_run" in said
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_a_folder_of_something_else_is_refused(tmp_path: Any, capsys: Any) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    assert "not a run" in fails(f"train {DEBUG} --logdir {tmp_path}", capsys)


@pytest.mark.parametrize("where", ["file/run", "file"])
def test_a_folder_that_cannot_be_written_is_refused(where: Any, tmp_path: Any, capsys: Any) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "cannot write" in fails(f"train {DEBUG} --logdir {tmp_path / where}", capsys)


@pytest.mark.parametrize("command", ["eval", "collect", "plot"])
def test_a_folder_without_a_run_is_named(command: Any, tmp_path: Any, capsys: Any) -> None:
    assert str(tmp_path) in fails(f"{command} {tmp_path}", capsys)


@pytest.mark.parametrize("command", ["tarin", "eval", "plot", "collect"])
def test_a_command_that_says_too_little_is_one_line(command: Any, capsys: Any) -> None:
    fails(command, capsys)


def test_help_names_every_command(capsys: Any) -> None:
    with pytest.raises(SystemExit) as stopped:
        run("--help")
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    for command in ("train", "eval", "plot", "collect", "doctor"):
        assert command in said
