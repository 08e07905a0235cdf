"""Transfers that make no sense are said in one line, and leave nothing behind."""

import shutil
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from builders import short_run
from gymnasium.spaces import Dict
from own_tasks import Reach
from transfers import PLAIN, Sources, open_trainer, refused
from unchecked import unchecked

import lsp
from lsp.config import TransferConfig, make_config, validated
from lsp.envs import make_env
from lsp.errors import UserError
from lsp.runs.folder import RunFolder
from lsp.runs.spaces import spaces_of
from lsp.training import parts
from lsp.training.transfer import transferred

pytestmark = pytest.mark.usefixtures("short_episodes")


@pytest.fixture(scope="module")
def source(tmp_path_factory: Any) -> Any:
    return Sources(tmp_path_factory.mktemp("sources"))


def test_another_observation_space_is_refused_with_both(source: Any, tmp_path: Any) -> None:
    both = r"walker_walk to cheetah_run.*'orientations'.*against.*'position'"
    refused(both, source(), "cheetah_run", tmp_path / "run", 100)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_done_is_said_in_one_line(source: Any, tmp_path: Any) -> None:
    run = tmp_path / "run"
    refused("not a run", tmp_path / "nowhere", "walker_run", run, 100)
    refused("no skills", source("dreamer"), "walker_run", run, 100, skill_length=30)
    refused("plans nothing", source("dreamer"), "walker_run", run, 100, horizon=30)
    refused("plans nothing", source("hiro"), "walker_run", run, 100, horizon=30)
    refused("plans nothing", source("random_skills"), "walker_run", run, 100, horizon=30)
    refused("is the run to start from", source(), "walker_run", source(), 100)
    refused("seed must be .* below", source(), "walker_run", run, 100, seed=2**32)
    refused("no setting 'speed'", source(), "walker_run", run, 100, speed=3)
    relabel = {"transfer": TransferConfig(relabel=True), "skill_length": 4}
    refused("were skills for 10 agent", source("hiro"), "walker_run", run, 100, **relabel)
    for reward in ("height", ":height", "..tests:height", "test_transfer_refused:"):
        refused("module:function", source(), "walker_run", run, 100, reward=reward)
    nothing = f"{__name__}:nothing"
    refused("no 'nothing'", source(), "walker_run", run, 100, reward=nothing)
    refused(
        "needs a policy",
        source("cem"),
        "walker_run",
        run,
        100,
        transfer=TransferConfig(freeze_policy=True),
    )
    with pytest.raises(UserError, match=r"need a transfer\.source"):
        validated(make_config(transfer=TransferConfig(relabel=True)))
    assert not run.exists()


def test_mistakes_of_a_program_without_type_checks_are_one_line(source: Any, tmp_path: Any) -> None:
    path = source()
    with unchecked():
        refused("be a TransferConfig", path, "walker_run", tmp_path, 9, transfer={"updates": 3})
        for steps in ("9", float("nan"), -1):
            refused("steps must be a number", path, "walker_run", tmp_path / "run", steps)
    assert not (tmp_path / "run").exists()


def test_a_run_that_cannot_be_opened_leaves_no_folder(tmp_path: Any, monkeypatch: Any) -> None:
    def fail(*arguments: Any) -> None:
        raise UserError("no workers")

    monkeypatch.setattr(parts, "_environments", fail)
    with pytest.raises(UserError, match="no workers"):
        open_trainer(tmp_path / "run", make_config("lsp", "debug"))
    assert not (tmp_path / "run").exists()


def test_a_task_from_python_may_be_gone_on_with(tmp_path: Any) -> None:
    config = make_config("lsp", "debug", task="own_tasks:Reach")
    lsp.train(config, tmp_path / "source", 200, PLAIN)
    assert lsp.transfer(tmp_path / "source", Reach, tmp_path / "run", 100, PLAIN)
    assert (tmp_path / "run" / "source.json").exists()


class Elsewhere(Reach):
    """It observes as many numbers, which mean something else."""

    def __init__(self) -> None:
        super().__init__()
        assert isinstance(self.observation_space, Dict)
        spaces = dict(self.observation_space.spaces)
        self.observation_space = Dict(spaces | {"wind": spaces.pop("goal")})

    def observe(self) -> Any:
        seen = super().observe()
        return seen | {"wind": seen.pop("goal")}


def test_observations_that_only_fit_by_their_number_are_refused(tmp_path: Any) -> None:
    """Of tasks passed from Python too: in transfer, on resuming, and in load."""
    run, both = tmp_path / "source", r"'goal' \[2\].*(against|this task has).*'wind' \[2\]"
    lsp.train(Reach(), run, 200, PLAIN, config=make_config("lsp", "debug"))
    assert RunFolder(run).read_spaces() == spaces_of(make_env(Reach()))
    for task in (Elsewhere(), Elsewhere):
        refused(both, run, task, tmp_path / "run", 100)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=both):
        lsp.load(run, env=Elsewhere())
    Elsewhere.__qualname__ = Reach.__qualname__
    Elsewhere.__module__, module = Reach.__module__, Elsewhere.__module__
    try:
        with pytest.raises(UserError, match=both):
            lsp.train(Elsewhere(), run, 300, PLAIN, config=make_config("lsp", "debug"))
    finally:
        Elsewhere.__qualname__, Elsewhere.__module__ = "Elsewhere", module


NOTED = [None, "[]", '{"actions": 3}', '{"observations": 3, "actions": 3, "body": 3}', "\0"]


def without_spaces(run: Any, to: Any, noted: Any) -> Any:
    """A copy of a run which did not note the spaces of its task, or something else instead."""
    shutil.copytree(run, to)
    (to / "spaces.json").unlink()
    if noted is not None:
        (to / "spaces.json").write_text(noted)
    return to


@pytest.mark.parametrize("noted", NOTED)
def test_spaces_that_were_not_noted_are_not_known(source: Any, tmp_path: Any, noted: Any) -> None:
    assert RunFolder(without_spaces(source(), tmp_path / "old", noted)).read_spaces() is None


@pytest.mark.parametrize("noted", [NOTED[0], NOTED[-1]])
def test_where_the_spaces_were_not_noted_the_weights_tell(
    source: Any, tmp_path: Any, noted: Any
) -> None:
    old = without_spaces(source(), tmp_path / "old", noted)
    assert lsp.transfer(old, "walker_run", tmp_path / "run", 20, PLAIN)
    refused("weights are not those", old, "cheetah_run", tmp_path / "other", 20)
    assert not (tmp_path / "other").exists()
    assert lsp.train(RunFolder(old).read_config(), old, 404, PLAIN)
    assert RunFolder(old).read_spaces() == RunFolder(source()).read_spaces()


def test_weights_of_other_sizes_are_refused(source: Any, tmp_path: Any) -> None:
    config = transferred(source(), "walker_run")
    config = replace(config, model=replace(config.model, deter=20))
    with pytest.raises(UserError, match=r"weights are not those.*rssm.*lsp transfer takes"):
        lsp.train(config, tmp_path / "run", 100, PLAIN)


def wrong_shape(states: Any, actions: Any) -> Any:
    return 1.0


def enormous(states: Any, actions: Any) -> Any:
    return np.full(len(states), 1e30)


def imaginary(states: Any, actions: Any) -> Any:
    return np.full(len(states), 1j)


@pytest.mark.parametrize("reward", ["wrong_shape", "enormous", "imaginary"])
def test_a_reward_function_must_return_a_number_for_each_state(
    source: Any, tmp_path: Any, reward: Any
) -> None:
    call = (source(), "walker_run", tmp_path / "run", 100)
    refused("must return one finite number", *call, reward=f"test_transfer_refused:{reward}")


class Doubled(gymnasium.RewardWrapper):
    def reward(self, reward: Any) -> Any:
        return 2 * reward


def test_what_a_wrapper_pays_is_not_what_stored_states_are_paid(source: Any, tmp_path: Any) -> None:
    def limited() -> Any:
        return gymnasium.make("lsp/walker_run-v0", max_episode_steps=50)

    relabel: dict[str, Any] = {"transfer": TransferConfig(relabel=True, updates=1)}
    assert lsp.transfer(source(), limited, tmp_path / "run", 20, PLAIN, **relabel)
    call = (source(), lambda: Doubled(limited()), tmp_path / "other", 20)
    refused("relabelling needs a reward of .* Doubled has none", *call, **relabel)
    assert not (tmp_path / "other").exists()


def meddling(states: Any, actions: Any) -> Any:
    states[:, 0], actions[:] = 777, 0.123
    return np.ones(len(states))


def broken(states: Any, actions: Any) -> None:
    raise KeyError("torso")


def test_what_a_reward_does_to_its_states_and_actions_reaches_nothing(
    source: Any, tmp_path: Any
) -> None:
    transfer = TransferConfig(relabel=True, updates=0)
    plain, paid = (
        transferred(source(), "walker_walk", transfer, reward=reward)
        for reward in (None, "test_transfer_refused:meddling")
    )
    for name, config in (("plain", plain), ("paid", paid)):
        lsp.train(config, tmp_path / name, 20, PLAIN)
    for path in RunFolder(source()).episodes.iterdir():
        before, after = np.load(path), np.load(tmp_path / "paid" / "episodes" / path.name)
        for key in ("sim_state", "action"):
            np.testing.assert_array_equal(before[key], after[key])
    env = make_env("walker_walk", reward="test_transfer_refused:meddling")
    ours = make_env("walker_walk")
    action = np.full(6, 0.5, np.float32)
    for each in (env, ours):
        each.reset(seed=0)
    states = [each.step(action)[4]["sim_state"] for each in (env, ours)]
    np.testing.assert_array_equal(*states)
    assert (action == 0.5).all()


def test_a_refused_transfer_leaves_no_folder_and_says_why(source: Any, tmp_path: Any) -> None:
    run, relabel = tmp_path / "run", {"transfer": TransferConfig(relabel=True)}
    short, lost, held = (tmp_path / name for name in ("short", "lost", "held"))
    lsp.train(short_run(), short, 80, PLAIN)
    (tmp_path / "lost").mkdir()
    (lost / "config.json").write_bytes((source() / "config.json").read_bytes())
    lsp.train(replace(short_run(), action_repeat=40), held, 40, PLAIN)
    refused("0 agent steps", short, "walker_run", run, 20, **relabel)
    refused("no checkpoint yet", lost, "walker_run", run, 20)
    refused("held for 40 env steps", held, "walker_run", run, 20, action_repeat=2, **relabel)
    refused("failed: KeyError", source(), "walker_run", run, 20, reward=f"{__name__}:broken")
    reward = {"reward": f"{__name__}:broken"}
    refused("failed: KeyError", source(), "walker_run", run, 20, **relabel, **reward)
    refused(
        "number, smaller than", source(), "walker_run", run, 20, reward=f"{__name__}:wrong_shape"
    )
    assert not run.exists()


def with_reset(heads: Any) -> Any:
    """As from a program without type checks."""
    transfer = TransferConfig(source="runs/x")
    object.__setattr__(transfer, "reset", heads)
    return transfer


def test_what_a_transfer_cannot_change_is_refused(source: Any, tmp_path: Any) -> None:
    run = tmp_path / "run"
    refused("horizon .H. must be at least 1", source(), "walker_run", run, 20, horizon=0)
    refused("source's method", source(), "walker_run", run, 20, method="dreamer")
    for reset in (("rewards",), "reward", ("reward", 3)):
        with pytest.raises(UserError, match="reset cannot be"):
            validated(make_config(transfer=with_reset(reset)))
    for transfer, method, why in (
        (TransferConfig(reset=("value",)), "cem", "no such head"),
        (TransferConfig(reset=("reward",)), "hiro", "no such head"),
        (TransferConfig(updates=5), "lsp", r"needs transfer\.relabel"),
    ):
        config = make_config(method, "debug", transfer=replace(transfer, source="runs/x"))
        with pytest.raises(UserError, match=why):
            validated(config)
    twice = make_config(transfer=with_reset(["value", "reward", "value"]))
    assert validated(twice).transfer.reset == ("reward", "value")
    assert not run.exists()


def test_pixels_of_another_body_are_not_relabelled(source: Any, tmp_path: Any) -> None:
    lsp.train(short_run(obs="pixels"), tmp_path / "seen", 20, PLAIN)
    transfer = TransferConfig(relabel=True)
    refused("another body", tmp_path / "seen", "cheetah_run", tmp_path / "run", transfer=transfer)
