"""Several environments at once: each has its own actions and its own end, and can be resumed."""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from forked import SERVER
from test_train import assert_same_but_for_stops, assert_same_learning, open_trainer, train

from lsp.algorithm.agent import Agent
from lsp.config import make_config, validated
from lsp.envs import make_env
from lsp.envs.lookup import Maker
from lsp.envs.vector import Failure, InProcess, Step, Workers
from lsp.errors import NotFinite, RunWarning, UserError
from lsp.models.networks import Networks
from lsp.training.collector import Collector
from lsp.training.parts import env_maker
from lsp.training.replay import Replay

THIRD = 1 / 3  # no float32


def echo(shortest: Any = 5, longest: Any = 25, image: Any = True, trouble: Any = None) -> Any:
    """A class of environments that observe what was done to them.

    Episodes end after a random number of steps, by themselves where it is odd. It is made here
    because a class of the module would take the module, and torch, to the worker processes.
    """

    class Echo(gymnasium.Env):
        observation_space = gymnasium.spaces.Dict(
            {
                "action": gymnasium.spaces.Box(-1, 1, (2,), np.float32),
                "time": gymnasium.spaces.Box(0, np.inf, (1,), np.float32),
                "seed": gymnasium.spaces.Box(0, np.inf, (1,), np.float32),
            }
        )
        if image:
            observation_space["image"] = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
        action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.time, self.seed = 0, seed
            self.length = self.np_random.integers(shortest, longest + 1)
            return self.observe(np.zeros(2)), self.info(0)

        def step(self, action: Any) -> Any:
            self.time += 1
            if trouble == "raises" and self.time == 2:
                raise ZeroDivisionError("two\nlines")
            if trouble == "hangs" and self.time == 2:
                time.sleep(600)
            ended, odd = self.time >= self.length, bool(self.length % 2)
            reward = float(action[0]) * THIRD
            return self.observe(action), reward, ended and odd, ended and not odd, self.info(1)

        def observe(self, action: Any) -> Any:
            seen = {"image": np.full((64, 64, 3), self.time, np.uint8)} if image else {}
            return seen | {
                "action": np.asarray(action, np.float32),
                "time": np.array([self.time], np.float32),
                "seed": np.array([self.seed % 65536], np.float32),
            }

        def info(self, env_steps: Any) -> Any:
            state = [self.time + THIRD, os.getpid(), "torch" in sys.modules]
            info = {"env_steps": env_steps, "sim_state": np.array([state]), "junk": object()}
            return info | {"success": self.time > 3}

    return Echo


def episode_seed(seed: Any, number: Any) -> Any:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1)


@pytest.fixture
def forked_workers(monkeypatch: Any) -> None:
    """Those of a test that is not about how they start: each would take a second to import."""
    monkeypatch.setattr("lsp.envs.vector._CONTEXT", SERVER)


def open_workers(make: Any, count: Any = 3) -> Any:
    return Workers(make, count, make(), "echo")


@pytest.fixture(scope="module")
def workers() -> Any:
    opened = open_workers(echo())
    yield opened
    opened.close()


ACTIONS = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], np.float32)


def test_each_worker_gets_its_own_seed_and_action(workers: Any) -> None:
    begun = workers.reset({0: 10, 1: 11, 2: 12})
    assert [float(begun[i].observation["seed"][0]) for i in range(3)] == [10, 11, 12]
    assert all(step.info["env_steps"] == 0 for step in begun.values())
    steps = workers.step(ACTIONS)
    for step, action in zip(steps, ACTIONS, strict=True):
        np.testing.assert_array_equal(step.observation["action"], action)
        assert step.reward == float(action[0]) * THIRD
        assert (step.terminated, step.truncated) == (False, False)


def test_what_a_worker_reports_arrives_unchanged(workers: Any) -> None:
    workers.reset({0: 0, 1: 1, 2: 2})
    step = workers.step(ACTIONS)[1]
    assert step.observation["image"].dtype == np.uint8
    assert (step.observation["image"] == 1).all()
    assert step.info["sim_state"].dtype == np.float64
    assert step.info["sim_state"].shape == (1, 3)
    assert step.info["sim_state"][0, 0] == 1 + THIRD
    assert step.info["env_steps"] == 1
    assert not step.info["success"]
    assert "junk" not in step.info


def test_earlier_observations_are_not_written_over(workers: Any) -> None:
    workers.reset({0: 0, 1: 1, 2: 2})
    before = workers.step(ACTIONS)[0]
    workers.step(ACTIONS)
    assert (before.observation["image"] == 1).all()
    assert before.info["sim_state"][0, 0] == 1 + THIRD


def test_one_env_is_reset_while_the_others_go_on(workers: Any) -> None:
    workers.reset({0: 0, 1: 1, 2: 2})
    workers.step(ACTIONS)
    assert list(workers.reset({1: 7})) == [1]
    steps = workers.step(ACTIONS)
    assert [float(step.observation["time"][0]) for step in steps] == [2, 1, 2]
    assert float(steps[1].observation["seed"][0]) == 7


def test_actions_are_repeated_by_their_own_env(workers: Any) -> None:
    actions = {0: np.stack([ACTIONS[0]] * 4), 2: ACTIONS[:2]}
    begun = workers.reset({0: 0, 1: 1, 2: 2}, actions)
    assert [float(begun[i].observation["time"][0]) for i in range(3)] == [4, 0, 2]
    np.testing.assert_array_equal(begun[0].observation["action"], ACTIONS[0])
    np.testing.assert_array_equal(begun[2].observation["action"], ACTIONS[1])


def test_workers_are_processes_of_their_own_without_torch(workers: Any) -> None:
    begun = workers.reset({0: 0, 1: 1, 2: 2})
    states = [step.info["sim_state"][0] for step in begun.values()]
    assert len({os.getpid(), *(state[1] for state in states)}) == 4
    assert not any(state[2] for state in states)


def test_ctrl_c_reaches_the_main_process_alone(workers: Any) -> None:
    workers.reset({0: 0, 1: 1, 2: 2})
    for process in workers.processes:
        assert os.getpgid(process.pid) != os.getpgid(0)
        os.kill(process.pid, signal.SIGINT)
    time.sleep(0.1)
    assert len(workers.step(ACTIONS)) == 3


def assert_only_fails(workers: Any, index: Any, *words: Any) -> None:
    """That environment says so in its answer, and goes on with the others after a reset."""
    outcomes = workers.step(ACTIONS[: workers.count])
    for other, outcome in enumerate(outcomes):
        assert isinstance(outcome, Failure if other == index else Step)
    assert all(word in outcomes[index].reason for word in words)
    assert isinstance(workers.reset({index: 7})[index], Step)
    steps = workers.step(ACTIONS[: workers.count])
    expected = [3.0] * workers.count
    expected[index] = 1.0
    assert [float(step.observation["time"][0]) for step in steps] == expected
    assert all(process.is_alive() for process in workers.processes)
    processes = workers.processes
    workers.close()
    assert not any(process.is_alive() for process in processes)


@pytest.mark.usefixtures("forked_workers")
def test_a_worker_that_dies_is_replaced_while_the_others_go_on() -> None:
    workers = open_workers(echo())
    workers.reset({0: 0, 1: 1, 2: 2})
    workers.step(ACTIONS)
    os.kill(workers.processes[1].pid, signal.SIGKILL)
    assert_only_fails(workers, 1, "worker process died, exit code -9")


@pytest.mark.usefixtures("forked_workers")
def test_an_environment_that_raises_is_made_anew_while_the_others_go_on() -> None:
    workers = open_workers(echo(trouble="raises"), 2)
    workers.reset({0: 0, 1: 1})
    workers.step(ACTIONS[:2])
    first = workers.step(ACTIONS[:2])
    assert [outcome.reason for outcome in first] == ["ZeroDivisionError: two lines"] * 2
    begun = workers.reset({0: 2, 1: 3})
    assert all(isinstance(step, Step) for step in begun.values())
    workers.close()


@pytest.mark.usefixtures("forked_workers")
def test_a_worker_that_hangs_is_replaced() -> None:
    like = echo()()
    workers = Workers(echo(trouble="hangs"), 2, like, "echo", patience=20.0)
    workers.reset({0: 0, 1: 1})
    workers.step(ACTIONS[:2])
    workers.patience = 0.5
    outcomes: Any = workers.step(ACTIONS[:2])
    assert all("did not answer" in outcome.reason for outcome in outcomes)
    workers.patience = 20.0
    assert isinstance(workers.reset({0: 5})[0], Step)
    workers.close()


@pytest.mark.usefixtures("forked_workers")
def test_a_user_error_of_the_environment_is_handed_on() -> None:
    like = make_env("cartpole_balance")
    workers = Workers(partial(make_env, "cartpole_balance"), 2, like, "cartpole_balance")
    workers.reset({0: 0, 1: 1})
    with pytest.raises(UserError, match=r"^cartpole_balance: an action must be 1 numbers"):
        workers.step(np.full((2, 1), np.nan, np.float32))
    workers.close()
    like.close()


def test_an_environment_that_cannot_be_sent_is_an_error_of_one_line() -> None:
    made, lock = echo(), threading.Lock()  # which cannot be pickled
    with pytest.raises(UserError, match=r"^echo: .*cannot be sent.*num_envs = 1$"):
        Workers(lambda: made() if lock else None, 2, made(), "echo")


@pytest.mark.usefixtures("forked_workers")
def test_a_worker_simulates_what_this_process_does() -> None:
    make = partial(make_env, "walker_walk")
    here = make()
    workers = Workers(make, 2, here, "walker_walk")
    begun: Any = workers.reset({0: 5, 1: 6})
    one = InProcess(here)
    for index, seed in enumerate((5, 6)):
        mine: Any = one.reset({0: seed})[0]
        for key, value in mine.observation.items():
            np.testing.assert_array_equal(begun[index].observation[key], value)
        np.testing.assert_array_equal(begun[index].info["sim_state"], mine.info["sim_state"])
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 2, 6)).astype(np.float32)
    for pair in actions:
        steps: Any = workers.step(pair)
        mine = one.step(pair[1:])[0]
        assert steps[1].reward == mine.reward
        assert steps[1].info["env_steps"] == mine.info["env_steps"] == 2
        np.testing.assert_array_equal(steps[1].info["sim_state"], mine.info["sim_state"])
        for key, value in mine.observation.items():
            np.testing.assert_array_equal(steps[1].observation[key], value)
    workers.close()
    here.close()


class Clockwork(Agent):
    """Acts with what it sees of each env: its seed and its time, made small."""

    begun: list[int]

    def begin(self, index: Any) -> None:
        self.begun = [*getattr(self, "begun", []), index]
        super().begin(index)

    def act(self, observation: Any, skill: Any = None) -> Any:
        seen = np.concatenate([observation["seed"] / 65536, observation["time"] / 256], 1)
        return seen.astype(np.float32)


def make_agent(count: Any) -> Any:
    shapes = {"action": (2,), "time": (1,), "seed": (1,)}
    return Clockwork(Networks(shapes, 2, make_config("lsp", "debug")), "collect", count)


def check_clockwork(rows: Any) -> None:
    """Row t + 1 did what the agent said at row t, in every row of an episode."""
    seen = np.concatenate([rows["obs/seed"] / 65536, rows["obs/time"] / 256], 1)
    np.testing.assert_array_equal(rows["action"][1:], seen[:-1].astype(np.float32))
    np.testing.assert_array_equal(rows["obs/action"][1:], rows["action"][1:])
    np.testing.assert_array_equal(rows["obs/time"][:, 0], np.arange(len(rows["action"])))


def test_every_env_acts_on_its_own_observations(workers: Any) -> None:
    replay, agent = Replay(None, None), make_agent(3)
    kept: list[Any] = []
    replay.add = kept.append  # type: ignore[assignment, method-assign]
    collector = Collector(workers, agent, replay, seed=4)
    collector.random = False
    summaries = [summary for _ in range(60) for summary in collector.step()]
    assert len(summaries) == len(kept) > 5
    for rows, summary in zip(kept, summaries, strict=True):
        check_clockwork(rows)
        assert summary.env_steps == len(rows["action"]) - 1 == rows["env_steps"].sum()
        assert summary.total == pytest.approx(rows["reward"].sum())
        odd = summary.env_steps % 2 == 1
        assert rows["is_terminal"][-1] == odd
        assert not rows["is_terminal"][:-1].any()
    assert len({summary.env_steps for summary in summaries}) > 2
    assert collector.env_steps == 3 * 60
    unfinished = sum(len(rows) - 1 for rows in collector.rows if rows)
    assert sum(summary.env_steps for summary in summaries) + unfinished == 180
    # Each episode has the seed of its number, and the agent was told of each.
    begun = [rows["obs/seed"][0, 0] for rows in kept]
    begun += [rows[0]["obs/seed"][0] for rows in collector.rows if rows]
    expected = [episode_seed(4, number) % 65536 for number in range(collector.begun)]
    assert sorted(begun) == sorted(expected)
    assert len(agent.begun) == collector.begun


def test_one_env_counts_its_seeds_by_episodes() -> None:
    replay = Replay(None, None)
    collector = Collector(InProcess(echo()()), make_agent(1), replay, seed=4)
    for number in range(4):
        while not collector.step():
            assert collector.rows[0][0]["obs/seed"][0] == episode_seed(4, number) % 65536
    assert replay.num_episodes == 4


def test_a_success_that_is_told_only_where_there_is_one_is_none_elsewhere() -> None:
    class Once(gymnasium.Wrapper):
        number = -1

        def reset(self, **given: Any) -> Any:
            self.number += 1
            return super().reset(**given)

        def step(self, action: Any) -> Any:
            *given, info = super().step(action)
            info.pop("success")
            return *given, info | ({"success": True} if self.number == 1 else {})

    collector = Collector(InProcess(Once(echo()())), make_agent(1), Replay(None, None), seed=4)
    told: list[bool | None] = []
    while len(told) < 3:
        told += [summary.success for summary in collector.step()]
    assert told == [None, True, False]


def echo_config(num_envs: Any = 2, **schedule: Any) -> Any:
    config = make_config("lsp", "debug", num_envs=num_envs, seed=2)
    settings = {"prefill": 100, "log_every": 50, "eval_every": 0, "update_every": 20} | schedule
    model = replace(config.model, termination=True)
    return replace(config, schedule=replace(config.schedule, **settings), model=model)


BLIND = env_maker(echo_config(), Maker(echo(image=False)))


@pytest.mark.usefixtures("forked_workers")
def test_several_envs_resume_exactly(tmp_path: Any) -> None:
    config = echo_config()
    whole = train(tmp_path / "whole", config, 330, make_env=BLIND)
    # Broken off while acting at random, and while the agent acts; mostly in mid-episode.
    broken = train(tmp_path / "broken", config, 60, 220, 330, make_env=BLIND)
    assert whole.counters.updates > 5
    assert len({len(rows) for rows in broken.collector.rows}) > 1
    assert_same_learning(whole, broken)
    assert whole.collector.numbers == broken.collector.numbers
    ends = {line["env_steps"] for line in evaluations(tmp_path / "broken")}
    assert_same_but_for_stops(tmp_path / "whole", tmp_path / "broken", ends - {whole.env_steps})
    assert len(ends) == 3


def evaluations(path: Any) -> Any:
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "eval"]


@pytest.mark.usefixtures("forked_workers")
def test_env_steps_are_those_of_all_envs(tmp_path: Any) -> None:
    trainer = train(tmp_path, echo_config(), 260, make_env=BLIND)
    episodes = list(trainer.replay.episodes())
    taken = sum(episode["env_steps"].sum() for episode in episodes)
    taken += sum(row["env_steps"] for rows in trainer.collector.rows for row in rows)
    assert 260 <= trainer.env_steps == taken < 264
    for episode in episodes:
        # Action repeat is 2, so the last step of an odd episode is half a one.
        assert episode["env_steps"].sum() == episode["obs/time"][-1, 0]
    since, config = trainer.counters.learning_since, trainer.config.schedule
    assert since >= config.prefill
    owed = config.pretrain + (trainer.env_steps - since) // config.update_every
    # Those of the last step are made before the next.
    assert owed - 1 <= trainer.counters.updates <= owed


class Scripted:
    """Two environments of a number each, counting up from their seed; `fails` says when."""

    count, repeatable = 2, True

    def close(self) -> None:
        pass

    def __init__(self, fails: Any = lambda call, index: False, wanders: Any = False) -> None:
        self.fails, self.wanders, self.calls = fails, wanders, 0

    def reset(self, seeds: Any, actions: Any = None) -> Any:
        given = {}
        for index, seed in seeds.items():
            repeated = len((actions or {}).get(index, ()))
            self.time = {**getattr(self, "time", {}), index: repeated}
            self.seed = {**getattr(self, "seed", {}), index: seed % 1000 + 0.5 * self.wanders}
            given[index] = self.outcome(index, 0)
        return given

    def step(self, actions: Any) -> Any:
        self.time = {index: time + 1 for index, time in self.time.items()}
        return [self.outcome(index, 1) for index in range(2)]

    def outcome(self, index: Any, env_steps: Any) -> Any:
        self.calls += 1
        if self.fails(self.calls, index):
            return Failure("it broke")
        seen = np.array([self.time[index]], np.float32)
        seed = np.array([self.seed[index]], np.float32)
        observation = {"time": seen, "seed": seed, "action": np.zeros(2, np.float32)}
        return Step(observation, 1.0, False, self.time[index] == 6, {"env_steps": env_steps})


def collect_from(envs: Any) -> Any:
    return Collector(envs, make_agent(2), Replay(None, None), seed=4)


def take_steps(collector: Any, count: Any) -> None:
    for _ in range(count):
        collector.step()


def test_the_episode_of_a_failed_environment_is_kept_as_truncated_and_the_others_go_on() -> None:
    # Calls 1 and 2 are resets, then two for each step: environment 1 fails in its third step.
    collector = collect_from(Scripted(lambda call, index: call == 8))
    kept: list[Any] = []
    collector.replay.add = kept.append
    for _ in range(2):
        collector.step()
    with pytest.warns(RunWarning, match=r"^walker_walk: environment 1 failed \(it broke\)"):
        collector.step()
    (episode,) = kept
    assert episode["obs/time"][:, 0].tolist() == [0, 1, 2]
    assert not episode["is_terminal"].any()
    collector.step()
    assert [len(rows) for rows in collector.rows] == [5, 2]
    assert collector.numbers == [0, 2]
    assert collector.env_steps == 7


def test_an_environment_that_fails_at_its_first_step_leaves_no_episode() -> None:
    collector = collect_from(Scripted(lambda call, index: call == 4))
    with pytest.warns(RunWarning):
        collector.step()
    assert collector.replay.num_episodes == 0


def test_an_environment_that_fails_again_and_again_is_an_error_of_one_line() -> None:
    collector = collect_from(Scripted(lambda call, index: index == 1))
    with (
        pytest.warns(RunWarning) as warned,
        pytest.raises(UserError, match=r"^walker_walk: environment 1 failed \(it broke\), 4 times"),
    ):
        collector.step()
    assert len(warned) == 3


def test_failures_are_counted_anew_after_a_whole_episode() -> None:
    collector = collect_from(Scripted(lambda call, index: index == 0 and call % 30 == 11))
    with pytest.warns(RunWarning) as warned:
        take_steps(collector, 200)
    assert len(warned) > 3  # which is when those in a row would have ended it


def test_an_episode_that_cannot_be_repeated_is_kept_as_truncated() -> None:
    before = collect_from(Scripted())
    for _ in range(3):
        before.step()
    after = collect_from(Scripted(wanders=True))
    with pytest.warns(RunWarning, match="gave another seed, so it is kept as truncated") as warned:
        after.restore(before.facts(), before.unfinished())
    assert len(warned) == 2
    assert after.replay.num_episodes == 2
    assert len(after.replay) == 8
    assert not after.envs.repeatable
    assert after.can_resume
    after.step()
    assert not after.can_resume
    assert after.env_steps == before.env_steps + 2


def test_actions_are_not_repeated_where_the_environment_forbids_it() -> None:
    before = collect_from(Scripted())
    before.step()
    envs = Scripted()
    envs.repeatable = False
    after = collect_from(envs)
    after.restore(before.facts(), before.unfinished())
    assert envs.calls == 0
    assert after.replay.num_episodes == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["reward", "time"])
def test_what_is_not_finite_is_named_and_not_stored(bad: Any, where: Any) -> None:
    class Broken(Scripted):
        def outcome(self, index: Any, env_steps: Any) -> Any:
            step = super().outcome(index, env_steps)
            if self.calls != 8:  # environment 1, third step
                return step
            if where == "reward":
                return step._replace(reward=bad)
            return step._replace(observation=step.observation | {"time": np.array([bad])})

    collector = collect_from(Broken())
    with pytest.raises(UserError) as error:
        take_steps(collector, 5)
    assert "walker_walk" in str(error.value)
    assert where in str(error.value)
    assert "step 3 of episode 1" in str(error.value)
    assert len(collector.rows[1]) == 3
    assert np.isfinite(collector.unfinished()["reward"]).all()


def test_an_action_that_is_not_finite_stops_with_what_led_to_it() -> None:
    collector = collect_from(Scripted())
    collector.random = False
    collector.step()
    collector.agent.act = lambda observation: np.full((2, 2), np.nan, np.float32)
    with pytest.raises(NotFinite, match="the agent's action at env step 2") as error:
        collector.step()
    assert {"obs/time", "next_action"} <= error.value.arrays.keys()
    assert error.value.arrays["obs/time"].tolist() == [[1], [1]]


@pytest.mark.usefixtures("forked_workers")
def test_a_dead_worker_does_not_end_training(tmp_path: Any) -> None:
    config = echo_config(save_every=50)
    trainer = open_trainer(tmp_path, config, BLIND)
    killed: list[Any] = []

    def kill(progress: Any) -> None:
        if progress.env_steps >= 150 and not killed:
            killed.append(trainer.collector.envs.processes[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    with pytest.warns(RunWarning, match=r"^walker_walk: environment 0 failed .*exit code -9"):
        trainer.run(300, kill)
    trainer.close()
    assert trainer.env_steps >= 300
    resumed = train(tmp_path, config, 400, make_env=BLIND)
    assert resumed.env_steps >= 400


def test_num_envs_must_make_sense() -> None:
    with pytest.raises(UserError, match="num_envs must be at least 1, not 0"):
        validated(make_config(num_envs=0))
