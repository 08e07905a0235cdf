"""A slow copy of all weights is evaluated, exported and carried over; learning does not see it."""

from typing import Any

import pytest
import torch
from builders import change, linear, make_networks, short_run
from test_train import assert_same_learning, lines, open_trainer, train

import lsp
from lsp.api import load_networks
from lsp.config import Config, RuntimeConfig
from lsp.errors import RunWarning
from lsp.models.networks import Networks
from lsp.runs.checkpoint import load_newest
from lsp.training.averaging import AveragedWeights
from lsp.training.evaluation import evaluate

pytestmark = pytest.mark.usefixtures("short_episodes")

PLAIN = RuntimeConfig(compile=False, bf16=False)


def averaging(rate: float = 0.1, method: str = "lsp") -> Config:
    return change(short_run(method), optimizer={"average_rate": rate})


def same_weights(one: Any, other: Any) -> bool:
    return all(torch.equal(x, other[name]) for name, x in one.items())


def test_the_copy_is_a_mean_at_first_and_then_follows() -> None:
    networks = make_networks()
    weight = linear(networks.world_model.reward_head).weight
    average = AveragedWeights(networks, 0.25)
    assert isinstance(average.networks, Networks)
    copied = linear(average.networks.world_model.reward_head).weight
    seen = []
    for update in range(1, 7):
        with torch.no_grad():
            weight.copy_(torch.full_like(weight, float(update**2)))
        average.follow(update)
        seen.append(float(copied[0, 0].detach()))
    # The mean of 1, 4, 9, 16, and from there on a quarter of the way at each step.
    expected = [1.0, 2.5, 14 / 3, 7.5, 7.5 + (25 - 7.5) / 4]
    expected.append(expected[-1] + (36 - expected[-1]) / 4)
    assert seen == pytest.approx(expected)
    assert float(weight[0, 0].detach()) == 36


@pytest.mark.parametrize("method", ["lsp", "dreamer", "hiro"])
def test_learning_is_the_same_with_it(tmp_path: Any, method: str) -> None:
    plain = train(tmp_path / "plain", averaging(0.0, method), 800)
    averaged = train(tmp_path / "averaged", averaging(0.1, method), 800)
    assert_same_learning(plain, averaged)
    own, copy = averaged.networks.state_dict(), averaged.averaged.networks.state_dict()
    assert plain.averaged is None
    assert not same_weights(own, copy)
    kinds = ("train", "episode")
    assert lines(tmp_path / "plain", kinds) == lines(tmp_path / "averaged", kinds)


def test_it_resumes_where_it_was(tmp_path: Any) -> None:
    once = train(tmp_path / "once", averaging(), 1000)
    twice = train(tmp_path / "twice", averaging(), 500, 1000)
    assert_same_learning(once, twice)
    assert same_weights(once.averaged.networks.state_dict(), twice.averaged.networks.state_dict())


def test_it_is_what_is_evaluated_and_loaded(tmp_path: Any) -> None:
    trainer = train(tmp_path, averaging(), 800)
    copy = trainer.averaged.networks
    assert trainer.evaluated is copy
    expected = evaluate(copy, trainer.parts.make_env, 1, trainer.config.seed, trainer.parts.runtime)
    (line,) = lines(tmp_path, ("eval",))
    assert line["eval/returns"] == [float(x) for x in expected.returns]
    assert same_weights(load_networks(tmp_path).state_dict(), copy.state_dict())
    lsp.export(tmp_path, tmp_path / "agent", episodes=2, full_precision=True)
    packed = load_networks(tmp_path / "agent")
    assert isinstance(packed, Networks)
    assert same_weights(packed.policy.state_dict(), copy.policy.state_dict())
    assert not same_weights(packed.policy.state_dict(), trainer.networks.policy.state_dict())


def test_a_transfer_begins_with_the_average_of_its_source(tmp_path: Any) -> None:
    source = train(tmp_path / "source", averaging(), 800).averaged.networks.state_dict()
    other = tmp_path / "other"
    lsp.transfer(tmp_path / "source", "walker_run", other, 0, runtime=PLAIN)
    found = load_newest(other / "checkpoints")
    assert found is not None
    for group in ("networks", "averaged"):
        shared = {name: x for name, x in found.tensors[group].items() if name in source}
        assert shared
        assert same_weights(shared, source)


def test_a_run_without_one_is_resumed_with_one(tmp_path: Any) -> None:
    train(tmp_path, averaging(0.0), 500)
    before = load_networks(tmp_path).state_dict()
    with pytest.warns(RunWarning, match="average_rate"):
        lsp.train(averaging(0.1), tmp_path, 500, PLAIN, force=True)
    trainer = open_trainer(tmp_path, averaging(0.1))
    assert same_weights(trainer.averaged.networks.state_dict(), before)
    trainer.close()


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_a_shared_plan_of_another_length_is_resumed_with_force(tmp_path: Any, rate: float) -> None:
    shared = change(averaging(rate), planner={"scope": "shared"})
    train(tmp_path, shared, 500)
    before = load_networks(tmp_path).state_dict()
    longer = change(
        shared, planner={"horizon": shared.planner.horizon + shared.planner.skill_length}
    )
    with pytest.warns(RunWarning, match="horizon"):
        lsp.train(longer, tmp_path, 500, PLAIN, force=True)
    after = load_networks(tmp_path).state_dict()
    assert after["shared_mean"].shape[1] == before["shared_mean"].shape[1] + 1
    learned = {name: x for name, x in after.items() if not name.startswith("shared_")}
    assert same_weights(learned, before)
