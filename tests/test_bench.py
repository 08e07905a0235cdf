"""`lsp bench`: every figure is there, adds up, and belongs to the settings it names."""

import csv
import json
import runpy
import subprocess
import sys
import time
from dataclasses import fields
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import change, short_episodes, short_run

import lsp
import lsp.benchmark.bench
from lsp.api import load_networks
from lsp.benchmark.advice import Findings, advice
from lsp.benchmark.bench import Report, workload
from lsp.benchmark.peaks import Gemm
from lsp.cli.main import main
from lsp.config import RuntimeConfig, make_config
from lsp.errors import UserError
from lsp.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("short_episodes")

KEYS = {
    "update_ms",
    "world_model_ms",
    "planner_ms",
    "behavior_ms",
    "act_ms",
    "act_ms_max",
    "plan_ms",
    "env_steps_per_s",
    "gemm_peak_gflops",
    "utilisation",
    "world_model_utilisation",
    "planner_bandwidth",
    "memory_gb_per_s",
    "advice",
    "peak_rss_mb",
    "settings",
}
BEHAVIOR_SHARES = {"behavior_utilisation", "behavior_bandwidth"}


@pytest.fixture(autouse=True)
def filled_soon(monkeypatch: Any) -> None:
    """Updates are timed on four short episodes."""
    monkeypatch.setattr(lsp.benchmark.bench, "FILL", 400)


def run(path: Any, *flags: Any) -> Any:
    main(["bench", "--preset", "debug", "--repeats", "2", "--json", str(path), *flags])
    return json.loads(path.read_text())


def test_a_report_has_every_figure(tmp_path: Any, capsys: Any) -> None:
    figures = run(tmp_path / "b.json", "--task", "walker_walk", "--env-steps", "200")
    assert figures.keys() >= KEYS
    assert figures["advice"]
    # Behaviour is what is left of an update: two repeats on a busy machine may leave nothing.
    measured = figures.keys() - {"settings", "advice", "behavior_ms", *BEHAVIOR_SHARES}
    assert all(figures[key] > 0 for key in measured)
    assert figures["settings"]["config"]["task"] == "walker_walk"
    parts = (figures[f"{part}_ms"] for part in ("world_model", "planner", "behavior"))
    assert sum(parts) == pytest.approx(figures["update_ms"])
    rate = figures["update_gflop"] / (figures["update_ms"] / 1000)
    assert figures["achieved_gflops"] == pytest.approx(rate)
    assert figures["utilisation"] == pytest.approx(rate / figures["gemm_peak_gflops"])
    assert "update_ms" in capsys.readouterr().out
    # Shares of the parts make up that of the whole.
    names = ("world_model", "planner", "behavior")
    done = sum(figures[f"{part}_utilisation"] * figures[f"{part}_ms"] for part in names)
    assert done / figures["update_ms"] == pytest.approx(figures["utilisation"])


FOUND = Findings(
    updates_share=0.8,
    utilisation=0.3,
    bandwidth=0.1,
    kernels=True,
    bf16=False,
    can_bf16=False,
    threads=2,
    cores=2,
    num_envs=1,
)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "a CPU with bf16"),
        ({"kernels": False}, "install a C++ compiler"),
        ({"can_bf16": True}, "--bf16"),
        ({"updates_share": 0.3}, "environment and acting take 70 %"),
        ({"updates_share": 0.3, "num_envs": 2}, "--num-envs 4"),
        ({"updates_share": None, "threads": 1}, "1 of 2 cores"),
        ({"bandwidth": 0.7}, "memory limits"),
        ({"utilisation": 0.7}, "matrix products limit"),
        ({"bf16": True, "can_bf16": True}, "small layers limit"),
    ],
)
def test_advice_names_what_costs_most(change: Any, said: Any) -> None:
    found = advice(FOUND._replace(**change))
    assert said in found
    assert "\n" not in found


@pytest.mark.parametrize("name", ["planning", "peers/lsp_dreamer"])
def test_benchmarks_run(name: Any) -> None:
    """Those that build networks of their own."""
    path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    small = ["--starts", "2", "--rounds", "1"] if name == "planning" else ["small", "fp32", "1"]
    done = subprocess.run(
        [sys.executable, str(path), *small], input="go\n", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) > 0


def test_every_planner_is_evaluated_with_the_weights_of_a_run(
    tmp_path: Any, monkeypatch: Any, capsys: Any
) -> None:
    script = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "planners.py"))
    runs = []
    for proposal in ("learned", "normal"):
        config = change(short_run(), skills={"proposal": proposal})
        runs.append(str(tmp_path / proposal))
        lsp.train(config, runs[-1], 0, RuntimeConfig(compile=False))
    table, asked = tmp_path / "planners.csv", ["--episodes", "1", "--plans", "1"]
    monkeypatch.setattr("sys.argv", ["planners.py", *runs, *asked, "--csv", str(table)])
    script["main"]()
    lines = list(csv.DictReader(table.read_text().splitlines()))
    planners = list(script["PLANNERS"])
    assert [line["planner"] for line in lines] == [*planners, *planners[:3]]
    assert ["proposal" in line["settings"] for line in lines] == [True] * 5 + [False] * 3
    # One body, one set of weights, and other plans.
    assert len({line["return"] for line in lines[:5]}) == 5
    assert all(float(line["plan_ms"]) > 0 for line in lines)
    assert f"| {planners[-1]} | 1 |" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["planners.py", str(tmp_path)])
    with pytest.raises(SystemExit):
        script["main"]()
    assert str(tmp_path) in capsys.readouterr().err


def test_new_rewards_are_tried_with_the_weights_of_a_run(tmp_path: Any, monkeypatch: Any) -> None:
    script = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "new_rewards.py"))
    run, table = str(tmp_path / "run"), tmp_path / "new_rewards.csv"
    with short_episodes():
        lsp.train(short_run(), run, 200, RuntimeConfig(compile=False))
        asked = ["--episodes", "1", "--rewards", "stand,hop", "--csv", str(table)]
        monkeypatch.setattr("sys.argv", ["new_rewards.py", run, *asked])
        script["main"]()
    lines = list(csv.DictReader(table.read_text().splitlines()))
    assert [line["reward"] for line in lines] == ["stand", "hop", "walker_walk"]
    for column in ("planned", "prior", "still", "as_trained"):
        assert len({line[column] for line in lines}) == 3
    assert [bool(line["predicted"]) for line in lines] == [True, True, False]


def test_parts_that_a_method_lacks_are_null(tmp_path: Any) -> None:
    figures = run(tmp_path / "b.json", "--method", "dreamer", "--env-steps", "0")
    assert figures["planner_ms"] is None
    assert figures["plan_ms"] is None
    assert figures["env_steps_per_s"] is None


def test_a_plan_is_timed_at_the_steps_that_make_one() -> None:
    config = change(make_config(), planner={"skill_length": 3, "horizon": 3})
    assert lsp.benchmark.bench._plan_ms(config, [9.0, 1.0, 2.0, 8.0, 1.0, 1.0, 7.0]) == 8.0
    often = change(make_config(), planner={"replan_every": 2})
    assert lsp.benchmark.bench._plan_ms(often, [9.0, 1.0, 8.0, 1.0, 5.0]) == 8.0


def test_weights_and_settings_can_come_from_a_run(tmp_path: Any) -> None:
    folder = str(tmp_path / "run")
    main(["train", "--preset", "debug", "--steps", "0", "--seed", "3", "--logdir", folder])
    figures = run(tmp_path / "b.json", "--run", folder, "--env-steps", "0")
    assert figures["settings"]["run"] == folder
    assert figures["settings"]["config"]["seed"] == 3


def test_updates_begin_with_the_weights_of_the_run(tmp_path: Any, monkeypatch: Any) -> None:
    folder, before = tmp_path / "run", []
    # Learning begins with the end of the second episode, at 200 env steps.
    main(["train", "--preset", "debug", "--steps", "300", "--logdir", str(folder)])
    original = lsp.benchmark.bench.train

    def watched(trainer: Any, env_steps: Any) -> None:
        before.append({name: x.clone() for name, x in trainer.networks.state_dict().items()})
        original(trainer, env_steps)

    monkeypatch.setattr(lsp.benchmark.bench, "train", watched)
    config = RunFolder(folder).read_config()
    lsp.benchmark.bench.bench(config, RuntimeConfig(compile=False), 1, 0, folder)
    saved = load_networks(folder).state_dict()
    assert all(torch.equal(saved[name], x) for name, x in before[0].items())


def test_the_peers_sizes() -> None:
    paper, small = workload("paper", "quadruped_walk"), workload("small", "quadruped_walk")
    assert paper == make_config("dreamer", "paper", task="quadruped_walk")
    assert not small.has_skills
    assert (small.replay.batch, small.replay.length, small.behavior_horizon) == (16, 32, 10)
    assert small.behavior.num_starts is None  # all 512
    with pytest.raises(UserError, match="choose one of paper, small"):
        workload("huge", "quadruped_walk")


def test_the_peak_is_measured_at_the_shape_of_the_sizes() -> None:
    for sizes, shape in (("paper", (2500, 400, 400)), ("small", (512, 128, 128))):
        assert Gemm(workload(sizes, "walker_walk"), torch.float32, "cpu").shape == shape
    gemm = Gemm(make_config("lsp", "debug"), torch.float32, "cpu")
    gemm.measure(1)
    first = gemm.peak
    gemm.measure(5)
    assert gemm.peak >= first > 0


def test_the_faster_of_two_products_is_the_peak() -> None:
    """PyTorch's BLAS is half as fast as oneDNN on AMD's processors, in fp32."""
    gemm = Gemm(make_config("lsp", "debug"), torch.float32, "cpu")
    asked: list[int] = []
    slow = partial(time.sleep, 0.02)
    gemm.products = [slow, partial(asked.append, 1), slow]
    gemm.measure(2)
    assert asked == [1, 1]
    assert gemm.peak > 10 * (2 * 2 * prod(gemm.shape)) / 0.04 / 1e9


def test_mistakes_get_one_line(tmp_path: Any, capsys: Any) -> None:
    for flags, said in (
        (["--sizes", "small"], "--method dreamer"),
        (["--repeats", "0"], "repeats must be at least 1"),
        (["--run", str(tmp_path)], str(tmp_path)),
        (["--device", "cuda"], "no GPU"),
    ):
        if said == "no GPU" and torch.cuda.is_available():
            continue
        with pytest.raises(SystemExit) as stop:
            run(tmp_path / "b.json", *flags)
        assert stop.value.code == 2
        assert said in capsys.readouterr().err


def test_every_field_of_the_report_is_written() -> None:
    assert {field.name for field in fields(Report)} >= KEYS
