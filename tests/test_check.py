"""`lsp check` finds of a task what a training would, before there is one."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.wrappers import NormalizeObservation
from packaging.requirements import Requirement

import lsp
from lsp.cli.main import main
from lsp.config import requirements
from lsp.envs import dmc, make_env
from lsp.envs.probe import roll
from lsp.errors import UserError


class Task(gymnasium.Env[Any, Any]):
    """Ends itself after seven control steps, or is ended after `limit`; pays the step's number."""

    observation_space: Any = Box(-1, 1, (3,), np.float32)
    action_space = Box(-1, 1, (2,), np.float32)
    limit = 100

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        ends = self.t >= 7, self.t >= self.limit
        return np.full(3, self.t / 100, np.float32), float(self.t), *ends, {}


class Limited(Task):
    limit = 5

    def step(self, action: Any) -> Any:
        *given, _ = super().step(action)
        return *given, {"is_success": False}


class Seen(Task):
    observation_space: Any = Box(0, 255, (20, 16), np.uint8)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros((20, 16), np.uint8), {}

    def step(self, action: Any) -> Any:
        _, *given = super().step(action)
        return np.zeros((20, 16), np.uint8), *given


class Broken(Task):
    def step(self, action: Any) -> Any:
        if self.t == 3:
            raise RuntimeError("a motor is off")
        return super().step(action)


def checked(make: Any, **settings: Any) -> str:
    config = lsp.make_config("lsp", "fast", **{"action_repeat": 1} | settings)
    return str(lsp.check(make, config=config))


def test_episodes_of_random_actions_are_counted() -> None:
    rolled = roll(make_env(Task, action_repeat=1), "task", 21, 60.0)
    assert (rolled.env_steps, rolled.terminated, rolled.truncated) == (21, 3, 0)
    assert rolled.rewards == (1.0, 7.0)
    assert rolled.returns == [28.0] * 3
    assert not rolled.success
    rolled = roll(make_env(Limited, action_repeat=2), "task", 12, 60.0)
    assert (rolled.env_steps, rolled.terminated, rolled.truncated) == (12, 0, 2)
    assert rolled.rewards == (3.0, 7.0)
    assert rolled.success


def test_the_verdict_is_a_few_lines() -> None:
    said = checked(Task)
    assert "observes vector 3 (symlog); 2 actions, each held for 1 env steps" in said
    assert "1 to 7 an agent step, of random actions; returns 28 to 28" in said
    assert "one seed gives one episode" in said
    assert "not told: info['success']" in said
    assert "none, so no films" in said
    assert said.splitlines()[-1] == "verdict   can be trained"
    assert "told, and measured" in checked(Limited)


def test_what_remembers_is_warned_of() -> None:
    said = checked(lambda: NormalizeObservation(Task()))
    assert "warning   two episodes of one seed are not the same" in said
    assert said.splitlines()[-1] == "verdict   can be trained, with 1 warning"


def test_of_an_only_environment_no_second_one_is_made() -> None:
    made: list[Task] = []

    def make() -> Task:
        made.append(Task())
        return made[-1]

    config = lsp.make_config("lsp", "fast", action_repeat=1)
    found = lsp.check(make, config=config, only_env=True)
    assert len(made) == 1
    assert "there is only one environment (as you say)" in str(found)
    assert lsp.check(make, config=config).another is None
    assert len(made) == 3


def test_an_empty_list_of_images_has_none() -> None:
    for given, seen in ((None, "image 64×64×1"), ((), "vector 320"), (("",), "vector 320")):
        assert f"observes {seen}" in checked(Seen, images=given)


def test_what_fails_cannot_be_trained() -> None:
    with pytest.raises(UserError, match=r"failed after 3 env steps .RuntimeError: a motor is off"):
        checked(Broken)


def test_the_command_prints_it_or_one_line(capsys: Any) -> None:
    main(["check", "gymnasium:Pendulum-v1", "--action-repeat", "1"])
    assert capsys.readouterr().out.endswith("verdict   can be trained\n")
    with pytest.raises(SystemExit) as stopped:
        main(["check", "gymnasium:CartPole-v1"])
    assert stopped.value.code == 2
    assert "its actions must be a Box" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "meant"),
    [
        ("Hopper-v5", "Did you mean gymnasium:Hopper-v5?"),
        ("lsp/walker_walk-pixels-v0", "Did you mean walker_walk?"),
        ("FetchReach-v4", "gymnasium:PACKAGE:FetchReach-v4"),
        ("gymnasium:FetchReach-v4", "gymnasium:PACKAGE:FetchReach-v4"),
        ("numpy:FetchReach-v4", "Did you mean gymnasium:numpy:FetchReach-v4?"),
    ],
)
def test_another_way_to_write_an_id_is_suggested(task: str, meant: str) -> None:
    with pytest.raises(UserError) as raised:
        make_env(task)
    assert meant in str(raised.value)


def test_an_id_that_a_package_registers_when_imported_is_found(
    tmp_path: Any, monkeypatch: Any
) -> None:
    (tmp_path / "robots.py").write_text(
        "import gymnasium\ngymnasium.register('Arm-v0', 'test_check:Task', max_episode_steps=9)"
    )
    monkeypatch.chdir(tmp_path)
    try:
        assert isinstance(make_env("gymnasium:robots:Arm-v0").unwrapped, Task)
    finally:
        gymnasium.registry.pop("Arm-v0", None)


def test_a_simulator_that_does_not_fit_is_named(monkeypatch: Any) -> None:
    def load(*name: str) -> None:
        raise AttributeError("'MjModel' object has no attribute 'actuator_armature'")

    monkeypatch.setattr(dmc, "load_control", load)
    monkeypatch.setattr(requirements, "required", lambda: {"mujoco": Requirement("mujoco>=99")})
    with pytest.raises(UserError, match=r"'actuator_armature'.*mujoco [\d.]+, where >=99 is"):
        make_env("walker_walk")


def test_the_doctor_compares_versions_with_what_is_required(capsys: Any, monkeypatch: Any) -> None:
    needed = {"mujoco": Requirement("mujoco<3"), "tyro": Requirement("tyro")}
    monkeypatch.setattr(requirements, "required", lambda: needed)
    main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("mujoco ") and "BUT <3 is required" in line for line in lines)
    assert sum("BUT" in line for line in lines) == 1
