"""The outer loop: resuming is exact, updates keep their schedule, and a tiny task is learned."""

import shutil
from dataclasses import replace
from functools import cache
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from builders import short_run

from lsp.algorithm.learner import Learner
from lsp.backends.hardware import compiler
from lsp.config import RuntimeConfig, make_config
from lsp.models.networks import Networks
from lsp.runs.folder import RunFolder
from lsp.runs.metrics import read_metrics
from lsp.runs.provenance import provenance
from lsp.training.parts import open_run
from lsp.training.trainer import Trainer

RUNTIME = RuntimeConfig(compile=False)
KERNELS = RuntimeConfig(compile=True)
TIMES = {"time", "steps_per_second", "wall_hours", "eval/seconds", "save_seconds"}


def open_trainer(path: Any, config: Any, make_env: Any = None, runtime: Any = RUNTIME) -> Any:
    folder = RunFolder(path)
    folder.open(config, runtime)
    return Trainer(open_run(config, folder, runtime, make_env))


def train(path: Any, config: Any, *stops: Any, make_env: Any = None, runtime: Any = RUNTIME) -> Any:
    """Run to each of `stops` in turn, every time with a trainer opened anew; the last trainer."""
    for stop in stops:
        trainer = open_trainer(path, config, make_env, runtime)
        trainer.run(stop)
        trainer.close()
    return trainer


def test_a_run_says_in_what_precision_it_imagines(tmp_path: Any) -> None:
    # On a CPU its own instructions decide; on a GPU, and by the user's wish, nothing else does.
    cases: list[Any] = [("lsp", "cuda", True, "bfloat16"), ("lsp", "cuda", False, "float32")]
    cases += [("dreamer", "cpu", False, "float32"), ("hiro", "cuda", True, None)]
    for method, device, bf16, expected in cases:
        info = provenance(make_config(method, "fast"), RuntimeConfig(device=device, bf16=bf16))
        assert info["precision"] == expected


def lines(path: Any, kinds: Any = ("train", "episode", "eval")) -> Any:
    """What was measured, without what depends on the clock."""
    return [
        {key: value for key, value in line.items() if key not in TIMES}
        for line in read_metrics(path)
        if line["kind"] in kinds
    ]


def assert_same_learning(one: Any, other: Any) -> None:
    """Everything that the future of training depends on is the same, bit for bit."""
    assert one.env_steps == other.env_steps
    assert one.counters.updates == other.counters.updates
    states = [
        t.networks.state_dict()
        | {f"agent/{name}": x for name, x in t.parts.agent.state().items()}
        | {"generator": t.learner.generator.get_state()}
        for t in (one, other)
    ]
    assert states[0].keys() == states[1].keys()
    differing = [name for name in states[0] if not torch.equal(states[0][name], states[1][name])]
    assert not differing
    for name, optimizer in one.learner.optimizers.items():
        others = other.learner.optimizers[name].state_dict()["state"]
        for index, state in optimizer.state_dict()["state"].items():
            assert all(torch.equal(x, others[index][key]) for key, x in state.items())
    samplers = [t.parts.sampler.bit_generator.state for t in (one, other)]
    assert samplers[0] == samplers[1]
    for mine, theirs in zip(one.replay.episodes(), other.replay.episodes(), strict=True):
        assert mine.keys() == theirs.keys()
        assert all(np.array_equal(mine[key], theirs[key]) for key in mine)


class Slope(gymnasium.Env[Any, Any]):
    """A point on a line, moved by up to a fifth a step; the reward is where it is, -1 to 1."""

    observation_space = gymnasium.spaces.Dict(
        {"position": gymnasium.spaces.Box(-1, 1, (1,), np.float32)}
    )
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    length = 20

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.position, self.time = self.np_random.uniform(-1, 1), 0
        return self._observe(), {"env_steps": 0}

    def step(self, action: Any) -> Any:
        self.position = float(np.clip(self.position + 0.2 * action[0], -1, 1))
        self.time += 1
        return self._observe(), self.position, False, self.time == self.length, {"env_steps": 1}

    def _observe(self) -> Any:
        return {"position": np.array([self.position], np.float32)}


class Cliff(Slope):
    """The same, but an episode ends where the point falls off on the left."""

    def step(self, action: Any) -> Any:
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, self.position <= -1, truncated, info


def slope_config(method: Any = "lsp", **schedule: Any) -> Any:
    config = make_config(method, "debug", task="slope")
    defaults = {"prefill": 100, "update_every": 10, "log_every": 50, "eval_every": 0}
    return replace(
        config,
        model=replace(config.model, termination=True),
        schedule=replace(config.schedule, **(defaults | schedule)),
    )


@pytest.mark.usefixtures("short_episodes")
@pytest.mark.parametrize(
    ("method", "runtime"), [("lsp", RUNTIME), ("dreamer", RUNTIME), ("lsp", KERNELS)]
)
def test_a_resumed_run_on_the_walker_equals_an_unbroken_one(
    tmp_path: Any, method: Any, runtime: Any
) -> None:
    if runtime == KERNELS and compiler() is None:
        pytest.skip("no C++ compiler")
    config = short_run(method, seed=3)
    whole = train(tmp_path / "whole", config, 360, runtime=runtime)
    assert whole.counters.updates > 2
    # Broken off in an episode of random actions, between two episodes, and in one of the agent's.
    stops = [160, 200, 260]
    broken = train(tmp_path / "broken", config, *stops, 360, runtime=runtime)
    assert 0 < len(broken.collector.rows[0]) < 25
    assert_same_learning(whole, broken)
    assert_same_but_for_stops(tmp_path / "whole", tmp_path / "broken", stops)


def assert_same_but_for_stops(whole: Any, broken: Any, stops: Any) -> None:
    """The same metrics. A run evaluates when it stops, which a run that goes on need not do."""
    one, other = (
        [x for x in lines(path) if x["kind"] != "eval" or x["env_steps"] not in stops]
        for path in (whole, broken)
    )
    assert one == other


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: Any) -> Any:
    """For a method, the folder and the trainer of a run on the slope that was never broken off."""

    @cache
    def run(method: Any) -> Any:
        path = tmp_path_factory.mktemp("whole") / method
        return path, train(path, slope_config(method), 180, make_env=Slope)

    return run


@pytest.mark.parametrize(
    ("method", "stop"),
    # During prefill, in an episode, just before and at a line of metrics.
    [
        ("lsp", 63),
        ("lsp", 112),
        ("lsp", 149),
        ("lsp", 150),
        ("dreamer", 112),
        ("dreamer", 149),
        ("random_skills", 112),
        ("rand_skills_init", 112),
        ("no_mi", 112),
        ("cem", 112),
        ("hiro", 112),
    ],
)
def test_it_does_not_matter_where_a_run_is_broken_off(
    tmp_path: Any, unbroken: Any, method: Any, stop: Any
) -> None:
    path, whole = unbroken(method)
    broken = train(tmp_path / "broken", slope_config(method), stop, 180, make_env=Slope)
    assert_same_learning(whole, broken)
    assert_same_but_for_stops(path, tmp_path / "broken", [stop])


@pytest.mark.parametrize("method", ["lsp", "hiro"])
def test_a_run_goes_on_on_another_kind_of_device(tmp_path: Any, method: Any) -> None:
    first = open_trainer(tmp_path / "one", slope_config(method), Slope)
    for part in (first.parts.agent, first.learner):
        part.state = elsewhere(part.state)
    first.run(112)
    first.close()
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    went_on = [
        train(tmp_path / name, slope_config(method), 180, make_env=Slope)
        for name in ("one", "other")
    ]
    assert_same_learning(*went_on)
    assert not went_on[0].fresh
    assert went_on[0].counters.updates > first.counters.updates


def elsewhere(state: Any) -> Any:
    """The state of a part whose random generator is that of a GPU, which has 16 bytes."""
    return lambda: state() | {"generator": torch.arange(16, dtype=torch.uint8)}


def test_a_run_that_died_goes_on_from_its_last_checkpoint(tmp_path: Any) -> None:
    config = slope_config(save_every=50)
    whole = train(tmp_path / "whole", config, 180, make_env=Slope)
    dead = open_trainer(tmp_path / "broken", config, Slope)

    def die(progress: Any) -> None:
        if progress.env_steps >= 150:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dead.run(180, die)
    dead.close()
    broken = open_trainer(tmp_path / "broken", config, Slope)
    assert broken.env_steps == 100
    broken.run(180)
    broken.close()
    assert_same_learning(whole, broken)
    assert lines(tmp_path / "whole") == lines(tmp_path / "broken")


def test_running_a_finished_run_again_changes_nothing(tmp_path: Any) -> None:
    config = slope_config()
    first = train(tmp_path, config, 130, make_env=Slope)
    before = lines(tmp_path)
    assert_same_learning(first, train(tmp_path, config, 130, make_env=Slope))
    assert lines(tmp_path) == before


@pytest.mark.parametrize(("update_every", "pretrain"), [(4, 2), (7, 0), (1, 5)])
def test_updates_keep_their_schedule_in_env_steps(
    tmp_path: Any, update_every: Any, pretrain: Any
) -> None:
    config = slope_config(update_every=update_every, pretrain=pretrain)
    trainer = open_trainer(tmp_path, config, Slope)
    counts: dict[int, int] = {}
    learn = trainer._learn

    def count() -> None:
        counts[trainer.env_steps] = counts.get(trainer.env_steps, 0) + 1
        learn()

    trainer._learn = count
    trainer.run(130)
    trainer.close()
    # Episodes of 20 steps: prefill of 100 ends at 100, where the first updates happen.
    expected = {100: pretrain} if pretrain else {}
    expected |= dict.fromkeys(range(100 + update_every, 130, update_every), 1)
    assert counts == expected


def test_prefill_acts_at_random_and_training_does_not(tmp_path: Any) -> None:
    trainer = train(tmp_path, slope_config(), 160, make_env=Slope)
    episodes = list(trainer.replay.episodes())
    assert len(episodes) == 8
    for number, episode in enumerate(episodes):
        assert len(episode["reward"]) == 21
        assert episode["env_steps"].sum() == 20
        assert np.abs(episode["action"]).max() <= 1
        assert (episode["action"][0] == 0).all(), number
        # The action of row t led from observation t - 1 to observation t.
        position, action = episode["obs/position"][:, 0], episode["action"][:, 0]
        led_to = np.clip(position[:-1] + 0.2 * action[1:], -1, 1)
        np.testing.assert_allclose(position[1:], led_to, atol=1e-6)
        np.testing.assert_allclose(episode["reward"][1:], position[1:], atol=1e-6)
    drawn = np.concatenate([episode["action"][1:, 0] for episode in episodes[:5]])
    np.testing.assert_array_equal(
        drawn, np.random.default_rng([0, 1]).uniform(-1, 1, 100).astype(np.float32)
    )


def test_seeds_differ_and_the_same_seed_does_not(tmp_path: Any) -> None:
    one, same, other = (
        train(tmp_path / name, replace(slope_config(), seed=seed), 130, make_env=Slope)
        for name, seed in (("one", 0), ("same", 0), ("other", 1))
    )
    assert_same_learning(one, same)
    weights = [t.networks.policy.net[0].weight for t in (one, other)]
    assert not torch.equal(*weights)


def test_episodes_that_end_early_are_learned_from(tmp_path: Any) -> None:
    trainer = train(tmp_path, slope_config(), 200, make_env=Cliff)
    episodes = list(trainer.replay.episodes())
    ended = [episode for episode in episodes if episode["is_terminal"].any()]
    assert ended
    for episode in ended:
        assert episode["is_terminal"][-1]
        assert not episode["is_terminal"][:-1].any()
        assert episode["obs/position"][-1, 0] == -1
    last = lines(tmp_path, ("train",))[-1]
    assert last["model/termination_loss"] > 0
    assert "non_finite" not in last


def learner_config(method: Any) -> Any:
    """Debug sizes, but learning rates and updates that get somewhere in seconds."""
    config = slope_config(method, prefill=200, update_every=3, pretrain=50, log_every=100)
    return replace(
        config,
        model=replace(config.model, learning_rate=3e-3, free_nats=0.5, deter=24, hidden=24),
        policy=replace(config.policy, learning_rate=3e-3, layers=(24, 24)),
        value=replace(config.value, learning_rate=3e-3, slow_rate=0.1),
        skills=replace(config.skills, learning_rate=3e-3, intrinsic_scale=0.02),
        planner=replace(config.planner, horizon=8, skill_length=1 if config.plans_actions else 4),
        behavior=replace(config.behavior, horizon=8, num_starts=16),
        replay=replace(config.replay, batch=8, length=12),
        schedule=replace(config.schedule, eval_episodes=20),
    )


# With skills 33 updates after those of the beginning are enough.
LEARNERS: list[Any] = [("lsp", 400), ("dreamer", 800)]
LEARNERS += [pytest.param("cem", 800, marks=pytest.mark.slow)]
LEARNERS += [pytest.param(x, 400, marks=pytest.mark.slow) for x in ("no_mi", "random_skills")]


@pytest.mark.parametrize(("method", "steps"), LEARNERS)
def test_walking_up_the_slope_is_learned(tmp_path: Any, method: Any, steps: Any) -> None:
    config = replace(learner_config(method), seed=1)
    trainer = train(tmp_path, config, steps, make_env=Slope)
    # 20 steps of 1 less the way up are 17.2 at best; chance is 0, with a deviation of 2 or 3.
    random = np.mean([x["reward"].sum() for x in list(trainer.replay.episodes())[:10]])
    assert random < 7
    assert trainer.counters.eval_return > 12


def test_a_trainer_takes_any_parts(tmp_path: Any) -> None:
    """Algorithm 1 with a learner that only counts: an update every `update_every` env steps."""

    class CountingLearner(Learner):
        updates = 0

        def update(self, batch: Any, env_steps: Any = 0, hold_policy: Any = False) -> Any:
            self.updates += 1
            return {"model/loss": torch.zeros(())}

    parts = open_run(slope_config(pretrain=3), RunFolder(tmp_path / "run"), RUNTIME, Slope)
    assert isinstance(parts.networks, Networks)
    parts.learner = CountingLearner(parts.networks, seed=0)
    trainer = Trainer(parts)
    trainer.run(200)
    trainer.close()
    since = trainer.counters.learning_since
    assert since is not None
    assert parts.learner.updates == 3 + (199 - since) // 10  # none after the last step
