"""Old episodes on a new task: paid anew or kept, and the updates on them before the first step."""

import shutil
import signal
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import short_run
from own_tasks import Reach
from transfers import PLAIN, Sources, changed, newest, open_trainer, weights_of

import lsp
from lsp.api import load_networks
from lsp.config import TransferConfig, make_config, validated
from lsp.envs.lookup import Maker
from lsp.errors import UserError
from lsp.runs.folder import RunFolder
from lsp.runs.metrics import read_metrics
from lsp.training import transfer as lsp_transfer
from lsp.training.evaluation import evaluate
from lsp.training.parts import env_maker, open_run
from lsp.training.progress import describe
from lsp.training.trainer import Trainer
from lsp.training.transfer import begin, transferred

pytestmark = pytest.mark.usefixtures("short_episodes")


@pytest.fixture(scope="module")
def source(tmp_path_factory: Any) -> Any:
    return Sources(tmp_path_factory.mktemp("sources"))


def height(states: Any, actions: Any) -> Any:
    return states[:, 0] + 0.001 * actions[:, 0]


def paid_for_height(states: Any, actions: Any) -> Any:
    """By hand, for every action that a state followed."""
    held = zip(states[1:], actions[1:], strict=True)
    return [sum(height(each, np.tile(action, (len(each), 1)))) for each, action in held]


def test_a_run_starts_from_the_relabelled_replay(source: Any, tmp_path: Any) -> None:
    transfer = TransferConfig(relabel=True, updates=7)
    config = transferred(source(), "walker_run", transfer, reward="test_transfer_replay:height")
    trainer = open_trainer(tmp_path / "run", config)
    begin(trainer)
    old = list(RunFolder(source()).episodes.iterdir())
    assert trainer.replay.num_episodes == len(old)
    first = next(trainer.replay.episodes())
    states, actions = first["sim_state"], first["action"]
    np.testing.assert_allclose(first["reward"][1:], paid_for_height(states, actions), rtol=1e-5)
    trainer.run(2)
    assert trainer.counters.updates == 7
    assert trainer.parts.env.step(actions[1])[1] != 0  # the environment pays the same function
    trainer.close()


def test_a_signal_while_the_replay_is_relabelled_saves_and_stops(
    source: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    def stopped(trainer: Any, *arguments: Any) -> None:
        take_over(trainer, *arguments)
        signal.raise_signal(signal.SIGTERM)

    take_over = lsp_transfer._take_over_replay
    monkeypatch.setattr(lsp_transfer, "_take_over_replay", stopped)
    transfer = TransferConfig(relabel=True, updates=50)
    call = (source(), "walker_run", tmp_path / "run", 100, PLAIN)
    assert not lsp.transfer(*call, transfer=transfer)
    assert newest(tmp_path / "run").facts["updates"] == 0


def test_a_source_may_have_been_paid_by_what_is_out_of_reach(source: Any, tmp_path: Any) -> None:
    lsp.train(short_run(reward="test_transfer_replay:height"), tmp_path / "own", 20, PLAIN)
    folder = RunFolder(tmp_path / "own")
    far = replace(folder.read_config(), reward="no_such_module:reward")
    folder.record(far, PLAIN)
    assert lsp.transfer(tmp_path / "own", "walker_run", tmp_path / "run", 20, PLAIN)


def test_the_updates_before_the_first_step_are_told_of(
    source: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("lsp.training.trainer._FIRST_UPDATES_TOLD", 10)
    told: list[Any] = []
    transfer = TransferConfig(relabel=True, updates=25)
    call = (source(), "walker_run", tmp_path / "run", 40, PLAIN)
    assert lsp.transfer(*call, listen=told.append, transfer=transfer)
    assert [now.first_updates for now in told] == [(10, 25), (20, 25)]
    assert describe(told[0]) == "0/40 env steps · 10 of the first 25 updates"


def test_stopping_in_the_updates_before_the_first_step_saves_them(
    source: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    transfer = TransferConfig(relabel=True, updates=50)
    trainer = open_trainer(tmp_path / "run", transferred(source(), "walker_run", transfer))
    begin(trainer)
    learn = trainer._learn

    def stop_at_seven() -> None:
        learn()
        trainer.stopping = trainer.counters.updates == 7

    monkeypatch.setattr(trainer, "_learn", stop_at_seven)
    trainer.run(100)
    trainer.close()
    assert newest(tmp_path / "run").facts["updates"] == 7


@pytest.mark.parametrize("relabel", [True, False], ids=["relabelled", "empty replay"])
def test_a_transfer_is_evaluated_at_step_0_which_is_planning_alone(
    source: Any, tmp_path: Any, relabel: Any
) -> None:
    """With the source's own policy, bit for bit; the model may have learned the new reward."""
    transfer = TransferConfig(relabel=True, updates=5) if relabel else TransferConfig()
    trainer = open_trainer(tmp_path / "run", transferred(source(), "walker_run", transfer))
    begin(trainer)
    policies, evaluate_now = [], trainer.evaluate

    def watch() -> None:
        policies.append(policy_of(trainer.networks.state_dict()))
        evaluate_now()

    trainer.evaluate = watch
    trainer.run(20)
    trainer.close()
    assert not changed(policy_of(weights_of(source())), policies[0])
    first = next(line for line in read_metrics(tmp_path / "run") if line["kind"] == "eval")
    assert first["env_steps"] == 0
    assert trainer.counters.updates == (5 if relabel else 0)
    if not relabel:
        assert first["eval/return"] == evaluated_on(source(), "walker_run")


def policy_of(weights: Any) -> Any:
    return {k: x.clone() for k, x in weights.items() if k.startswith("policy.")}


def evaluated_on(path: Any, task: Any) -> Any:
    """The return of a run's weights on another task, planned for as a transfer plans."""
    networks: Any = load_networks(path)
    networks.config = transferred(path, task)
    networks.policy.config = networks.config.policy
    schedule = networks.config.schedule
    maker = env_maker(networks.config, task)
    outcome = evaluate(networks, maker, schedule.eval_episodes, networks.config.seed, PLAIN)
    return float(outcome.returns.mean())


def test_a_transfer_that_was_stopped_before_step_0_is_evaluated_there(
    source: Any, tmp_path: Any
) -> None:
    config = transferred(source(), "walker_run", TransferConfig(relabel=True, updates=5))
    trainer = open_trainer(tmp_path / "run", config)
    begin(trainer)
    learn = trainer._learn

    def stop_after_one() -> None:
        learn()
        trainer.stopping = True

    trainer._learn = stop_after_one
    trainer.run(20)
    trainer.close()
    assert not [line for line in read_metrics(tmp_path / "run") if line["kind"] == "eval"]
    lsp.train(config, tmp_path / "run", 20, PLAIN)
    steps = [x["env_steps"] for x in read_metrics(tmp_path / "run") if x["kind"] == "eval"]
    assert steps == [0, 20]


@pytest.mark.parametrize("relabel", [True, False], ids=["relabelled", "empty replay"])
def test_an_evaluation_at_step_0_that_was_stopped_is_made_when_it_resumes(
    source: Any, tmp_path: Any, monkeypatch: Any, relabel: Any
) -> None:
    transfer = TransferConfig(relabel=True, updates=5) if relabel else TransferConfig()
    config = transferred(source(), "walker_run", transfer, final_episodes=2)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    lsp.train(config, whole, 20, PLAIN)
    trainer = open_trainer(broken, config)
    begin(trainer)

    def stop(*phase: Any) -> None:
        trainer.stopping = True

    monkeypatch.setattr(trainer, "_tell_if_due", stop)
    trainer.run(20)
    trainer.close()
    assert trainer.env_steps == 0
    lsp.train(config, broken, 20, PLAIN)
    first, other = (
        [line for line in read_metrics(path) if line["kind"] == "eval"] for path in (whole, broken)
    )
    assert [line["env_steps"] for line in other] == [0, 20]
    assert other[0]["eval/returns"] == first[0]["eval/returns"]
    assert len(other[0]["eval/returns"]) == 2
    assert other[1]["eval/returns"] == first[1]["eval/returns"]


def test_half_of_each_batch_comes_from_the_source(source: Any, tmp_path: Any) -> None:
    config = transferred(
        source(),
        "walker_run",
        TransferConfig(keep_replay=True),
        reward="test_transfer_replay:height",
    )
    trainer = open_trainer(tmp_path / "run", config)
    begin(trainer)
    assert len(trainer.replay) == 0
    first = next(trainer.parts.source_replay.episodes())
    assert first["is_paid"].all()
    states, actions = first["sim_state"], first["action"]
    np.testing.assert_allclose(first["reward"][1:], paid_for_height(states, actions), rtol=1e-5)
    trainer.run(300)
    batch, half = trainer.draw_batch(), config.replay.batch // 2
    old = trainer.parts.source_replay.sample(2000, 1, np.random.default_rng(0))["action"]
    old = {row.tobytes() for row in old if row.any()}  # all episodes begin without an action
    from_source = [[row.tobytes() in old for row in each[:, None]] for each in batch["action"]]
    assert not np.any(from_source[:half])
    assert np.mean(from_source[half:]) > 0.9
    trainer.close()


def test_what_cannot_be_paid_is_kept_unpaid(tmp_path: Any) -> None:
    """A user's task has no simulator states."""
    lsp.train(Reach(), tmp_path / "source", 400, config=make_config("lsp", "debug"))
    config = transferred(tmp_path / "source", "python:Reach", TransferConfig(keep_replay=True))
    config = validated(config)
    maker = env_maker(config, Maker(Reach()))
    trainer = Trainer(open_run(config, RunFolder(tmp_path / "run"), PLAIN, maker))
    begin(trainer)
    assert trainer.parts.source_replay is not None
    assert not next(trainer.parts.source_replay.episodes())["is_paid"].any()
    trainer.run(300)
    assert trainer.counters.updates > 0
    trainer.close()


def test_a_share_of_each_batch_is_from_the_new_task(source: Any, tmp_path: Any) -> None:
    relabel = TransferConfig(relabel=True, updates=1, new_share=0.75)
    trainer = open_trainer(tmp_path / "run", transferred(source(), "walker_run", relabel))
    begin(trainer)
    old, length = len(trainer.replay), trainer.config.replay.length

    def from_the_new_task() -> list[bool]:
        actions = trainer.replay._rows["action"][: len(trainer.replay)]
        return [
            any(np.array_equal(actions[t : t + length], each) for t in range(old, len(actions)))
            for each in trainer.draw_batch()["action"]
        ]

    assert from_the_new_task() == [False] * 4
    trainer.run(250)
    assert len(trainer.replay) == old + 2 * 26  # two whole episodes
    found = np.array([from_the_new_task() for _ in range(40)])
    assert found[:, 1:].all()  # three of four, whatever is drawn
    assert found[:, 0].mean() < 0.6
    trainer.close()


def test_kept_episodes_that_are_gone_are_missed(source: Any, tmp_path: Any) -> None:
    config = transferred(source(), "walker_run", TransferConfig(keep_replay=True))
    lsp.train(config, tmp_path / "run", 20, PLAIN)
    shutil.rmtree(tmp_path / "run" / "source_episodes")
    with pytest.raises(UserError, match="source_episodes holds no episodes"):
        lsp.train(config, tmp_path / "run", 40, PLAIN)
