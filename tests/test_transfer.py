"""Transfer: what is carried over, what starts anew, and how a transfer goes on."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import short_run
from transfers import PLAIN, Sources, changed, open_trainer, refused, weights_of

import lsp
from lsp.algorithm.cem import standard_plan
from lsp.cli.main import _parse_in_one_line, main
from lsp.config import TransferConfig, default_runtime
from lsp.envs import make_env
from lsp.errors import RunWarning, UserError
from lsp.runs.folder import RunFolder
from lsp.training.transfer import begin, transferred

pytestmark = pytest.mark.usefixtures("short_episodes")


@pytest.fixture(scope="module")
def source(tmp_path_factory: Any) -> Any:
    return Sources(tmp_path_factory.mktemp("sources"))


@pytest.mark.parametrize("method", ["lsp", "dreamer", "no_mi", "random_skills", "cem"])
def test_reward_and_value_start_anew_where_that_is_asked_for(
    source: Any, tmp_path: Any, method: Any
) -> None:
    heads: Any = ("reward",) if method == "cem" else ("reward", "value")
    config = transferred(source(method), "walker_run", TransferConfig(reset=heads))
    trainer = open_trainer(tmp_path / "run", config)
    begin(trainer)
    before, after = weights_of(source(method)), trainer.networks.state_dict()
    reset = changed(before, after)
    heads = {name for name in before if name.startswith("world_model.reward_head")}
    last = (
        {}
        if method == "cem"
        else {
            f"{value}.net.{len(trainer.networks.value.net) - 1}.{part}"
            for value in ("value", "slow_value")
            for part in ("weight", "bias")
        }
    )
    biases = {name for name in before if name.endswith("bias")}  # fresh ones are zero
    assert {name for name in heads if "weight" in name} - biases <= reset | {
        "world_model.reward_head.1.weight"
    }
    assert reset <= heads | set(last)
    assert set(last) <= reset
    trainer.close()


@pytest.mark.parametrize("method", ["lsp", "dreamer", "no_mi", "random_skills", "cem"])
def test_all_weights_are_carried_over_and_no_more(source: Any, tmp_path: Any, method: Any) -> None:
    trainer = open_trainer(tmp_path / "run", transferred(source(method), "walker_run"))
    begin(trainer)
    assert not changed(weights_of(source(method)), trainer.networks.state_dict())
    assert not any(optimizer.state for optimizer in trainer.learner.optimizers.values())
    assert (len(trainer.replay), trainer.env_steps) == (0, 0)
    trainer.close()


def test_the_prefill_is_acted_by_the_transferred_policy(source: Any, tmp_path: Any) -> None:
    trainer = open_trainer(tmp_path / "run", transferred(source(), "walker_run"))
    begin(trainer)
    assert not trainer.collector.random
    trainer.run(160)
    assert trainer.counters.updates == 0  # the prefill counts, and learning waits for its end
    trainer.close()


@pytest.mark.parametrize("method", ["lsp", "dreamer"])
def test_a_frozen_policy_stays_the_same_bit_for_bit(
    source: Any, tmp_path: Any, method: Any
) -> None:
    transfer = TransferConfig(freeze_policy=True, anchor=0.0)
    config = transferred(source(method), "walker_run", transfer)
    lsp.train(config, tmp_path / "run", 400, PLAIN)
    moved = changed(weights_of(source(method)), weights_of(tmp_path / "run"))
    assert not any(name.startswith(("policy.", "skill_predictor.")) for name in moved)
    for part in ("world_model.rssm", "world_model.reward_head", "value.", "slow_value."):
        assert any(name.startswith(part) for name in moved), part


def test_a_behavior_stays_fixed_over_transfers_in_a_row(source: Any, tmp_path: Any) -> None:
    """What acts is what the first source's policy and model were, while its model learns on."""
    start: Any = source()
    before: dict[str, torch.Tensor] = {}
    for name in ("one", "other"):
        config = transferred(start, "walker_run", TransferConfig(freeze_policy=True))
        lsp.train(config, tmp_path / name, 400, PLAIN)
        weights = weights_of(tmp_path / name)
        assert changed(weights_of(start), weights) & {"policy.net.0.weight"}
        acting = {key: x for key, x in weights.items() if key.startswith("anchor.")}
        before, start = before or acting, tmp_path / name
        assert not changed(before, acting)
    first = weights_of(source())
    assert torch.equal(acting["anchor.policy.net.0.weight"], first["policy.net.0.weight"])
    enter = "rssm.enter.weight"
    assert torch.equal(acting[f"anchor.{enter}"], first[f"world_model.{enter}"])
    # A policy that adapts from there on is held to what acted, or to what it is itself.
    for rate, held in ((0.0, first), (0.1, weights)):
        config = transferred(start, "walker_run", TransferConfig(anchor=0.1, anchor_rate=rate))
        trainer = open_trainer(tmp_path / f"rate{rate}", config)
        begin(trainer)
        found = trainer.networks.anchor.policy.state_dict()["net.0.weight"]
        assert torch.equal(found, held["policy.net.0.weight"])
        trainer.close()


def test_the_planner_chooses_otherwise_for_another_task(source: Any, tmp_path: Any) -> None:
    """The policy is the same, the reward is not: re-planning is what adapts."""
    transfer = TransferConfig(freeze_policy=True, relabel=True, updates=50)
    config = transferred(source(), "walker_run", transfer, reward="test_transfer:fall_over")
    lsp.train(config, tmp_path / "run", 20, PLAIN)
    plans = []
    for run in (source(), tmp_path / "run"):
        agent: Any = lsp.load(run, mode="evaluate")
        agent.act(
            {key: np.zeros(x.shape, x.dtype) for key, x in observation_of("walker_run").items()}
        )
        plans.append(agent.plan.mean)
    one, other = plans
    assert not torch.allclose(one, other, atol=1e-3)


def observation_of(task: Any) -> Any:
    env = make_env(task)
    observation, _ = env.reset(seed=0)
    env.close()
    return observation


def fall_over(states: Any, actions: Any) -> Any:
    """A user's own reward: 1 while the torso of the walker is below 0.7 m."""
    return (states[:, 0] < -0.6).astype(float)


HELD = {
    "free": {},
    "held": {"keep_replay": True, "anchor": 0.1, "anchor_rate": 0.0, "anchor_steps": 350},
    "slow": {"new_share": 0.5, "anchor": 0.1, "anchor_rate": 0.01},
    "fixed": {"freeze_policy": True, "anchor": 0.1},
}


@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
def test_a_transferred_run_resumes_exactly(source: Any, tmp_path: Any, held: Any) -> None:
    config = transferred(source(), "walker_run", TransferConfig(relabel=True, updates=3, **held))
    for path, stops in (("whole", [400]), ("broken", [260, 400])):
        for stop in stops:
            lsp.train(config, tmp_path / path, stop, PLAIN)
    assert not changed(weights_of(tmp_path / "whole"), weights_of(tmp_path / "broken"))


def test_skills_may_be_held_longer_on_the_new_task(source: Any, tmp_path: Any) -> None:
    config = transferred(source(), "walker_run", skill_length=30, horizon=120)
    assert (config.planner.skill_length, config.planner.horizon) == (30, 120)
    assert (config.behavior_horizon, config.plan_length) == (30, 4)
    trainer = open_trainer(tmp_path / "run", config)
    begin(trainer)
    trainer.run(80)
    assert (
        trainer.parts.agent.plan.mean.shape
        == standard_plan(1, 4, 3, torch.device("cpu")).mean.shape
    )
    trainer.close()


def test_transfer_from_the_command_line(
    source: Any, tmp_path: Any, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["transfer", str(source()), "--task", "walker_run", "--freeze-policy", "--relabel"]
    main([*arguments, "--updates", "2", "--steps", "400", "--no-compile", "--seed", "5"])
    run = tmp_path / "runs" / f"walker_run-from-{source().name}-frozen-relabel-seed5"
    assert "Evaluation after 400 env steps" in capsys.readouterr().out
    config = RunFolder(run).read_config()
    assert (config.task, config.seed, config.transfer.source) == ("walker_run", 5, str(source()))
    main([*arguments, "--updates", "2", "--steps", "500", "--no-compile", "--seed", "5"])
    with pytest.raises(SystemExit):
        main([*arguments, "--updates", "3", "--steps", "500", "--no-compile", "--seed", "5"])
    assert "relabelled (2 updates), with an anchor of 0.05, not from" in capsys.readouterr().err


def test_each_command_has_a_folder_of_its_own(source: Any) -> None:
    def folder(*flags: Any) -> Any:
        arguments = ["transfer", str(source()), "--task", "walker_run", *flags]
        command: Any = _parse_in_one_line(arguments)
        return command.folder

    flags = [
        "",
        "--freeze-policy",
        "--relabel",
        "--reset value",
        "--reset value reward",
        "--seed 1",
    ]
    flags += ["--keep-replay", "--anchor 0.1", "--anchor 0.1 --anchor-steps 9"]
    flags += ["--relabel --new-share 0.5", "--anchor 0.1 --anchor-rate 0.01"]
    flags += ["--acting-horizon 20", "--prior-weight 0", "--plan-lambda 1", "--min-std 0.2"]
    flags += ["--action-candidates 128"]
    flags += ["--skill-length 5", "--horizon 5", "--reward a.b:c", "--reward a.b:d"]
    folders = [folder(*each.split()) for each in flags]
    assert len(set(folders)) == len(flags)
    assert folders[0] == Path("runs") / f"walker_run-from-{source().name}"
    # What only says how long, or how it is computed, goes on in the same one.
    assert folder("--steps", "7", "--video", "--threads", "1") == folders[0]


def test_a_run_is_called_what_its_folder_is_called(source: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(source())
    command: Any = _parse_in_one_line(["transfer", ".", "--task", "walker_run"])
    assert command.folder.name == f"walker_run-from-{source().name}"


def test_a_transfer_is_computed_as_its_sources_preset_has_it(
    source: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    computed = []
    monkeypatch.setattr("lsp.cli.commands.Train.main", lambda self: computed.append(self.runtime))
    main(["transfer", str(source()), "--task", "walker_run", "--threads", "3"])
    assert computed == [replace(default_runtime("debug"), threads=3)]
    assert not computed[0].compile


def test_what_a_run_began_from_cannot_be_forced(source: Any, tmp_path: Any) -> None:
    run = tmp_path / "run"
    lsp.train(short_run(), run, 20, PLAIN)
    with pytest.raises(UserError, match="began from nothing, not from"):
        lsp.train(transferred(source(), "walker_walk"), run, 40, PLAIN, force=True)
    lsp.train(transferred(source(), "walker_walk"), tmp_path / "other", 20, PLAIN)
    with pytest.raises(UserError, match="not from nothing"):
        lsp.train(short_run(), tmp_path / "other", 40, PLAIN, force=True)
    relabel = TransferConfig(relabel=True, updates=3, reset=("reward",), anchor=0.05)
    again = (source(), "walker_walk", tmp_path / "other", 40, PLAIN)
    for force in (False, True):
        why = r"relabelled .3 updates., without its reward, with an anchor of 0.05, anchor-rate 0.0"
        with pytest.raises(UserError, match=why):
            lsp.transfer(*again, force=force, transfer=relabel)
    # Nothing was noted of what a behaviour that is fixed from now on would be.
    with pytest.raises(UserError, match=r"with an anchor of 0\.05: choose another --logdir$"):
        lsp.transfer(*again, force=True, transfer=TransferConfig(freeze_policy=True))
    for other, why in (
        (TransferConfig(keep_replay=True), "not from .*, its replay kept: choose"),
        (TransferConfig(relabel=True, updates=3, new_share=0.2), "new-share 0.2: choose"),
        (TransferConfig(anchor=0.05, anchor_steps=40), "0.05, anchor-steps 40, anchor-rate"),
    ):
        with pytest.raises(UserError, match=why):
            lsp.transfer(*again, force=True, transfer=other)
    frozen = TransferConfig(freeze_policy=True, anchor=0.0)
    with pytest.warns(RunWarning, match="other settings"):
        assert lsp.transfer(*again, force=True, transfer=frozen)


def test_a_transfer_goes_on_without_its_source_however_it_is_spelled(
    source: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(source().parent)
    config = transferred(source(), "walker_run")
    lsp.train(config, tmp_path / "run", 20, PLAIN)
    relative = replace(config, transfer=replace(config.transfer, source=source().name))
    lsp.train(relative, tmp_path / "run", 40, PLAIN)
    away = source().with_name("away")
    source().rename(away)
    call = (source(), "walker_run", tmp_path / "run")
    monkeypatch.setattr("lsp.report.plots.save_figure", lambda figure, out: None)
    try:
        assert lsp.train(config, tmp_path / "run", 60, PLAIN)
        source().mkdir()  # something else has taken its place
        assert lsp.transfer(*call, 70, PLAIN)
        source().rmdir()
        assert lsp.transfer(*call, 80, PLAIN)
        main([*"transfer {} --task {} --logdir {} --steps 100".format(*call).split(), "--no-bf16"])
        refused("is not a run", source(), "walker_run", tmp_path / "new", 20)
        refused("is not a run", source(), "walker_run", tmp_path / "run2", 20)
    finally:
        away.rename(source())


def test_a_transfer_goes_on_from_any_folder(source: Any, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(source().parent)
    name = source().name
    assert lsp.transfer(name, "walker_run", tmp_path / "run", 20, PLAIN)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(source(), tmp_path / "another")
    refused("began from", "another", "walker_run", "run", 40)
    shutil.copytree(source(), tmp_path / name)  # the project was moved, as it was
    assert lsp.transfer(name, "walker_run", "run", 40, PLAIN)
    assert lsp.transfer(source(), "walker_run", "run", 60, PLAIN)


def test_a_source_may_be_named_twice(source: Any, tmp_path: Any) -> None:
    transfer = TransferConfig(source=f"{source()}/")
    assert transferred(source(), "walker_run", transfer).transfer.source == str(source())


def test_longer_skills_get_longer_sequences_where_they_are_needed(
    source: Any, tmp_path: Any
) -> None:
    config = transferred(source("hiro"), "walker_run", skill_length=30)
    assert config.replay.length == 60
    assert lsp.train(config, tmp_path / "run", 20, PLAIN)
    assert transferred(source("hiro"), "walker_run", skill_length=5).replay.length == 20


def test_force_goes_on_with_other_k_and_h(source: Any, tmp_path: Any) -> None:
    call = (source(), "walker_run", tmp_path / "run")
    assert lsp.transfer(*call, 20, PLAIN)
    refused("--force", *call, 40, skill_length=4, horizon=12)
    with pytest.warns(RunWarning, match=r"planner.skill_length: \d+ → 4"):
        assert lsp.transfer(*call, 40, PLAIN, force=True, skill_length=4, horizon=12)
    assert lsp.transfer(*call, 60, PLAIN, skill_length=4, horizon=12)


def test_flags_say_how_a_transfer_is_computed(source: Any, tmp_path: Any, monkeypatch: Any) -> None:
    computed = []
    monkeypatch.setattr("lsp.cli.commands.Train.main", lambda self: computed.append(self.runtime))
    main(["transfer", str(source()), "--task", "walker_run", "--compile"])
    assert computed[0].compile
