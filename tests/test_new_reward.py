"""A reward without training: what is read, fitted, planned and said, and what stays as it is."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from builders import change, make_latent, make_networks, seeded, short_episodes, short_run
from own_tasks import Reach

import lsp
import lsp.training.new_reward
from lsp.algorithm.skill_planning import plan_skills
from lsp.cli.main import main
from lsp.config import RuntimeConfig, make_config
from lsp.envs.rewards import OwnReward
from lsp.errors import UserError
from lsp.models.imagination import Rollout
from lsp.models.networks import NewTask
from lsp.models.new_reward import DecodedReward
from lsp.models.world_model import Latent
from lsp.runs.folder import RunFolder
from lsp.training.new_reward import NewReward, Seen, fit_reward

PLAIN = RuntimeConfig(compile=False, threads=1)
SHORT: Any = {"horizon": 4, "skill_length": 4, "replan_every": 2, "num_candidates": 8}
SHORT |= {"num_elites": 2, "num_iterations": 2}


def leaning(observations: Any, actions: Any) -> Any:
    return observations["orientations"][:, 0] - actions[:, 0] ** 2


def always(observations: Any, actions: Any) -> Any:
    return np.ones(len(actions))


def by_states(states: Any, actions: Any) -> Any:
    return states[:, 1]


def refused(call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(UserError) as raised:
        call(*arguments, **named)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.fixture(scope="module")
def run(tmp_path_factory: Any) -> Any:
    """A short run on walker_walk."""
    path = tmp_path_factory.mktemp("new_reward") / "run"
    with short_episodes():
        lsp.train(short_run(), path, 400, PLAIN)
    return path


@pytest.fixture(autouse=True)
def short(monkeypatch: Any) -> Any:
    """Episodes, and fits that only have to run."""
    monkeypatch.setattr(lsp.training.new_reward, "FIT_UPDATES", 5)
    monkeypatch.setattr(lsp.training.new_reward, "VALUE_BATCH", (4, 8))
    with short_episodes():
        yield


SHAPES: Any = {"position": (5,), "goal": (2,), "image": (64, 64, 3)}


def test_what_is_decoded_comes_back_as_it_was_observed() -> None:
    """`goal` stays raw, all else is symlogged; images are bytes."""
    networks = make_networks(shapes=SHAPES, preset="fast", model={"decoder_std": (0.1, 1.5)})
    preprocess, rng = networks.world_model.preprocess, np.random.default_rng(0)
    observed: Any = {
        "position": torch.as_tensor(rng.normal(0, 50, (3, 4, 5)), dtype=torch.float32),
        "goal": torch.as_tensor(rng.normal(0, 50, (3, 4, 2)), dtype=torch.float32),
        "image": torch.as_tensor(rng.integers(0, 256, (3, 4, 64, 64, 3)), dtype=torch.uint8),
    }
    assert preprocess.compressed == ["position"]
    again = preprocess.restore(preprocess(observed))
    torch.testing.assert_close(again, observed)


def test_a_reward_reads_what_the_model_decodes_and_the_actions_that_led_there() -> None:
    networks = make_networks()
    feature = torch.randn(5, 3, networks.world_model.features, generator=seeded())
    rollout = Rollout(feature, torch.randn(4, 3, 2, generator=seeded(1)))

    def pay(observations: Any, actions: Any) -> Any:
        return observations["position"][:, 1] + 10 * actions[:, 0]

    paid = DecodedReward(OwnReward(pay), action_repeat=2)(networks, rollout)
    decoded = networks.world_model.preprocess.restore(networks.world_model.decoder(feature[1:]))
    expected = 2 * (decoded["position"][..., 1] + 10 * rollout.action[..., 0])
    torch.testing.assert_close(paid, expected.detach())


def near(target: Any, networks: Any, rollout: Any) -> Any:
    return -((rollout.action[..., 0] - target) ** 2)


def test_a_plan_is_for_the_new_reward_and_not_for_what_was_learned() -> None:
    """Actions are the first two numbers of a skill; the new reward pays for one of them."""
    networks = make_networks(planner={"horizon": 4, "num_candidates": 64, "num_elites": 8})
    networks.config = change(networks.config, planner={"num_iterations": 6, "skill_length": 4})

    def transition(latent: Any, skill: Any, noise: Any) -> Any:
        return latent, skill[..., :2].tanh()

    networks.transition = transition
    starts = make_latent(networks, 2)
    for target in (0.6, -0.6):
        aim = partial(near, target)
        networks.new_task = NewTask(aim)
        zeta, _ = plan_skills(networks, starts, seeded())
        np.testing.assert_allclose(zeta.mean[:, 0, 0].tanh(), target, atol=0.05)


def test_a_new_task_has_no_value_until_one_is_fitted() -> None:
    networks = make_networks()
    rollout = Rollout(torch.randn(5, 3, networks.world_model.features), torch.zeros(4, 3, 2))
    learned = networks.judge(rollout)
    assert learned.value.abs().max() > 0
    networks.new_task = NewTask(lambda networks, rollout: torch.full((4, 3), 7.0))
    said = networks.judge(rollout)
    assert (said.reward == 7).all()
    assert (said.value == 0).all()
    torch.testing.assert_close(said.continuation, learned.continuation)
    networks.new_task.has_value = True
    torch.testing.assert_close(networks.judge(rollout).value, learned.value)


def test_a_fitted_reward_tells_episodes_that_it_has_not_seen(monkeypatch: Any) -> None:
    monkeypatch.setattr(lsp.training.new_reward, "FIT_UPDATES", 500)
    networks = make_networks()
    model = networks.config.model
    latents = Latent(
        torch.randn(2000, model.deter, generator=seeded()),
        torch.randn(2000, model.stoch, generator=seeded(1)),
    )
    rewards = 30 + 5 * latents.deter[:, 0] + latents.stoch[:, 1] ** 2
    nothing = torch.zeros(2000, dtype=torch.bool)
    seen = Seen(latents, rewards, torch.arange(20).repeat_interleave(100), nothing, nothing)
    reward, fit = fit_reward(networks, seen)
    assert fit.rows == 1800
    assert fit.error < 0.25 * fit.spread
    assert "error" in str(fit)
    held_out = torch.arange(20).repeat_interleave(100) % 10 == 9
    error = (reward.predict(latents.feature) - rewards)[held_out].square().mean().sqrt()
    assert fit.error == pytest.approx(float(error))


@pytest.mark.parametrize("updates", [0, 2])
@pytest.mark.parametrize("reward", [leaning, by_states, "task"])
def test_a_run_plans_for_another_reward_as_it_is(run: Any, reward: Any, updates: Any) -> None:
    wanted = NewReward(reward, updates=updates, **SHORT)
    task = "walker_run" if reward == "task" else "walker_walk"
    outcome = lsp.evaluate(run, 2, env=task, reward=wanted)
    assert outcome.predicted is not None
    assert outcome.predicted.shape == outcome.returns.shape == (2,)
    assert np.isfinite(outcome.predicted).all()
    assert (outcome.fit is None) == (reward is leaning and updates == 0)
    with short_episodes():
        own = {} if reward == "task" else {"reward": reward}
        env = lsp.make_env(task, action_repeat=4, **own)
    agent: Any = lsp.load(run, env=task, reward=wanted)
    observation, _ = env.reset(seed=0)
    agent.act(observation)
    assert agent.foreseen().shape == (1,)


def test_the_same_seed_fits_and_plans_the_same(run: Any) -> None:
    wanted = NewReward(by_states, updates=2, **SHORT)
    one, other = (lsp.evaluate(run, 2, reward=wanted) for _ in range(2))
    assert one.fit == other.fit
    np.testing.assert_array_equal(one.returns, other.returns)
    np.testing.assert_array_equal(one.predicted, other.predicted)


def test_policy_model_and_skills_stay_as_they_are(run: Any) -> None:
    before = lsp.load(run).networks.state_dict()
    after = lsp.load(run, reward=NewReward(leaning, updates=3, **SHORT)).networks.state_dict()
    moved = {name for name, x in before.items() if not torch.equal(x, after[name])}
    assert moved
    assert {name.split(".")[0] for name in moved} <= {"value", "slow_value", "return_size"}


def test_what_is_foreseen_is_of_the_step_that_was_taken(run: Any) -> None:
    """A reward that is 1 in every row is foreseen as the env steps of each agent step."""
    agent: Any = lsp.load(run, reward=NewReward(always, **SHORT))
    env = lsp.make_env("walker_walk", action_repeat=4)
    observation, _ = env.reset(seed=0)
    for _ in range(5):
        observation, *_ = env.step(agent.act(observation))
        assert agent.foreseen().tolist() == [4.0]
    agent = lsp.load(run)
    assert agent.foreseen() is None
    agent = lsp.load(run, reward=NewReward(leaning, **SHORT))  # plans anew after 2 steps
    observation, _ = env.reset(seed=0)
    for step in range(4):
        observation, *_ = env.step(agent.act(observation))
        assert agent.foreseen()[0] == agent._foreseen[0, step % 2]
        assert len(set(agent._foreseen[0])) == 4


@pytest.mark.parametrize("method", ["random_skills", "no_mi"])
def test_every_method_with_skills_can_plan(method: Any, tmp_path: Any) -> None:
    run = tmp_path / "run"
    lsp.train(short_run(method), run, 200, PLAIN)
    wanted = NewReward(leaning, updates=1, **SHORT)
    assert lsp.evaluate(run, 1, reward=wanted).predicted is not None


def test_what_cannot_be_planned_for_is_refused_in_a_line(run: Any, tmp_path: Any) -> None:
    wanted = NewReward(leaning, **SHORT)
    assert "updates must be a whole number of at least 0" in refused(
        lsp.load, run, reward=NewReward(leaning, updates=-1)
    )
    assert "planner.num_elites" in refused(
        lsp.load, run, reward=NewReward(leaning, num_candidates=2)
    )
    assert "failed: KeyError" in refused(
        lsp.load, run, reward=lambda observations, actions: observations["speed"]
    )
    dreamer = tmp_path / "dreamer"
    lsp.train(short_run("dreamer"), dreamer, 200, PLAIN)
    assert "dreamer has no skills to plan" in refused(lsp.load, dreamer, reward=wanted)
    RunFolder(run).episodes.rename(tmp_path / "episodes")
    try:
        lsp.load(run, reward=wanted)
        assert "has no episodes to learn from" in refused(
            lsp.load, run, reward=NewReward(by_states, **SHORT)
        )
    finally:
        (tmp_path / "episodes").rename(RunFolder(run).episodes)


def test_the_command_prints_what_was_predicted_beside_what_came(
    run: Any, capsys: Any, tmp_path: Any
) -> None:
    said = tmp_path / "said.json"
    call = ["eval", str(run), "--reward", "test_new_reward:leaning", "--episodes", "2"]
    main([*call, "--horizon", "4", "--json", str(said)])
    out = capsys.readouterr().out
    assert out.count("(predicted ") == 3
    assert '"eval/predicted"' in said.read_text()
    with pytest.raises(SystemExit) as ended:
        main(["eval", str(run), "--updates", "3"])
    assert ended.value.code == 2
    assert "--updates is for another reward" in capsys.readouterr().err


def test_a_run_of_a_users_own_task_plans_too(tmp_path: Any) -> None:
    config = make_config("lsp", "debug", action_repeat=1)
    run = tmp_path / "run"

    def up(observations: Any, actions: Any) -> Any:
        return observations["position"][:, 1]

    lsp.train(Reach, run, 250, PLAIN, config=config, reward=up)
    outcome = lsp.evaluate(run, 2, env=Reach, reward=up)
    assert outcome.predicted is None  # it was trained with this very function
    again = lsp.evaluate(run, 2, env=Reach, reward=NewReward(up, **SHORT))
    assert again.predicted is not None
