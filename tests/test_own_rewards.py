"""Rewards of a user's own: what they read, what they pay for old episodes, and what is refused."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit, TransformReward
from own_tasks import Reach

import lsp
from lsp.config import RuntimeConfig, TransferConfig, make_config
from lsp.envs import make_env
from lsp.envs.rewards import OwnReward, own_reward
from lsp.errors import UserError
from lsp.runs.folder import RunFolder
from lsp.training.relabel import relabelled, rewards_of
from lsp.training.replay import Replay

PLAIN = RuntimeConfig(compile=False, threads=1)


def upwards(observations: Any, actions: Any) -> Any:
    """Irrational enough for its last bits to show."""
    height = np.sin(observations["position"][:, 1] * 3.7)
    return height / 3 - 0.1 * (actions**2).sum(-1)


def leftwards(states: Any, actions: Any) -> Any:
    return -states[:, 0] / 3 + 0.01 * actions[:, 1]


class Told(Reach):
    """A task that tells its simulator's state, and what it pays for one."""

    def reset(self, **given: Any) -> Any:
        observation, info = super().reset(**given)
        return observation, info | {"sim_state": self.state()}

    def step(self, action: Any) -> Any:
        observation, _, *ends, info = super().step(action)
        self.reached = self.distance() < 0.2
        state = self.state()
        paid = float(self.reward_at(state[None], np.asarray(action)[None])[0])
        return observation, paid, *ends, info | {"sim_state": state}

    def state(self) -> Any:
        return np.concatenate([self.position, self.goal])

    def reward_at(self, states: Any, actions: Any) -> Any:
        return states[:, 0] / 7 + 5 * np.asarray(actions)[:, 0]


class Scaled(gymnasium.ActionWrapper[Any, Any, Any]):
    """A user's own wrapper."""

    def action(self, action: Any) -> Any:
        return 0.5 * action


def play(env: Any, steps: int = 30, seed: int = 0) -> Any:
    """An episode as the replay stores it."""
    rng = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    rows: list[Any] = []

    def keep(action: Any, reward: Any) -> None:
        row = {f"obs/{key}": x for key, x in observation.items()}
        row |= {"action": action, "reward": np.float32(reward), "env_steps": info["env_steps"]}
        rows.append(row | {k: info[k] for k in ("sim_state",) if k in info})

    keep(np.zeros(env.action_space.shape, np.float32), 0)
    for _ in range(steps):
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        observation, reward, terminated, truncated, info = env.step(action)
        keep(action, reward)
        if terminated or truncated:
            break
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def complaint(call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(UserError) as raised:
        call(*arguments, **named)
    assert "\n" not in str(raised.value)
    return str(raised.value)


TASKS: Any = {
    "wrapped": lambda: Scaled(TimeLimit(Reach(), 21)),
    "suite": "walker_walk",
}


@pytest.mark.parametrize("task", TASKS)
def test_a_reward_of_observations_pays_the_same_then_and_later(task: Any, tmp_path: Any) -> None:
    def pay(observations: Any, actions: Any) -> Any:
        values = next(iter(observations.values()))
        return np.sin(values[:, 0] * 3.7) / 3 + values[:, 1] - 0.1 * (actions**2).sum(-1)

    env = make_env(TASKS[task], action_repeat=2, reward=pay)
    episode = play(env)
    assert np.ptp(episode["reward"]) > 0.01
    again = relabelled(episode | {"reward": None}, rewards_of(env, "task"), tmp_path)
    np.testing.assert_array_equal(again["reward"], episode["reward"])
    first = next(key for key in episode if key.startswith("obs/"))
    rows = {first.removeprefix("obs/"): episode[first].astype(np.float64)}
    by_hand = pay(rows, episode["action"]) * episode["env_steps"]
    np.testing.assert_array_equal(by_hand[1:].astype(np.float32), episode["reward"][1:])
    if task == "wrapped":  # the time limit came within the last action
        assert episode["env_steps"].tolist() == [0] + [2] * 10 + [1]


def test_a_task_that_says_what_it_pays_for_states_is_taken_at_its_word(tmp_path: Any) -> None:
    env = make_env(lambda: TimeLimit(Told(), 21), action_repeat=2)
    episode = play(env)
    assert episode["sim_state"].shape == (12, 2, 4)
    again = relabelled(episode | {"reward": None}, rewards_of(env, "task"), tmp_path)
    np.testing.assert_array_equal(again["reward"], episode["reward"])
    assert np.ptp(again["reward"]) > 0.1  # 5 times an action of the task's own, in ±0.1

    def doubled() -> Any:
        return TransformReward(Told(), lambda reward: 2 * float(reward))

    assert "TransformReward has none" in complaint(rewards_of, make_env(doubled), "mine")
    assert "Reach has none" in complaint(rewards_of, make_env(Reach), "mine")


def test_a_reward_of_states_pays_where_a_task_tells_them(tmp_path: Any) -> None:
    env = make_env(Told, action_repeat=2, reward=leftwards)
    episode = play(env)
    paid = [
        sum(leftwards(s, a[None].repeat(2, 0)))
        for s, a in zip(*(episode[key][1:] for key in ("sim_state", "action")))
    ]
    np.testing.assert_allclose(episode["reward"][1:], paid, rtol=1e-6)
    again = relabelled(episode | {"reward": None}, rewards_of(env, "task"), tmp_path)
    np.testing.assert_array_equal(again["reward"], episode["reward"])
    none = make_env(Reach, reward=leftwards)
    none.reset(seed=0)
    assert "tells none in info['sim_state']" in complaint(none.step, np.zeros(2, np.float32))


def test_states_that_come_and_go_are_an_error() -> None:
    class Forgetful(Told):
        def step(self, action: Any) -> Any:
            *given, info = super().step(action)
            return *given, {"success": info["success"]}

    env = make_env(Forgetful)
    env.reset(seed=0)
    assert "info['sim_state'] is none at step 1" in complaint(env.step, np.zeros(2, np.float32))


def mixing(observations: Any, actions: Any) -> Any:
    return observations["position"][:, 0] - observations["position"][:, 0].mean()


def failing(observations: Any, actions: Any) -> Any:
    return observations["speed"]


def not_finite(observations: Any, actions: Any) -> Any:
    return np.full(len(actions), np.nan)


def leaving(observations: Any, actions: Any) -> Any:
    raise SystemExit


def a_number(observations: Any, actions: Any) -> Any:
    return 1.0


def a_column(observations: Any, actions: Any) -> Any:
    return np.ones((len(actions), 1))


def nameless(x: Any, y: Any) -> Any:
    return np.ones(len(y))


REFUSED = {
    "mixing": "must pay each row by itself",
    "failing": "failed: KeyError: 'speed'",
    "not_finite": "must return one finite number",
    "leaving": "failed: RuntimeError: it called sys.exit(None)",
    "a_number": "of shape ()",
    "a_column": "of shape (1, 1)",
    "nameless": "first parameter must be called `observations` or `states`",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_reward_does_wrong_is_said_before_anything_is_written(
    name: Any, tmp_path: Any
) -> None:
    config = make_config("lsp", "debug", action_repeat=1)
    for reward in (globals()[name], f"test_own_rewards:{name}"):
        call = (Reach, tmp_path / "run", 100, PLAIN)
        assert REFUSED[name] in complaint(lsp.train, *call, config=config, reward=reward)
        assert REFUSED[name] in complaint(lsp.check, Reach, config=config, reward=reward)
    assert not (tmp_path / "run").exists()


def test_a_reward_gets_copies_and_may_be_an_object() -> None:
    class Meddling:
        def __call__(self, observations: Any, actions: Any) -> Any:
            observations["position"][:], actions[:] = 7, 7
            return np.ones(len(actions))

    seen, actions = {"position": np.zeros((2, 2), np.float32)}, np.zeros((2, 2), np.float32)
    own = own_reward(Meddling())
    assert own(seen, actions).tolist() == [1, 1]
    assert not seen["position"].any()
    assert not actions.any()
    assert own.name.startswith("python:test_own_rewards.test_a_reward_gets_copies")
    assert (own.reads, OwnReward(leftwards).reads) == ("observations", "states")
    assert "write it as package.module:function" in complaint(own_reward, "spin")


def test_a_reward_from_python_trains_transfers_and_relabels(tmp_path: Any) -> None:
    def wrapped() -> Any:
        return Scaled(Reach())

    config = make_config("lsp", "debug", action_repeat=2)
    source = tmp_path / "source"
    assert lsp.train(wrapped, source, 300, PLAIN, config=config)
    run, relabel = tmp_path / "run", TransferConfig(relabel=True, updates=1)
    call = (source, wrapped, run, 60, PLAIN)
    assert lsp.transfer(*call, reward=upwards, transfer=relabel)
    noted = RunFolder(run).read_config()
    assert noted.reward == "python:test_own_rewards.upwards"
    assert "pass it again, as reward=function" in complaint(lsp.train, noted, run, 80, PLAIN)
    for episode in Replay.stream(RunFolder(run).episodes, 2, RunFolder(run).id):
        rows = {"position": episode["obs/position"].astype(np.float64)}
        paid = upwards(rows, episode["action"]) * episode["env_steps"]
        np.testing.assert_array_equal(episode["reward"][1:], paid[1:].astype(np.float32))
