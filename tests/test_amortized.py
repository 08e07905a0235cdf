"""q(z | s): it learns the plans that were found in a state, and plans begin from it."""

from typing import Any

import builders
import numpy as np
import pytest
import torch
from builders import SHAPES, change, make_batch, make_latent, make_networks, seeded, short_run
from test_train import RUNTIME, assert_same_learning, lines, train

import lsp
from lsp.algorithm.agent import Agent
from lsp.algorithm.amortized import blank_plans, proposal_loss, proposed_plan
from lsp.algorithm.cem import Plan, candidate_noise, plan, standard_plan
from lsp.algorithm.learner import Learner
from lsp.api import load_networks
from lsp.backends.backends import NativeBackend
from lsp.backends.hardware import compiler
from lsp.config import TransferConfig, make_config, validated
from lsp.errors import UserError
from lsp.models.world_model import Latent
from lsp.runs.folder import RunFolder
from lsp.training.new_reward import NewReward
from lsp.training.parts import open_run
from lsp.training.replay import Replay
from lsp.training.trainer import Trainer
from lsp.training.transfer import begin, transferred

CPU = torch.device("cpu")


def amortized(**parts: Any) -> Any:
    """Networks with a proposal."""
    return make_networks(**(parts | {"skills": {"proposal": "learned"} | parts.get("skills", {})}))


def noted(config: Any, plans: Plan, planned: Any) -> dict[str, torch.Tensor]:
    """Rows `[batch, time]` whose actions came from these plans, where some were made."""
    return {
        "plan_mean": plans.mean,
        "plan_std": plans.std,
        "is_planned": planned,
        "is_first": torch.zeros_like(planned),
    }


def fitted(networks: Any, latents: Latent, batch: Any, updates: int = 400) -> None:
    optimizer = torch.optim.Adam(networks.proposal.parameters(), 1e-2)
    for _ in range(updates):
        optimizer.zero_grad()
        proposal_loss(networks, latents, batch)[0].backward()
        optimizer.step()


def in_time(latents: Latent, batch: int) -> Latent:
    """Rows to `[batch, time]`."""
    return Latent(*(x.unflatten(0, (batch, -1)) for x in latents))


def shifted(zeta: Plan, batch: int) -> Plan:
    """Plans `[batch · time]` in the rows of the actions that they led to; the first has none."""
    rows = (x.unflatten(0, (batch, -1)) for x in zeta)
    return Plan(*(torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1) for x in rows))


def test_a_fresh_proposal_is_nearly_the_prior() -> None:
    networks = amortized(planner={"horizon": 20})
    zeta = proposed_plan(networks, make_latent(networks, 5).feature)
    expected = standard_plan(5, 2, 3, CPU)
    torch.testing.assert_close(zeta.mean, expected.mean)
    torch.testing.assert_close(zeta.std, expected.std, atol=0.05, rtol=0)


def test_a_proposal_stays_among_the_skills_that_are_trained() -> None:
    networks = amortized(skills={"proposal_min_std": 0.3})
    for raw in (-100.0, 100.0):
        with torch.no_grad():
            networks.proposal.net[-1].bias.fill_(raw)
        zeta = proposed_plan(networks, make_latent(networks, 5).feature)
        assert (zeta.mean.abs() <= 2).all()
        assert zeta.std.min() >= 0.3 - 1e-6
        assert zeta.std.max() <= 1


def searched(networks: Any, starts: Latent, prior: Plan, rounds: int) -> tuple[Plan, Any]:
    """CEM for a function whose optimum depends on the state; how far the mean is from it."""
    target = 1.5 * starts.deter[:, None, :3]

    def evaluate(plans: Any, iteration: Any) -> Any:
        return -(plans - target).square().sum((-1, -2))

    noise = candidate_noise(prior, rounds, 16, seeded(7))
    zeta, _ = plan(evaluate, prior, 4, noise)
    return zeta, (zeta.mean - target).norm(dim=-1).mean()


def test_one_iteration_finds_what_elites_have_taught() -> None:
    networks = amortized()
    states = make_latent(networks, 512)
    elites, error = searched(networks, states, standard_plan(512, 1, 3, CPU), 6)
    assert error < 0.25
    planned = torch.ones(16, 32, dtype=torch.bool)
    latents = in_time(states, 16)
    fitted(networks, latents, noted(networks.config, shifted(elites, 16), planned))
    # The same states once more, and others between them.
    others = Latent(*((one + 0.1 * two) for one, two in zip(states, make_latent(networks, 512))))
    for starts in (states, others):
        prior = proposed_plan(networks, starts.feature)
        _, by_one = searched(networks, starts, prior, 1)
        _, untaught = searched(networks, starts, standard_plan(512, 1, 3, CPU), 1)
        assert by_one < 0.4
        assert by_one < 0.5 * untaught


def test_the_loss_is_the_cross_entropy_of_elites() -> None:
    networks = amortized(skills={"proposal_min_std": 0.2})
    latents = in_time(make_latent(networks, 8), 2)
    mean, std = torch.full((2, 4, 1, 3), 0.5), torch.full((2, 4, 1, 3), 0.3)
    planned = torch.zeros(2, 4, dtype=torch.bool)
    planned[0, 2] = True
    loss, metrics = proposal_loss(networks, latents, noted(None, Plan(mean, std), planned))
    # Of N(0.5, 0.3²) under N(0, σ²): ½ (log 2πσ² + (0.3² + 0.5²) / σ²) in each dimension.
    size = networks.proposal(latents.feature).std.mean().item() ** 2
    expected = 1.5 * (np.log(2 * np.pi * size) + (0.09 + 0.25) / size)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert metrics["proposal/plans"] == 1
    assert metrics["proposal/error"].item() == pytest.approx(0.5)


def test_only_plans_of_the_same_episode_count() -> None:
    networks = amortized()
    latents = in_time(make_latent(networks, 8), 2)
    plans = Plan(torch.ones(2, 4, 1, 3), torch.ones(2, 4, 1, 3))
    planned = torch.zeros(2, 4, dtype=torch.bool)
    planned[:, 0] = planned[0, 2] = True
    batch = noted(None, plans, planned)
    batch["is_first"] = planned.clone()
    loss, metrics = proposal_loss(networks, latents, batch)
    assert loss == 0
    assert metrics["proposal/plans"] == 0


def test_a_plan_belongs_to_the_state_before_the_action_that_it_led_to() -> None:
    networks = amortized()
    states = make_latent(networks, 8)
    latents = in_time(states, 1)
    mean = torch.zeros(1, 8, 1, 3)
    mean[0, 5] = 1.5
    planned = torch.arange(8)[None] == 5
    fitted(networks, latents, noted(None, Plan(mean, 0.01 + 0 * mean), planned), 200)
    zeta = proposed_plan(networks, states.feature)
    assert (zeta.mean[4] - 1.5).abs().max() < 0.1
    # However sure the elites were, the proposal goes on looking.
    assert zeta.std.min() >= 0.2


def batch_of(networks: Any) -> Any:
    """Replayed rows, some of which were planned for."""
    config = networks.config
    batch = make_batch(config)
    shape = batch["reward"].shape
    blank = blank_plans(int(np.prod(shape)), config)
    batch |= {name: x.reshape(*shape, *x.shape[1:]) for name, x in blank.items()}
    batch["plan_mean"] += 0.5
    batch["plan_std"] += 0.1
    batch["is_planned"][:, 3] = True
    return batch


@pytest.mark.parametrize("dim", [3, 8, 16])
@pytest.mark.parametrize("proposal", ["normal", "learned"])
@pytest.mark.parametrize("native", [False, True])
def test_skills_of_any_size_are_learned_and_acted(dim: int, proposal: Any, native: bool) -> None:
    if native and compiler() is None:
        pytest.skip("no C++ compiler")
    networks = make_networks(
        skills={"dim": dim, "proposal": proposal}, planner={"horizon": 20, "skill_length": 5}
    )
    backend = NativeBackend(networks) if native else None
    learner, batch = Learner(networks, 0, backend), batch_of(amortized(skills={"dim": dim}))
    if proposal == "learned":
        batch = batch_of(networks)
    metrics = learner.update(batch)
    assert all(value.isfinite().all() for value in metrics.values())
    agent = Agent(networks, "collect")
    for _ in range(7):
        agent.act({key: np.zeros(shape, np.float32) for key, shape in SHAPES.items()})
    assert agent.skill.shape == (1, dim)


@pytest.mark.parametrize(
    "parts",
    [
        {"skills": {"estimator": "forward"}},
        {"policy": {"stop_input_gradient": True, "entropy": 0.01}},
        {"behavior": {"horizon": 20}, "planner": {"mean_noise": 0.5}},
        {"skills": {"intrinsic": False}},
    ],
)
def test_a_proposal_goes_with_other_settings(parts: Any) -> None:
    networks = amortized(**parts)
    learner, batch = Learner(networks, 0), batch_of(networks)
    first = learner.update(batch)["proposal/loss"]
    for _ in range(5):
        metrics = learner.update(batch)
    assert all(value.isfinite().all() for value in metrics.values())
    assert metrics["proposal/loss"] < first


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
def test_kernels_fit_the_proposal_as_the_reference_does() -> None:
    losses = []
    for backend in (NativeBackend, None):
        networks = amortized()
        learner = Learner(networks, 0, None if backend is None else backend(networks))
        batch = batch_of(networks)
        losses.append([learner.update(batch)["proposal/loss"].item() for _ in range(5)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
    assert losses[0][-1] < losses[0][0]


def test_updates_draw_skills_from_the_proposal_and_plan_nothing(monkeypatch: Any) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("planned in an update")

    monkeypatch.setattr("lsp.algorithm.learner.plan_skills", refuse)
    networks = amortized(planner={"mean_noise": 0.0})
    with torch.no_grad():
        bias = networks.proposal.net[-1].bias.view(1, 6)
        bias[:, :3] = 100.0
    learner = Learner(networks, 0)
    zeta, _ = learner.plan(make_latent(networks, 4))
    assert (zeta.mean == 2).all()
    learner.update(batch_of(networks))


def test_acting_plans_from_the_proposal(monkeypatch: Any) -> None:
    networks, priors = amortized(), []

    def watched(copy: Any, latent: Any, generator: Any, prior: Any, rounds: Any) -> Any:
        priors.append(prior)
        return prior, {}

    monkeypatch.setattr("lsp.algorithm.agent.plan_skills", watched)
    with torch.no_grad():
        networks.proposal.net[-1].bias[:3] = 100.0
    agent = Agent(networks)
    agent.act({key: np.zeros(shape, np.float32) for key, shape in SHAPES.items()})
    assert (priors[0].mean == 2).all()
    assert (agent.skill == 2).all()


def seen(count: int | None = None) -> Any:
    lead = () if count is None else (count,)
    return {key: np.zeros((*lead, *shape), np.float32) for key, shape in SHAPES.items()}


def test_notes_are_the_plans_that_were_just_made() -> None:
    agent = Agent(amortized(planner={"skill_length": 3, "horizon": 3}), "collect", num_envs=2)
    assert not agent.notes()["is_planned"].any()
    for step in range(7):
        agent.act(seen(2))
        notes = agent.notes()
        assert notes["is_planned"].tolist() == [step % 3 == 0] * 2
        expected = agent.plan.mean.numpy() if step % 3 == 0 else np.zeros((2, 1, 3))
        np.testing.assert_array_equal(notes["plan_mean"], expected)
    agent.begin(0)
    agent.act(seen(2))
    assert agent.notes()["is_planned"].tolist() == [True, False]
    agent.begin(1)
    assert agent.notes()["is_planned"].tolist() == [True, False]


def test_without_a_proposal_nothing_is_noted() -> None:
    assert Agent(make_networks(), "collect").notes() == {}


def amortized_run(**settings: Any) -> Any:
    config = short_run(**settings)
    return change(config, skills={"proposal": "learned"}, planner={"replan_every": 4})


def test_a_run_notes_its_plans_and_resumes_exactly(short_episodes: Any, tmp_path: Any) -> None:
    config = amortized_run()
    whole = train(tmp_path / "whole", config, 400)
    broken = train(tmp_path / "broken", config, 260, 400)
    assert_same_learning(whole, broken)
    learned = (lines(tmp_path / name, ("train", "episode")) for name in ("whole", "broken"))
    assert next(learned) == next(learned)
    random, *acted = whole.replay.episodes()
    assert not random["is_planned"].any()
    planned = acted[-1]["is_planned"]
    assert planned[1::4].all()
    assert planned.sum() == len(planned[1::4])
    assert (acted[-1]["plan_std"][planned] > 0).all()


@pytest.fixture(scope="module")
def source(tmp_path_factory: Any) -> Any:
    path = tmp_path_factory.mktemp("source") / "run"
    with builders.short_episodes():
        lsp.train(amortized_run(), path, 400, RUNTIME)
    return path


def of_source(path: Any) -> Any:
    return load_networks(path)


@pytest.mark.parametrize("held", [{}, {"skill_length": 5, "horizon": 20}], ids=["same", "longer"])
def test_a_transfer_takes_the_proposal_but_no_plans(
    short_episodes: Any, source: Any, tmp_path: Any, held: Any
) -> None:
    transfer = TransferConfig(relabel=True, keep_replay=True, updates=2)
    config = transferred(source, "walker_run", transfer, **held)
    trainer = Trainer(open_run(validated(config), RunFolder(tmp_path / "run"), RUNTIME))
    begin(trainer)
    own = trainer.networks
    layers = (x.get_parameter("proposal.net.0.weight") for x in (own, of_source(source)))
    assert torch.equal(*layers) == (not held)
    old = Replay.stream(RunFolder(source).episodes, 4, RunFolder(source).id)
    assert any(episode["is_planned"].any() for episode in old)
    for replay in (trainer.replay, trainer.parts.source_replay):
        assert replay is not None
        assert not any(episode["is_planned"].any() for episode in replay.episodes())
    trainer.run(200)
    assert any(episode["is_planned"].any() for episode in trainer.replay.episodes())
    trainer.close()


@pytest.mark.parametrize(
    ("method", "parts", "complaint"),
    [
        ("dreamer", {}, "dreamer plans no skills"),
        ("random_skills", {}, "random_skills plans no skills"),
        ("hiro", {}, "hiro plans no skills"),
        ("lsp", {"planner": {"scope": "shared"}}, "needs planner.scope = per_state"),
        ("lsp", {"planner": {"warm_start": True}}, "not both"),
        ("lsp", {"skills": {"proposal_min_std": 1.0}}, "must lie between 0 and 1"),
        ("lsp", {"skills": {"proposal": "normal", "proposal_min_std": 0.5}}, "proposal = learned"),
        ("lsp", {"planner": {"acting_horizon": 20}}, "proposes plans of H and K"),
    ],
)
def test_what_cannot_propose_is_refused(method: str, parts: Any, complaint: str) -> None:
    learned = {"proposal": "learned"} | parts.get("skills", {})
    config = change(make_config(method, "debug"), **(parts | {"skills": learned}))
    with pytest.raises(UserError, match=complaint):
        validated(config)


def test_plans_for_a_new_reward_do_not_begin_from_what_was_proposed_for_the_old_one() -> None:
    config = amortized(skills={"proposal_min_std": 0.5}).config
    asked = NewReward(horizon=40, skill_length=5).settings(config)
    assert config.has_proposal
    assert not asked.has_proposal
