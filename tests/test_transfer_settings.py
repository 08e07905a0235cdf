"""What another task changes in the settings of its source."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transfers import PLAIN, Sources, refused

import lsp
from lsp.config import ActionsConfig, TransferConfig, make_config, validated
from lsp.config.transfers import (
    ACTING_HORIZON,
    ANCHOR,
    ANCHOR_RATE,
    ANCHORED_STD,
    NEW_SHARE,
    PRIOR_WEIGHT,
    on_another_task,
)
from lsp.errors import UserError
from lsp.runs.folder import RunFolder
from lsp.runs.metrics import read_metrics
from lsp.training.transfer import transferred

pytestmark = pytest.mark.usefixtures("short_episodes")


@pytest.fixture(scope="module")
def source(tmp_path_factory: Any) -> Any:
    return Sources(tmp_path_factory.mktemp("sources"))


def test_planned_actions_look_as_far_ahead_as_is_asked_for(source: Any) -> None:
    config = transferred(source("cem"), "walker_run", horizon=7)
    assert (config.planner.horizon, config.planner.skill_length) == (7, 1)
    assert config.behavior == RunFolder(source("cem")).read_config().behavior


def test_a_new_task_is_planned_for_within_the_prior(source: Any) -> None:
    assert transferred(source(), "walker_run").planner.prior_weight == PRIOR_WEIGHT
    assert transferred(source(), "walker_run", prior_weight=0.3).planner.prior_weight == 0.3
    assert transferred(source("dreamer"), "walker_run").planner.prior_weight == 0
    with pytest.raises(UserError, match="plans no skills"):
        transferred(source("dreamer"), "walker_run", prior_weight=0.3)
    config = transferred(source(), "walker_run", plan_lambda=0.5, min_std=0.2)
    assert (config.planner.lambda_, config.policy.min_std) == (0.5, 0.2)
    anchored = transferred(source(), "walker_run", TransferConfig(anchor=0.1))
    assert anchored.policy.min_std == ANCHORED_STD


@pytest.mark.parametrize(
    ("method", "chosen", "expected"),
    [
        ("lsp", {"relabel": True}, (0, 0, NEW_SHARE)),
        ("dreamer", {"relabel": True}, (0, 0, NEW_SHARE)),
        ("lsp", {}, (0, 0, 0)),
        ("dreamer", {}, (0, 0, 0)),
        ("lsp", {"anchor": 0.3}, (0.3, ANCHOR_RATE, 0)),
        ("dreamer", {"anchor": 0.3, "anchor_rate": 0.0}, (0.3, 0, 0)),
        ("lsp", {"relabel": True, "freeze_policy": True}, (ANCHOR, 0, 0)),
        ("lsp", {"freeze_policy": True}, (ANCHOR, 0, 0)),
        ("lsp", {"freeze_policy": True, "anchor": 0.0}, (0, 0, 0)),
        ("lsp", {"relabel": True, "anchor": 0.3}, (0.3, ANCHOR_RATE, NEW_SHARE)),
        ("lsp", {"relabel": True, "new_share": 0.0}, (0, 0, 0)),
        ("lsp", {"relabel": True, "anchor": 0.3, "anchor_rate": 0.1}, (0.3, 0.1, NEW_SHARE)),
        ("cem", {"relabel": True}, (0, 0, 0)),
        ("hiro", {"relabel": True}, (0, 0, 0)),
    ],
)
def test_a_policy_that_adapts_is_free_unless_it_is_held(
    method: Any, chosen: Any, expected: Any
) -> None:
    config = make_config(method, "debug", task="quadruped_upright_walk")
    held = on_another_task(config, "quadruped_reach", TransferConfig("gone", **chosen))
    found = held.transfer.anchor, held.transfer.anchor_rate, held.transfer.new_share
    assert found == expected
    validated(held)


def test_the_paper_transfers_as_it_did() -> None:
    config = make_config("lsp", "paper", task="quadruped_upright_walk")
    for frozen in (False, True):
        transfer = TransferConfig("gone", relabel=True, freeze_policy=frozen)
        moved = on_another_task(config, "quadruped_reach", transfer)
        assert (moved.planner, moved.policy) == (config.planner, config.policy)
        assert (moved.transfer.anchor, moved.transfer.new_share) == (0, 0)


def test_a_new_task_is_planned_for_far_ahead(source: Any) -> None:
    def planner(method: Any = "lsp", **settings: Any) -> Any:
        return transferred(source(method), "walker_run", **settings).planner

    assert planner().acting_horizon == ACTING_HORIZON
    assert planner(acting_horizon=20).acting_horizon == 20
    assert planner(horizon=20).acting_horizon is None
    assert planner("dreamer").acting_horizon is None
    with pytest.raises(UserError, match="plans no skills"):
        planner("dreamer", acting_horizon=20)


@pytest.mark.parametrize("method", ["lsp", "dreamer"])
def test_actions_are_planned_on_the_new_task_where_that_is_chosen(
    source: Any, tmp_path: Path, method: Any
) -> None:
    config = transferred(source(method), "walker_run", action_candidates=16)
    assert config.actions == ActionsConfig(num_candidates=16)
    lsp.train(config, tmp_path / "run", 200, PLAIN)
    again = transferred(tmp_path / "run", "walker_walk")
    assert again.actions.num_candidates == 16
    off = transferred(tmp_path / "run", "walker_walk", action_candidates=0)
    assert off.actions == ActionsConfig()


def test_what_is_chosen_of_planned_actions_goes_with_them() -> None:
    config = make_config("lsp", "modern", **{"actions.length": 5})
    asked = config, "quadruped_reach", TransferConfig("gone")
    assert on_another_task(*asked).actions.length == 5
    validated(on_another_task(*asked, action_candidates=0))


def test_no_actions_are_planned_without_a_policy(source: Any) -> None:
    config = transferred(source("cem"), "walker_run", action_candidates=16)
    with pytest.raises(UserError, match="needs a policy in a world model: not cem"):
        validated(config)
    refused("cem has no policy", source("cem"), "walker_run", "never", 10, min_std=0.1)


def test_the_first_and_the_last_evaluation_may_have_more_episodes(
    source: Any, tmp_path: Any
) -> None:
    config = transferred(source(), "walker_run", final_episodes=3)
    schedule = replace(config.schedule, eval_every=100, prior_episodes=0)
    lsp.train(replace(config, schedule=schedule), tmp_path / "run", 200, PLAIN)
    evaluations = [line for line in read_metrics(tmp_path / "run") if line["kind"] == "eval"]
    assert [line["env_steps"] for line in evaluations] == [0, 100, 200]
    assert [line["eval/episodes"] for line in evaluations] == [3, 1, 3]
