"""What a run says of itself while it goes on."""

import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

import lsp
from lsp.training import schedule
from lsp.training.progress import describe
from lsp.training.schedule import Clock

RUNTIME = lsp.RuntimeConfig(threads=1, compile=False)


class Slow(gymnasium.Env[Any, Any]):
    """Ten control steps of 20 ms each."""

    observation_space = Box(-1, 1, (3,), np.float32)
    action_space = Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> Any:
        time.sleep(0.02)
        self.t += 1
        return np.full(3, self.t / 100, np.float32), 1.0, False, self.t >= 10, {}


def told(folder: Path, steps: int, **settings: Any) -> list[lsp.Progress]:
    """What a listener of a run on `Slow` is told."""
    names = {"prefill": 20, "log_every": 10, "eval_every": 0, "prior_episodes": 0} | settings
    changes = {f"schedule.{name}": value for name, value in names.items()}
    config = lsp.make_config(
        "lsp", "debug", **{"action_repeat": 1, "replay.length": 5, "planner.horizon": 2} | changes
    )
    found: list[lsp.Progress] = []
    lsp.train(Slow, folder, steps, RUNTIME, found.append, config=config)
    return found


def test_learning_begins_is_said_once_and_time_left_only_then(tmp_path: Path) -> None:
    reports = told(tmp_path / "run", 40)
    phases = [(now.env_steps, now.phase) for now in reports]
    begins = phases.index((20, "learning begins"))
    assert {phase for _, phase in phases[:begins]} == {"collecting"}
    assert {phase for _, phase in phases[begins + 1 :]} == {"learning"}
    lines = [describe(now) for now in reports]
    assert lines[begins] == "20/40 env steps · learning begins"
    assert not any("left" in line for line in lines[:begins])
    assert lines[0].endswith("· collecting")
    assert "left" in lines[-2]
    assert [now.env_steps for now in told(tmp_path / "run", 60)][:1] == [50]  # not said again


def test_a_run_gives_a_sign_of_life_however_slow_its_steps_are(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(schedule, "HEARTBEAT", 0.1)
    reports = told(tmp_path / "run", 60, log_every=10_000, prefill=30)
    assert len([now for now in reports if now.phase == "collecting"]) >= 3
    assert any(now.phase == "learning" and now.steps_per_second > 0 for now in reports)
    assert reports[-1].phase == "evaluating"
    assert "evaluating" in describe(reports[-1])


def test_without_a_speed_no_time_left_is_said() -> None:
    assert "left" not in describe(lsp.Progress(10, 100, 1.0, None, 0.0))
    assert "2 min left" in describe(lsp.Progress(40, 100, 1.0, None, 0.5))


def test_a_speed_so_far_does_not_shorten_what_is_measured(monkeypatch: Any) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = Clock(0)
    now = 102.0
    assert clock.rate_so_far(4) == pytest.approx(2)
    now = 104.0
    assert clock.rate(4) == pytest.approx(1)
    now = 105.0
    assert clock.rate(6) == pytest.approx(2)


def test_a_script_is_told_of_progress_and_its_listener_too(tmp_path: Path, capsys: Any) -> None:
    found: list[lsp.Progress] = []
    config = lsp.make_config("lsp", "debug", action_repeat=1, **{"schedule.log_every": 10})
    call = (Slow, tmp_path / "run", 30, RUNTIME, found.append)
    assert lsp.train(*call, config=config, progress=True)
    said = capsys.readouterr().out.splitlines()
    assert said == [describe(now) for now in found]
    assert len(said) >= 3
