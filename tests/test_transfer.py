"""Transfer: what is carried over, what starts anew, and old episodes paid for another task."""

import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from builders import short_run
from gymnasium.spaces import Dict
from own_tasks import Reach
from unchecked import unchecked

import lsp
from lsp.algorithm.cem import standard_plan
from lsp.api import load_networks
from lsp.cli.main import _parse_in_one_line, main
from lsp.config import (
    ActionsConfig,
    RuntimeConfig,
    TransferConfig,
    default_runtime,
    make_config,
    validated,
)
from lsp.config.transfers import (
    ACTING_HORIZON,
    ANCHOR,
    ANCHOR_RATE,
    ANCHORED_STD,
    NEW_SHARE,
    PRIOR_WEIGHT,
    on_another_task,
)
from lsp.envs import make_env
from lsp.envs.lookup import Maker
from lsp.errors import RunWarning, UserError
from lsp.runs.checkpoint import Checkpoint, load_newest
from lsp.runs.folder import RunFolder
from lsp.runs.metrics import read_metrics
from lsp.runs.spaces import spaces_of
from lsp.training import parts
from lsp.training import transfer as transfers
from lsp.training.evaluation import evaluate
from lsp.training.parts import env_maker, open_run
from lsp.training.progress import describe
from lsp.training.trainer import Trainer
from lsp.training.transfer import begin, transferred

pytestmark = pytest.mark.usefixtures("short_episodes")

PLAIN = RuntimeConfig(compile=False, bf16=False)


@pytest.fixture(scope="module")
def source(tmp_path_factory: Any) -> Any:
    """For a method, a short run on walker_walk."""
    made = {}

    def get(method: Any = "lsp", task: Any = "walker_walk") -> Any:
        if (method, task) not in made:
            path = tmp_path_factory.mktemp("source") / f"{method}-{task}"
            lsp.train(short_run(method, task), path, 400, PLAIN)
            made[method, task] = path
        return made[method, task]

    return get


def open_trainer(path: Any, config: Any) -> Any:
    return Trainer(open_run(validated(config), RunFolder(path), PLAIN))


def newest(path: Any) -> Checkpoint:
    checkpoint = load_newest(RunFolder(path).checkpoints)
    assert checkpoint is not None
    return checkpoint


def weights_of(path: Any) -> Any:
    return newest(path).tensors["networks"]


def changed(one: Any, other: Any) -> Any:
    return {name for name in one if not torch.equal(one[name], other[name])}


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


def height(states: Any, actions: Any) -> Any:
    return states[:, 0] + 0.001 * actions[:, 0]


def paid_for_height(states: Any, actions: Any) -> Any:
    """By hand, for every action that a state followed."""
    held = zip(states[1:], actions[1:], strict=True)
    return [sum(height(each, np.tile(action, (len(each), 1)))) for each, action in held]


def test_a_run_starts_from_the_relabelled_replay(source: Any, tmp_path: Any) -> None:
    transfer = TransferConfig(relabel=True, updates=7)
    config = transferred(source(), "walker_run", transfer, reward="test_transfer:height")
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


def refused(message: Any, *arguments: Any, **settings: Any) -> None:
    with pytest.raises(UserError, match=message):
        lsp.transfer(*arguments, **{"runtime": PLAIN, **settings})


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
    for reward in ("height", ":height", "..tests:height", "test_transfer:"):
        refused("module:function", source(), "walker_run", run, 100, reward=reward)
    refused("no 'nothing'", source(), "walker_run", run, 100, reward="test_transfer:nothing")
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


def test_planned_actions_look_as_far_ahead_as_is_asked_for(source: Any) -> None:
    config = transferred(source("cem"), "walker_run", horizon=7)
    assert (config.planner.horizon, config.planner.skill_length) == (7, 1)
    assert config.behavior == RunFolder(source("cem")).read_config().behavior


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
    refused("must return one finite number", *call, reward=f"test_transfer:{reward}")


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
        for reward in (None, "test_transfer:meddling")
    )
    for name, config in (("plain", plain), ("paid", paid)):
        lsp.train(config, tmp_path / name, 20, PLAIN)
    for path in RunFolder(source()).episodes.iterdir():
        before, after = np.load(path), np.load(tmp_path / "paid" / "episodes" / path.name)
        for key in ("sim_state", "action"):
            np.testing.assert_array_equal(before[key], after[key])
    env = make_env("walker_walk", reward="test_transfer:meddling")
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


def test_a_signal_while_the_replay_is_relabelled_saves_and_stops(
    source: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    def stopped(trainer: Any, *arguments: Any) -> None:
        take_over(trainer, *arguments)
        signal.raise_signal(signal.SIGTERM)

    take_over = transfers._take_over_replay
    monkeypatch.setattr(transfers, "_take_over_replay", stopped)
    transfer = TransferConfig(relabel=True, updates=50)
    call = (source(), "walker_run", tmp_path / "run", 100, PLAIN)
    assert not lsp.transfer(*call, transfer=transfer)
    assert newest(tmp_path / "run").facts["updates"] == 0


def test_a_source_may_have_been_paid_by_what_is_out_of_reach(source: Any, tmp_path: Any) -> None:
    lsp.train(short_run(reward="test_transfer:height"), tmp_path / "own", 20, PLAIN)
    folder = RunFolder(tmp_path / "own")
    far = replace(folder.read_config(), reward="no_such_module:reward")
    folder.record(far, PLAIN)
    assert lsp.transfer(tmp_path / "own", "walker_run", tmp_path / "run", 20, PLAIN)


def test_pixels_of_another_body_are_not_relabelled(source: Any, tmp_path: Any) -> None:
    lsp.train(short_run(obs="pixels"), tmp_path / "seen", 20, PLAIN)
    transfer = TransferConfig(relabel=True)
    refused("another body", tmp_path / "seen", "cheetah_run", tmp_path / "run", transfer=transfer)


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


def test_flags_say_how_a_transfer_is_computed(source: Any, tmp_path: Any, monkeypatch: Any) -> None:
    computed = []
    monkeypatch.setattr("lsp.cli.commands.Train.main", lambda self: computed.append(self.runtime))
    main(["transfer", str(source()), "--task", "walker_run", "--compile"])
    assert computed[0].compile


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
        reward="test_transfer:height",
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
