"""Users' environments are tried before anything is written, and survive what they do later."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.wrappers import NormalizeObservation
from unchecked import unchecked

import lsp
from lsp.config import Config
from lsp.envs import make_env
from lsp.errors import RunWarning, UserError

RUNTIME = lsp.RuntimeConfig(threads=1, compile=False)


class Task(gymnasium.Env[Any, Any]):
    """Twenty control steps that pay 1 each."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    observation_space = Box(-1, 1, (3,), np.float32)
    action_space = Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def observe(self) -> Any:
        return np.full(3, self.t / 100, np.float32)

    def step(self, action: Any) -> Any:
        self.t += 1
        return self.observe(), 1.0, False, self.t >= 20, {}


def settings(**schedule: Any) -> Config:
    config = lsp.make_config("lsp", "debug")
    changes = {"prefill": 40, "eval_every": 0, "prior_episodes": 0} | schedule
    return replace(config, schedule=replace(config.schedule, **changes))


def changed(change: Callable[..., Any]) -> type[Task]:
    class Changed(Task):
        def step(self, action: Any) -> Any:
            return change(*super().step(action))

    return Changed


def evaluations(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "eval"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda o, r, te, tr, i: (o, np.array([r]), te, tr, i), r"one number, not array\(\[1"),
        (lambda o, r, te, tr, i: (o, None, te, tr, i), "one number, not None"),
        (lambda o, r, te, tr, i: (o, "1", te, tr, i), "one number, not '1'"),
        (lambda o, r, te, tr, i: (o, r, te or tr, i), "five values .* not 4 values"),
        (lambda o, r, te, tr, i: None, "five values .* not None"),
        (lambda o, r, te, tr, i: (o, r, te, tr, None), "info must be a dict, not None"),
        (lambda o, r, te, tr, i: (o, r, np.array([te] * 2), tr, i), "terminated must be true or"),
        (lambda o, r, te, tr, i: (o, r, te, 2, i), "truncated must be true or false, not 2"),
        (lambda o, r, te, tr, i: (o[:2], r, te, tr, i), r"shape \(2,\), not float32 of shape \(3"),
        (lambda o, r, te, tr, i: (o, r, te, tr, {"success": [True, False]}), "success.* must be"),
        (lambda o, r, te, tr, i: (o, r, te, tr, {"success": float("nan")}), "success.* must be"),
        (lambda o, r, te, tr, i: (o, r, te, tr, {"is_success": "False"}), "is_success.* must be"),
        (lambda o, r, te, tr, i: 1 / 0, "its first step failed .ZeroDivisionError"),
    ],
)
def test_what_a_first_step_gives_is_refused_before_there_is_a_folder(
    change: Any, complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=complaint):
        lsp.train(changed(change), tmp_path / "run", 60, RUNTIME, config=settings())
    assert not (tmp_path / "run").exists()


def test_an_exception_that_says_nothing_is_located(tmp_path: Path) -> None:
    def fail(*given: Any) -> Any:
        raise RuntimeError

    with pytest.raises(UserError, match=r"RuntimeError: .*test_probe.py, line \d+"):
        lsp.train(changed(fail), tmp_path / "run", 60, RUNTIME, config=settings())


def test_a_vector_of_environments_is_no_environment() -> None:
    several = gymnasium.vector.SyncVectorEnv([Task, Task])
    for task in (several, lambda: several):
        complaint = "a vector of environments: give a single one"
        with unchecked(), pytest.raises(UserError, match=complaint):
            make_env(task)  # type: ignore[arg-type]


@pytest.mark.parametrize("repeat", [1, 2, 3])
@pytest.mark.parametrize("name", ["success", "is_success"])
def test_a_success_in_any_control_step_counts(repeat: int, name: str) -> None:
    class Through(Task):
        def step(self, action: Any) -> Any:
            *given, _ = super().step(action)
            return (*given, {name: np.float32(self.t == 7)})

    env = make_env(Through(), action_repeat=repeat)
    env.reset(seed=0)
    found = [env.step(np.zeros(2, np.float32))[-1]["success"] for _ in range(6)]
    assert found == [repeat * i < 7 <= repeat * (i + 1) for i in range(6)]


def test_no_success_is_no_failure() -> None:
    env = make_env(changed(lambda *given: (*given[:4], {"success": None}))())
    env.reset(seed=0)
    assert "success" not in env.step(np.zeros(2, np.float32))[-1]


class Remembering(Task):
    """What it shows depends on how often it was reset."""

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.resets = getattr(self, "resets", 0) + 1
        return super().reset(seed=seed, options=options)

    def observe(self) -> Any:
        return np.full(3, self.resets / 10, np.float32)


class Careless(Task):
    """Ignores its seed."""

    made = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        Careless.made += 1
        self.place = Careless.made / 10 % 1
        return super().reset(seed=seed, options=options)

    def observe(self) -> Any:
        return np.full(3, self.place, np.float32)


@pytest.mark.long
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Remembering, "remembers earlier episodes, so that evaluation"),
        (lambda: NormalizeObservation(Task()), "leave out wrappers that keep statistics"),
        (Careless, "ignores the seed of reset"),
    ],
)
def test_episodes_of_one_seed_that_differ_are_told_of(make: Any, said: str, tmp_path: Path) -> None:
    with pytest.warns(RunWarning, match=said):
        lsp.train(make, tmp_path / "run", 60, RUNTIME, config=settings(eval_episodes=1))


@pytest.mark.long
def test_an_environment_that_repeats_itself_is_not_complained_of(tmp_path: Path) -> None:
    class Seeded(Task):
        def observe(self) -> Any:
            return self.np_random.uniform(-1, 1, 3).astype(np.float32)

    assert lsp.train(Seeded, tmp_path / "run", 60, RUNTIME, config=settings(eval_episodes=1))


class Only(Task):
    """There is one, or none."""

    metadata = Task.metadata | {"repeatable": False}
    open = 0

    def __init__(self) -> None:
        if Only.open:
            raise RuntimeError("the port is in use")
        Only.open += 1

    def close(self) -> None:
        Only.open -= 1


class Licensed(Only):
    """As `Only`, and it can be repeated."""

    metadata = Task.metadata


@pytest.mark.long
@pytest.mark.parametrize("kind", [Only, Licensed])
def test_the_only_environment_serves_evaluations_too(kind: Any, tmp_path: Path) -> None:
    run, config = tmp_path / "run", settings(eval_every=100, eval_episodes=2, save_every=100)
    for steps in (210, 320):
        Only.open = 0
        assert lsp.train(kind, run, steps, RUNTIME, config=config)
    found = evaluations(run)
    # At 300 an episode is under way, which began at 290.
    assert [line["env_steps"] for line in found] == [100, 200, 210, 310, 320]
    assert all(line["eval/returns"] == [20, 20] for line in found)


@pytest.mark.long
def test_several_of_the_only_environment_are_refused(tmp_path: Path) -> None:
    Only.open = 0
    config = replace(settings(), num_envs=2)
    with pytest.raises(UserError, match="only one environment: train with num_envs = 1"):
        lsp.train(Only, tmp_path / "run", 60, RUNTIME, config=config)
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_run_may_do_without_evaluations(tmp_path: Path) -> None:
    config = settings(eval_every=20, eval_episodes=0)
    assert lsp.train(Task, tmp_path / "run", 60, RUNTIME, config=config)
    assert evaluations(tmp_path / "run") == []


def unstable(share: float) -> type[Task]:
    class Unstable(Task):
        """In so many of its episodes the simulation diverges."""

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            begun = super().reset(seed=seed, options=options)
            self.bad = self.np_random.random() < share
            return begun

        def step(self, action: Any) -> Any:
            if self.bad and self.t == 12:
                raise FloatingPointError("the simulation has become unstable")
            return super().step(action)

    return Unstable


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::lsp.errors.RunWarning")
def test_an_environment_that_fails_now_and_then_does_not_end_a_training(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = settings(eval_every=100, eval_episodes=8, save_every=100)
    assert lsp.train(unstable(0.25), run, 200, RUNTIME, config=config)
    assert [line["eval/returns"] for line in evaluations(run)] == [[20] * 8] * 2


@pytest.mark.long
def test_an_evaluation_in_which_all_fails_is_counted_and_training_goes_on(tmp_path: Path) -> None:
    class FailsLater(Task):
        resets = 0

        def step(self, action: Any) -> Any:
            if evaluating:
                raise FloatingPointError("unstable")
            return super().step(action)

    evaluating: list[bool] = []
    run, config = tmp_path / "run", settings(eval_every=100, eval_episodes=3)

    original = FailsLater.reset

    def reset(self: Any, *, seed: Any = None, options: Any = None) -> Any:
        from lsp.training.evaluation import episode_seeds

        asked = [seed for attempt in range(4) for seed in episode_seeds(3, attempt)]
        evaluating[:] = [True] * (seed in asked)
        return original(self, seed=seed, options=options)

    FailsLater.reset = reset  # type: ignore[method-assign]
    with pytest.warns(RunWarning, match="every episode of an evaluation failed .FloatingPointErr"):
        assert lsp.train(FailsLater, run, 110, RUNTIME, config=config)
    assert [line["eval/failed"] for line in evaluations(run)] == [3, 3]
    assert all("eval/return" not in line for line in evaluations(run))


@pytest.mark.long
def test_a_run_that_cannot_save_at_first_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lsp.training.trainer.save", full)
        complaint = "no checkpoint can be written .No space left.*, so the run does not start"
        with pytest.raises(UserError, match=complaint):
            lsp.train(Task, tmp_path / "run", 60, RUNTIME, config=settings())
    assert not list((tmp_path / "run" / "episodes").glob("*"))
    # And where there is room again the same call starts it.
    assert lsp.train(Task, tmp_path / "run", 60, RUNTIME, config=settings())
