"""What a policy imagines, the same actions in the simulator, and what the agent does there."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from builders import change, linear, short_run
from test_train import train

import lsp
from lsp.algorithm.agent import Agent
from lsp.envs import make_env
from lsp.errors import UserError
from lsp.experiments import foresight
from lsp.models.networks import Networks
from lsp.runs.spaces import spaces_of
from lsp.training.build import build_networks
from lsp.training.evaluation import episode_seeds

pytestmark = pytest.mark.usefixtures("short_episodes")

TASK = "walker_walk"
AFTER, STEPS = 4, 9  # skills are planned anew in between


def fresh(method: str = "lsp", **fixed: float) -> Any:
    """Networks that nobody trained, and their environment, whose episodes take 25 agent steps.

    `fixed` names networks that say the same of every state.
    """
    torch.manual_seed(0)
    make = partial(make_env, TASK, action_repeat=4)
    networks = build_networks(spaces_of(make()), short_run(method), "cpu")
    assert isinstance(networks, Networks)
    nets = {"reward": networks.world_model.reward_head, "value": networks.value.net}
    for name, value in fixed.items():
        net = networks.policy.net if name == "action" else nets[name]
        with torch.no_grad():
            linear(net).weight.zero_()
            linear(net).bias.fill_(value)
    return networks, make


def acted_by_hand(networks: Any, make: Any, starts: int, skills_from: int) -> np.ndarray:
    """Rewards of whole episodes of an agent that holds its skill for STEPS from a step on."""
    agent, envs = Agent(networks, "evaluate", starts), [make() for _ in range(starts)]
    seen = [env.reset(seed=s)[0] for env, s in zip(envs, episode_seeds(starts), strict=True)]
    rewards: list[list[float]] = []
    skill: Any = None
    for step in range(25):
        batch = {key: np.stack([x[key] for x in seen]) for key in seen[0]}
        held = skill if skills_from < step < skills_from + STEPS else None
        done = [env.step(a) for env, a in zip(envs, agent.act(batch, held), strict=True)]
        if step == skills_from:
            skill = agent.skill.numpy() if networks.config.has_skills else None
            # What is drawn to imagine comes out of the same generator.
            networks.draw_noise(STEPS, starts, generator=agent.generator)
        seen = [x[0] for x in done]
        rewards.append([float(x[1]) for x in done])
    return np.array(rewards)


@pytest.mark.parametrize("method", ["lsp", "dreamer"])
def test_what_is_acted_is_what_the_agent_does(method: str) -> None:
    networks, make = fresh(method)
    found = foresight.compare(networks, make, 3, AFTER, STEPS)
    expected = acted_by_hand(networks, make, 3, AFTER)[AFTER:]
    np.testing.assert_array_equal(found.acted, expected[:STEPS])
    gamma = networks.config.behavior.discount
    np.testing.assert_allclose(found.came, gamma ** np.arange(len(expected)) @ expected)
    # The first action is the same, and under the same skill; then the policy reads other states.
    np.testing.assert_allclose(found.tried[0], found.acted[0], rtol=1e-5)
    assert not np.allclose(found.tried[1:], found.acted[1:], rtol=1e-5)


def test_the_same_actions_lead_to_the_same() -> None:
    """A policy that always does the same does in imagination what it does in the simulator."""
    networks, make = fresh("dreamer", action=0.3, reward=1.5, value=7.0)
    found = foresight.compare(networks, make, 2, AFTER, STEPS)
    np.testing.assert_array_equal(found.tried, found.acted)
    assert len(np.unique(found.tried)) > STEPS  # the walker falls, differently in both
    np.testing.assert_allclose(found.imagined, np.full((STEPS, 2), 1.5), rtol=1e-6)
    np.testing.assert_allclose(found.value, [7.0, 7.0], rtol=1e-6)


def test_rewards_are_those_of_the_task_whatever_the_model_is_trained_on() -> None:
    networks, make = fresh("dreamer", reward=1.5, value=7.0)
    networks.config = change(networks.config, model={"reward_scale": 0.5})
    found = foresight.compare(networks, make, 1, AFTER, STEPS)
    np.testing.assert_allclose(found.imagined, 3.0, rtol=1e-6)
    np.testing.assert_allclose(found.value, 14.0, rtol=1e-6)


def test_nothing_comes_after_an_episode() -> None:
    networks, make = fresh("dreamer")
    found = foresight.compare(networks, make, 2, 20, 10)
    for rewards in (found.tried, found.acted):
        assert np.isfinite(rewards[:5]).all()
        assert np.isnan(rewards[5:]).all()
    assert np.isfinite(found.imagined).all()
    assert np.isfinite(found.came).all()
    with pytest.raises(UserError, match="take a lower --after"):
        foresight.compare(networks, make, 2, 25, 10)


def test_the_table_has_means_further_and_further_on() -> None:
    rows = np.arange(20.0)[:, None] * [1, 1]
    blank = np.where(rows < 15, rows, np.nan)
    lines = foresight.table(foresight.Foresight(rows, rows + 1, blank, rows[0], rows[1]))
    cells = [line.split() for line in lines[1:4]]
    assert cells == [
        ["1-5", "2.00", "3.00", "2.00"],
        ["6-15", "9.50", "10.50", "9.50"],
        ["16-20", "17.00", "18.00", "nan"],
    ]
    assert lines[4] == ("v is 0.0, the discounted return that came 1.0 (means over 2 states).")


def test_it_reads_a_run(tmp_path: Any, capsys: Any) -> None:
    from lsp.cli.main import main

    train(tmp_path / "run", short_run(), 400)
    main(["foresee", str(tmp_path / "run"), "--starts", "2", "--after", "3", "--steps", "4"])
    printed = capsys.readouterr().out
    again = lsp.foresee(tmp_path / "run", starts=2, after=3, steps=4)
    assert printed == "\n".join(foresight.table(again)) + "\n"


@pytest.mark.parametrize("method", ["cem", "hiro"])
def test_methods_without_such_a_policy_are_named(tmp_path: Any, method: str) -> None:
    train(tmp_path / "run", short_run(method), 400)
    with pytest.raises(UserError, match=f"{method} has no policy that imagines"):
        lsp.foresee(tmp_path / "run")


def test_numbers_that_make_no_sense_are_refused(tmp_path: Any) -> None:
    train(tmp_path / "run", short_run("dreamer"), 400)
    for wrong in ({"steps": 0}, {"after": 0}, {"starts": 201}):
        with pytest.raises(UserError, match="at least 1, and --starts at most 200"):
            lsp.foresee(tmp_path / "run", **wrong)  # type: ignore[arg-type]
