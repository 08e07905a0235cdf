"""The world model: what its loss charges, and that it learns worlds whose answer is known."""

from dataclasses import replace
from functools import cache
from math import e, pi
from typing import Any

import pytest
import torch
from builders import linear, make_networks, seeded
from unchecked import mostly_unchecked

from lsp.config import ModelConfig, make_config
from lsp.errors import UserError
from lsp.models.distributions import LOG_2PI
from lsp.models.encoders import symlog
from lsp.models.layers import MLP, keras_init
from lsp.models.world_model import RSSM, WorldModel

SMALL = ModelConfig(
    deter=16, stoch=4, hidden=16, encoder=(16,), decoder=(16,), reward=(16,), cnn_depth=4
)


def make_model(config: Any = SMALL, shapes: Any = None, actions: Any = 2) -> Any:
    torch.manual_seed(0)
    return WorldModel(shapes or {"position": (3,)}, actions, config)


def make_batch(rows: Any = 4, length: Any = 6) -> Any:
    is_first = torch.zeros(rows, length, dtype=torch.bool)
    return {
        "obs/position": torch.randn(rows, length, 3, generator=seeded(1)),
        "action": torch.rand(rows, length, 2, generator=seeded(2)) * 2 - 1,
        "reward": torch.randn(rows, length, generator=seeded(3)),
        "is_first": is_first,
        "is_terminal": is_first,
    }


def kl_by_position(model: Any, batch: Any) -> Any:
    """KL of every row and time, with the noise that `loss` draws from the same seed."""
    noise = torch.randn((*batch["reward"].shape, model.config.stoch), generator=seeded())
    embedding = model.encode({"position": batch["obs/position"]})
    _, posterior, prior = model.rssm.observe(embedding, batch["action"], batch["is_first"], noise)
    # ln(σ₂/σ₁) + (σ₁² + (μ₁ - μ₂)²) / (2σ₂²) - ½, summed over the dimensions
    square = posterior.std.square() + (posterior.mean - prior.mean).square()
    kl = (prior.std / posterior.std).log() + square / (2 * prior.std.square()) - 0.5
    return kl.sum(-1).detach()


def price_of_kl(free_nats: Any, scale: Any = 1.0) -> Any:
    """What the KL adds to the loss, the KL itself, and the size of its gradient in the prior."""
    model = make_model(replace(SMALL, free_nats=free_nats, kl_scale=scale))
    batch = make_batch()
    loss, _, metrics = model.loss(batch, seeded())
    log_reward = -0.5 * (metrics["model/reward_error"].square() + LOG_2PI)
    price = loss + metrics["model/obs_log_prob"] + log_reward
    prior = list(model.rssm.prior_head.parameters())  # read by the KL and nothing else
    gradients = torch.autograd.grad(loss, prior, allow_unused=True)
    size = sum(0.0 if g is None else g.abs().sum().item() for g in gradients)
    return price.item(), metrics["model/kl"].item(), size, kl_by_position(model, batch)


def test_the_kl_is_that_of_posterior_and_prior_averaged_over_batch_and_time() -> None:
    _, kl, _, by_position = price_of_kl(0.0)
    assert kl == pytest.approx(by_position.mean().item(), rel=1e-4)


def test_below_the_free_nats_the_kl_costs_a_constant_and_moves_nothing() -> None:
    price, kl, gradient, _ = price_of_kl(3.0)
    assert kl < 3
    assert price == pytest.approx(3.0, abs=1e-4)
    assert gradient == 0


def test_above_the_free_nats_the_kl_costs_itself() -> None:
    price, kl, gradient, _ = price_of_kl(0.1, scale=2.0)
    assert kl > 0.1
    assert price == pytest.approx(2 * kl, abs=1e-4)
    assert gradient > 0


def test_the_kl_is_averaged_before_the_free_nats_are_taken_off() -> None:
    _, mean, _, by_position = price_of_kl(0.0)
    assert by_position.min() < 0.9 * mean
    assert by_position.max() > 1.1 * mean
    # Just above the mean no position costs anything, just below it every one does.
    price, _, gradient, _ = price_of_kl(mean * 1.01)
    assert gradient == 0
    assert price == pytest.approx(mean * 1.01, abs=1e-4)
    price, _, gradient, _ = price_of_kl(mean * 0.99)
    assert gradient > 0
    assert price == pytest.approx(mean, abs=1e-4)


def observe(model: Any, batch: Any, rows: Any = slice(None), time: Any = slice(None)) -> Any:
    noise = torch.randn(*batch["reward"].shape, model.config.stoch, generator=seeded(4))
    embedding = model.encode({"position": batch["obs/position"]})
    parts = (embedding, batch["action"], batch["is_first"], noise)
    return model.rssm.observe(*(x[rows, time] for x in parts))


def test_a_new_episode_inside_a_chunk_starts_from_nothing() -> None:
    model, batch = make_model(), make_batch(length=8)
    batch["is_first"] = batch["is_first"].clone()
    batch["is_first"][1:, 3] = True  # in row 0 the episode goes on
    whole, posterior, prior = observe(model, batch)
    before, *_ = observe(model, batch, time=slice(None, 3))
    after, after_posterior, after_prior = observe(model, batch, time=slice(3, None))
    halves = torch.cat([before.feature, after.feature], 1)
    torch.testing.assert_close(whole.feature[1:], halves[1:])
    torch.testing.assert_close(posterior.mean[1:, 3:], after_posterior.mean[1:])
    torch.testing.assert_close(prior.std[1:, 3:], after_prior.std[1:])
    assert (whole.feature[0, 3:] - halves[0, 3:]).abs().max() > 0.01


def test_the_action_before_an_episode_does_not_matter() -> None:
    model, batch = make_model(), make_batch()
    batch["is_first"] = torch.zeros(4, 6, dtype=torch.bool)
    batch["is_first"][:, 2] = True
    other = batch | {"action": batch["action"].clone()}
    other["action"][:, 2] = 0.7
    one, two = observe(model, batch)[0].feature, observe(model, other)[0].feature
    assert torch.equal(one, two)
    other["action"][:, 3] = 0.7
    assert not torch.equal(one, observe(model, other)[0].feature)


def test_imagining_is_filtering_with_the_prior_in_place_of_the_posterior() -> None:
    model, batch = make_model(), make_batch()
    latents, _, prior = observe(model, batch)
    noise = torch.randn(4, SMALL.stoch, generator=seeded(5))
    state = latents._replace(deter=latents.deter[:, 2], stoch=latents.stoch[:, 2])
    imagined = model.rssm.imagine(state, batch["action"][:, 3], noise)
    torch.testing.assert_close(imagined.deter, latents.deter[:, 3])
    torch.testing.assert_close(imagined.stoch, prior.mean[:, 3] + prior.std[:, 3] * noise)


TURN = torch.tensor([[0.9, 0.3], [-0.3, 0.9]])  # a spiral: 18° and a loss of 5 % a step
PUSH = 0.3


def swing(rows: Any, length: Any, seed: Any) -> Any:
    """Sequences of a damped oscillator pushed by actions; only its position is seen.

    Row t holds position t and the push that led to it. Reward is the position; an episode is
    called terminal where the position is positive.
    """
    generator = seeded(seed)
    state = torch.randn(rows, 2, generator=generator)
    action = torch.rand(rows, length, 1, generator=generator) * 2 - 1
    states = []
    for t in range(length):
        if t > 0:
            state = state @ TURN.T + PUSH * action[:, t] * torch.tensor([0.0, 1.0])
        states.append(state)
    position = torch.stack(states, 1)[..., :1]
    is_first = (torch.arange(length) == 0).expand(rows, length)
    return {
        "obs/position": position,
        "action": action * ~is_first[..., None],
        "reward": position[..., 0],
        "is_first": is_first,
        "is_terminal": position[..., 0] > 0,
    }


@cache
def model_of_the_swing(updates: Any = 300) -> Any:
    config = ModelConfig(
        deter=32,
        stoch=4,
        hidden=32,
        encoder=(32,),
        decoder=(32,),
        reward=(32,),
        layer_norm=True,
        free_nats=1.0,
        termination=True,
    )
    model = make_model(config, {"position": (1,)}, actions=1)
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=updates)
    for seed in mostly_unchecked(range(updates)):
        loss, *_ = model.loss(swing(32, 25, seed), seeded(seed))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()
        rate.step()
    return model


def open_loop() -> Any:
    """The true positions, and position, reward and chance of an end predicted 20 steps ahead."""
    return predictions(model_of_the_swing())


@torch.no_grad()
def predictions(model: Any, context: Any = 15, horizon: Any = 20) -> Any:
    data = swing(200, context + horizon, seed=10_000)
    zero = torch.zeros(200, context, model.config.stoch)
    embedding = model.encode({"position": data["obs/position"][:, :context]})
    seen = (data["action"][:, :context], data["is_first"][:, :context])
    latents, *_ = model.rssm.observe(embedding, *seen, zero)
    latent = latents._replace(deter=latents.deter[:, -1], stoch=latents.stoch[:, -1])
    features = []
    for t in range(context, context + horizon):
        latent = model.rssm.imagine(latent, data["action"][:, t], zero[:, 0])
        features.append(latent.feature)
    feature = torch.stack(features, 1)
    position = model.decoder(feature)["position"][..., 0]
    reward = model.reward_head(feature)[..., 0]
    ends = torch.sigmoid(model.termination_head(feature)[..., 0])
    return data["obs/position"][..., 0], position, reward, ends


def rms(x: Any) -> Any:
    return x.square().mean().sqrt().item()


def swings(test: Any) -> Any:
    """One worker for those that share the model of the swing."""
    return pytest.mark.long(pytest.mark.xdist_group("swing")(test))


@swings
def test_a_linear_system_is_predicted_twenty_steps_without_looking() -> None:
    truth, position, _, _ = open_loop()
    future, last = truth[:, 15:], truth[:, 14:15]
    guessing = min(rms(future - future.mean()), rms(future - last))
    assert rms(position - future) < 0.3 * guessing
    assert rms(position[:, -1] - future[:, -1]) < 0.5 * rms(future[:, -1] - future[:, -1].mean())


@swings
def test_the_actions_are_what_the_prediction_rests_on() -> None:
    truth, position, _, _ = open_loop()
    future = truth[:, 15:]
    # Half of what happens comes from the pushes: without them no prediction could be this good.
    swung_out = torch.linalg.matrix_power(TURN, 20).norm().item()
    assert swung_out < 0.6
    correlation = torch.corrcoef(torch.stack([position[:, -1], future[:, -1]]))[0, 1]
    assert correlation > 0.85


@swings
def test_reward_is_learned_and_foreseen() -> None:
    truth, _, reward, _ = open_loop()
    future = truth[:, 15:]
    assert rms(reward - future) < 0.35 * rms(future - future.mean())


@swings
def test_ends_of_episodes_are_learned_and_foreseen() -> None:
    truth, _, _, ends = open_loop()
    future = truth[:, 15:]
    clear = future.abs() > 0.3
    assert ((ends > 0.5) == (future > 0))[clear].float().mean() > 0.95


def sways_towards_a_goal(rows: Any, length: Any, seed: Any) -> Any:
    """Thirty joints that sway, and a goal in metres, of each episode its own, that none tells."""
    generator = seeded(seed)
    phase = 2 * pi * torch.rand(rows, 1, 30, generator=generator)
    speed = torch.linspace(0.1, 0.5, 30)
    goal = 4 * torch.randn(rows, 1, 3, generator=generator)
    is_first = torch.zeros(rows, length, dtype=torch.bool)
    is_first[:, 0] = True
    return {
        "obs/joints": torch.sin(phase + speed * torch.arange(length)[:, None]),
        "obs/goal": goal.expand(-1, length, -1),
        "action": torch.zeros(rows, length, 1),
        "reward": torch.zeros(rows, length),
        "is_first": is_first,
        "is_terminal": torch.zeros_like(is_first),
    }


def goal_error(task: Any, updates: Any = 100) -> Any:
    """RMS of the goal in metres after learning with the settings of `fast` for a task."""
    config = make_config("dreamer", "fast", task=task).resolved()
    model = make_model(config.model, {"joints": (30,), "goal": (3,)}, actions=1)
    optimizer = torch.optim.Adam(model.parameters(), config.model.learning_rate)
    for seed in mostly_unchecked(range(updates)):
        loss, _, metrics = model.loss(sways_towards_a_goal(16, 32, seed), seeded(seed))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip)
        optimizer.step()
    return metrics["model/error/goal"].item()


@pytest.mark.long
def test_where_a_task_may_hold_a_goal_it_is_learned_soon() -> None:
    spread = rms(sways_towards_a_goal(1000, 1, seed=0)["obs/goal"])
    error = goal_error("quadruped_reach")
    assert error < 0.3 * spread
    assert error < 0.75 * goal_error("walker_walk")  # which has none


def test_repeated_updates_on_one_batch_of_images_lower_the_loss() -> None:
    model = make_model(shapes={"image": (64, 64, 3)})
    image = torch.zeros(2, 3, 64, 64, 3, dtype=torch.uint8)
    for t in range(3):  # a white square that moves
        image[0, t, 10 + 10 * t : 30 + 10 * t, 20:40] = 255
        image[1, t, 20:40, 10 + 10 * t : 30 + 10 * t] = 255
    batch = make_batch(2, 3) | {"obs/image": image}
    del batch["obs/position"]
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    losses, errors = [], []
    for _ in mostly_unchecked(range(60)):
        loss, _, metrics = model.loss(batch, seeded())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        errors.append(metrics["model/error/image"].item())
    constant = 0.5 * 3 * 64 * 64 * LOG_2PI  # what a perfect reconstruction still costs
    assert losses[-1] - constant < 0.5 * (losses[0] - constant)
    assert errors[-1] < 0.75 * errors[0]


def images_loss(batch: Any, **changes: Any) -> Any:
    model = make_model(replace(SMALL, **changes), shapes={"image": (64, 64, 3)})
    loss, _, metrics = model.loss(batch, seeded())
    return model, loss, metrics["model/error/image"].item()


def test_some_images_of_a_batch_stand_for_all_of_them() -> None:
    rows, length = 3, 4
    batch = make_batch(rows, length)
    del batch["obs/position"]
    size = (rows, length, 64, 64, 3)
    batch["obs/image"] = torch.randint(256, size, dtype=torch.uint8, generator=seeded(7))
    _, whole, error = images_loss(batch)
    for enough in (12, 100):
        _, loss, same = images_loss(batch, decoded_images=enough)
        assert loss.item() == pytest.approx(whole.item(), rel=1e-5)
        assert same == pytest.approx(error, rel=1e-5)
    # Where one image is unlike the grey others, some draws see it, half of them on average.
    batch["obs/image"][:] = 128
    batch["obs/image"][1, 2] = 255
    model, *_ = images_loss(batch, decoded_images=6)
    losses = torch.stack([model.loss(batch, seeded(i))[0].detach() for i in range(40)])
    exact = make_model(SMALL, shapes={"image": (64, 64, 3)})
    truth = torch.stack([exact.loss(batch, seeded(i))[0].detach() for i in range(40)])
    assert losses.std() > 10 * truth.std()
    assert (losses.mean() - truth.mean()).abs() < 2 * losses.std() / 40**0.5


def test_images_are_read_as_numbers_around_zero_with_channels_first() -> None:
    model = make_model(shapes={"image": (64, 64, 3)})
    image = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    image[0, 5, 7, 2] = 255
    read = model.preprocess({"image": image})["image"]
    assert read.shape == (1, 3, 64, 64)
    assert read[0, 2, 5, 7] == 0.5
    assert read.sum().item() == pytest.approx(-0.5 * (64 * 64 * 3 - 2))
    assert model.decoder(torch.zeros(2, 20))["image"].shape == (2, 3, 64, 64)


def test_several_observations_keep_their_names() -> None:
    model = make_model(shapes={"b": (2,), "a": (3,)})
    means = model.decoder(torch.zeros(4, 20))
    assert {key: tuple(x.shape) for key, x in means.items()} == {"a": (4, 3), "b": (4, 2)}
    target = {"a": means["a"] + 3.0, "b": means["b"]}
    _, errors = model.decoder.log_prob(torch.zeros(4, 20), target)
    assert {key: x.item() for key, x in errors.items()} == pytest.approx({"a": 3.0, "b": 0.0})


def test_symlog_is_the_one_worked_out_by_hand() -> None:
    x = torch.tensor([0.0, e - 1, 1 - e * e])
    torch.testing.assert_close(symlog(x), torch.tensor([0.0, 1.0, -2.0]))
    assert symlog(torch.tensor(1e-3)).item() == pytest.approx(1e-3, rel=1e-2)


def test_symlog_is_applied_to_vectors_where_asked_for() -> None:
    observation = {"position": torch.tensor([[e - 1, 0.0, 1 - e]])}
    read = make_model(replace(SMALL, obs_transform="symlog")).preprocess(observation)
    torch.testing.assert_close(read["position"], torch.tensor([[1.0, 0.0, -1.0]]))
    assert torch.equal(make_model().preprocess(observation)["position"], observation["position"])


def test_a_goals_metres_are_left_as_they_are() -> None:
    observation = {"goal": torch.tensor([[6.0, -6.0, 0.0]]), "speed": torch.tensor([[e - 1]])}
    config = replace(SMALL, obs_transform="symlog")
    read = make_model(config, {"goal": (3,), "speed": (1,)}).preprocess(observation)
    assert torch.equal(read["goal"], observation["goal"])
    torch.testing.assert_close(read["speed"], torch.tensor([[1.0]]))


def test_rewards_are_learned_in_their_scale() -> None:
    batch = make_batch()
    scaled = make_model(replace(SMALL, reward_scale=0.1)).loss(batch, seeded())[0]
    plain = make_model().loss(batch | {"reward": 0.1 * batch["reward"]}, seeded())[0]
    torch.testing.assert_close(scaled, plain)


def test_layers_start_as_in_keras() -> None:
    torch.manual_seed(0)
    layer = linear(MLP(300, [100], 10), 0)
    bound = (6 / (300 + 100)) ** 0.5  # Glorot uniform
    assert bound * 0.99 < layer.weight.abs().max().item() <= bound
    assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert (layer.bias == 0).all()

    kernel = keras_init(torch.nn.Conv2d(3, 32, 4)).weight
    bound = (6 / ((3 + 32) * 16)) ** 0.5
    assert bound * 0.98 < kernel.abs().max().item() <= bound

    gru = RSSM(2, 16, SMALL).gru
    torch.testing.assert_close(gru.weight_hh.T @ gru.weight_hh, torch.eye(16), atol=1e-5, rtol=0)
    bound = (6 / (16 + 3 * 16)) ** 0.5
    assert bound * 0.97 < gru.weight_ih.abs().max().item() <= bound
    assert (gru.bias_ih == 0).all()
    assert (gru.bias_hh == 0).all()


def test_what_is_not_observed_cannot_be_left_untransformed() -> None:
    with pytest.raises(UserError, match="there is no vector gaol: choose of"):
        make_networks(model={"untransformed": ("goal", "gaol")})
