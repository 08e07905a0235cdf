"""Metrics on wandb and trackio: what they are given, and that nothing of theirs stops a run."""

import shlex
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from builders import short_run

import lsp
from lsp.cli.main import main
from lsp.config import RuntimeConfig
from lsp.errors import RunWarning, UserError
from lsp.experiments.sweep.planned_run import PlannedRun
from lsp.experiments.sweep.worker import job, perform_job
from lsp.runs.metrics import MetricsLogger, read_metrics
from lsp.runs.tracking import PROJECT, Tracker, check_tracker

NAMES = ("wandb", "trackio")


class Fake(ModuleType):
    """A package of their interface, which keeps what it is given; `fails` names what raises."""

    def __init__(self, name: str):
        super().__init__(name)
        self.begun: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished, self.fails = 0, ""

    def init(self, **settings: Any) -> "Fake":
        self._try("init")
        self.begun.append(settings)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self._try("log")
        self.logged.append((step, values))

    def finish(self) -> None:
        self._try("finish")
        self.finished += 1

    def _try(self, what: str) -> None:
        if what == self.fails:
            raise ConnectionError(f"no {what} today")


@pytest.fixture(params=NAMES)
def fake(request: Any, monkeypatch: Any) -> Fake:
    module = Fake(request.param)
    monkeypatch.setitem(sys.modules, request.param, module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return module


def logger(folder: Path, fake: Fake, config: Any = None) -> MetricsLogger:
    return MetricsLogger(folder, Tracker(fake.__name__, folder, config or {}))


def write(folder: Path, fake: Fake) -> None:
    metrics = logger(folder, fake)
    metrics.write("train", 1, {"model/kl": 1.0})
    metrics.close()


def test_scalars_are_logged_at_their_env_step(fake: Fake, tmp_path: Path) -> None:
    metrics = logger(tmp_path / "run", fake, {"seed": 7})
    assert fake.begun == []  # nothing before there is something to track
    metrics.write("train", 100, {"model/kl": 1.5, "updates": 3, "gone": float("nan")})
    metrics.write("eval", 200, {"eval/return": 4, "eval/returns": [4.0], "eval/success": None})
    metrics.close()
    assert fake.logged == [
        (100, {"model/kl": 1.5, "train/updates": 3.0}),
        (200, {"eval/return": 4.0}),
    ]
    (begun,) = fake.begun
    assert (begun["project"], begun["config"], begun["resume"]) == (PROJECT, {"seed": 7}, "allow")
    assert begun["name"].startswith("run-")
    assert fake.finished == 1
    assert len(read_metrics(tmp_path / "run")) == 2


def test_a_resumed_run_goes_on_with_the_same_tracked_one(fake: Fake, tmp_path: Path) -> None:
    for folder in ("run", "run", "other/run"):
        write(tmp_path / folder, fake)
    first, again, other = (begun["name"] for begun in fake.begun)
    assert first == again != other
    if fake.__name__ == "wandb":
        assert [begun["id"] for begun in fake.begun] == [first, again, other]
    (tmp_path / "run" / "tracking.json").write_text("{")  # a damaged one is begun anew
    write(tmp_path / "run", fake)
    assert fake.begun[-1]["name"] != first


def test_a_project_of_your_own_is_taken(fake: Fake, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv(f"{fake.__name__.upper()}_PROJECT", "mine")
    write(tmp_path, fake)
    assert fake.begun[0]["project"] == "mine"


@pytest.mark.parametrize("fails", ["init", "log"])
def test_a_tracker_that_fails_costs_one_warning(fails: str, fake: Fake, tmp_path: Path) -> None:
    fake.fails = fails
    metrics = logger(tmp_path, fake)
    with pytest.warns(RunWarning, match=f"no {fails} today.*training continues"):
        metrics.write("train", 1, {"model/kl": 1.0})
    metrics.write("train", 2, {"model/kl": 1.0})  # another warning would be an error
    fake.fails = "finish"
    metrics.close()
    assert len(read_metrics(tmp_path)) == 2


def test_a_full_disk_stops_no_run_for_its_name(
    fake: Fake, tmp_path: Path, monkeypatch: Any
) -> None:
    def full(*rest: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lsp.runs.tracking.write_json", full)
    with pytest.warns(RunWarning, match="No space left"):
        write(tmp_path, fake)


DEBUG = "--preset debug --task walker_walk --threads 1 --action-repeat 20"


def call(command: str) -> None:
    main(shlex.split(command))


@pytest.mark.usefixtures("short_episodes")
def test_a_training_is_tracked_and_no_other_run_for_that(fake: Fake, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train = f"train {DEBUG} --schedule.prior-episodes 0 --logdir {folder}"
    call(f"{train} --steps 200 --track {fake.__name__}")
    first = len(fake.logged)
    assert "eval/return" in fake.logged[-1][1]
    assert fake.begun[0]["config"]["action_repeat"] == 20
    call(f"{train} --steps 300")  # the same run without it
    assert len(fake.logged) == first
    fake.fails = "log"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)
        call(f"{train} --steps 400 --track {fake.__name__}")
    assert "track" not in (folder / "config.json").read_text()
    evaluated = [x["env_steps"] for x in read_metrics(folder) if x["kind"] == "eval"]
    assert evaluated == [200, 300, 400]
    assert fake.begun[1]["name"] == fake.begun[0]["name"]


@pytest.mark.usefixtures("short_episodes")
def test_transfers_and_runs_of_a_sweep_are_tracked(fake: Fake, tmp_path: Path) -> None:
    runtime = RuntimeConfig(threads=1, compile=False, track=fake.__name__)  # type: ignore[arg-type]
    run = PlannedRun(short_run(), 100)
    (tmp_path / "logs").mkdir()
    argv = sys.argv
    assert perform_job(job(run, tmp_path, runtime), lambda line: None)
    sys.argv = argv
    source = run.folder(tmp_path)
    lsp.transfer(source, "walker_run", tmp_path / "moved", steps=100, runtime=runtime)
    assert [begun["config"]["task"] for begun in fake.begun] == ["walker_walk", "walker_run"]
    assert fake.finished == 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("command", ["train", "sweep", "reproduce fig6b --scale debug"])
def test_without_the_package_one_line_says_what_to_install(
    command: str, name: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    place = "--logdir" if command == "train" else "--storage"
    preset = "" if "reproduce" in command else "--preset debug"
    out = f"--out {tmp_path}" if "reproduce" in command else ""
    with pytest.raises(SystemExit) as stopped:
        call(f"{command} {preset} --track {name} {place} {tmp_path / 'run'} {out}")
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert f"pip install 'latent-skill-planning[{name}]'" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_folder_of_the_name_is_no_package(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="pip install"):
        check_tracker("wandb")
    sys.modules.pop("wandb", None)


def test_a_benchmark_is_not_tracked(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        call("bench --preset debug --track trackio")
    assert "leave out --track" in capsys.readouterr().err


def test_the_extras_are_there() -> None:
    text = (Path(lsp.__file__).parents[1] / "pyproject.toml").read_text()
    assert all(f'{name} = ["{name}"]' in text for name in NAMES)
