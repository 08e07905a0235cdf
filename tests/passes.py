"""Passes through a method's networks, the same noise in, which the kernels and the reference are
compared by: their numbers, and gradients of some function of them."""

from typing import Any

import torch
from builders import make_networks, seeded

from lsp.algorithm.learner import Learner
from lsp.models.world_model import Latent

ACTIONS = 3
# What rounding leaves in fp32, relative to the size of a whole tensor.
CLOSE = 2e-5


def make_disturbed(method: Any = "lsp", action_dim: Any = ACTIONS, **parts: Any) -> Any:
    """Networks with weights that are all their own: biases and gains too."""
    networks = make_networks(method, action_dim=action_dim, **parts)
    # Of a generator of its own: some draws magnify rounding, and none should come with another
    # size of the value.
    generator = seeded(1)
    with torch.no_grad():
        for weight in networks.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return networks


def distance(one: Any, other: Any) -> Any:
    """Largest relative distance between tensors and those that they should be."""
    pairs = zip(one, other, strict=True)
    return max(((x.float() - y).norm() / y.norm().clamp(min=1e-3)).item() for x, y in pairs)


def rollout(networks: Any, imagine: Any, learned: Any, rows: Any = 37) -> Any:
    """States and actions of a rollout, and the gradient of some function of both."""
    config = networks.config
    deter = torch.randn(rows, config.model.deter, generator=seeded(1)).tanh()
    start = Latent(deter, torch.randn(rows, config.model.stoch, generator=seeded(2)))
    plan = torch.randn(rows, config.plan_length, networks.plan_dim, generator=seeded(3))
    noise = networks.draw_noise(config.planner.horizon, rows, generator=seeded(4))
    feature, action = imagine(start, plan, noise)
    feature, action = feature.float(), action.float()
    if not learned:
        return [feature, action], []
    weights = (torch.randn(x.shape, generator=seeded(5)) for x in (feature, action))
    loss = sum((x * w).sum() for x, w in zip((feature, action), weights, strict=True))
    return [feature, action], torch.autograd.grad(loss, learned)


def gradient_of_plan(networks: Any, imagine: Any, rows: Any) -> Any:
    """Of some function of the states and actions of a rollout."""
    model = networks.config.model
    start = Latent(*(torch.zeros(rows, size) for size in (model.deter, model.stoch)))
    length = networks.config.plan_length
    plan = torch.randn(rows, length, networks.plan_dim, generator=seeded(3)).requires_grad_()
    noise = networks.draw_noise(networks.config.planner.horizon, rows, generator=seeded(4))
    feature, action = (x.float() for x in imagine(start, plan, noise))
    weights = (torch.randn(x.shape, generator=seeded(5)) for x in (feature, action))
    loss = sum((x * w).sum() for x, w in zip((feature, action), weights, strict=True))
    return torch.autograd.grad(loss, plan)


def likelihood(networks: Any, computing: Any, rows: Any) -> Any:
    """Of what a rollout drew, under other plans, and gradients of a function of it."""
    config = networks.config
    deter = torch.randn(rows, config.model.deter, generator=seeded(1)).tanh()
    start = Latent(deter, torch.randn(rows, config.model.stoch, generator=seeded(2)))
    shape = rows, config.plan_length, networks.plan_dim
    plan, other = (torch.randn(shape, generator=seeded(n)) for n in (3, 6))
    noise = networks.draw_noise(config.planner.horizon, rows, generator=seeded(4))
    with torch.no_grad():
        drawn = networks.imagine(start, plan, noise).feature[1:, :, config.model.deter :]
    drawn = drawn.to(computing.dtype).requires_grad_()
    scores = computing.log_likelihood(start, other, noise.action, drawn)
    learned = [drawn, *computing.policy.parameters()]
    loss = (scores * torch.randn(rows, generator=seeded(5))).sum()
    with torch.no_grad():
        again = computing.log_likelihood(start, other, noise.action, drawn)
    return [scores, again], torch.autograd.grad(loss, learned)


def scan(networks: Any, path: Any, length: Any = 12, rows: Any = 7) -> Any:
    """Everything that the filter gives, and gradients of some function of it."""
    rssm, width = networks.world_model.rssm, networks.world_model.encoder.outputs
    shape = rows, length
    embedding = torch.randn(*shape, width, generator=seeded(1)).requires_grad_()
    action = torch.rand(*shape, networks.action_dim, generator=seeded(2)) * 2 - 1
    is_first = torch.rand(shape, generator=seeded(3)) < 0.2
    noise = torch.randn(*shape, rssm.stoch, generator=seeded(4))
    last, states, posterior = path(rssm.initial(rows), action, embedding, is_first, noise)
    seen = [*last, *states, *posterior]
    loss = sum((x * torch.randn(x.shape, generator=seeded(5))).sum() for x in seen)
    learned = [x for name, x in rssm.named_parameters() if not name.startswith("prior")]
    return seen, torch.autograd.grad(loss, [embedding, *learned])


def pass_through(mlp: Any) -> Any:
    """What it makes of some numbers, and gradients of a function of it."""
    x = torch.randn(3, 45, mlp[0].in_features, generator=seeded(1)).requires_grad_()
    y = mlp(x)
    loss = (y * torch.randn(y.shape, generator=seeded(2))).sum()
    return [y, *torch.autograd.grad(loss, [x, *mlp.parameters()])]


MLPS = {
    "χ": ("frozen_copy", "skill_predictor.net"),
    "v": ("frozen_copy", "value.net"),
    "encoder": ("model", "encoder.mlp"),
    "decoder": ("model", "decoder.mlp"),
    "reward": ("model", "reward_head"),
    "prior": ("model", "rssm.prior_head"),
}


def predict_heads(networks: Any, judges: Any, rows: Any = 45) -> Any:
    """What the heads say of some states, and the gradient of a function of it."""
    shape = 3, rows, networks.world_model.features
    feature = torch.randn(shape, generator=seeded(1)).to(networks.dtype).requires_grad_()
    said = judges(feature)
    loss = sum((x * torch.randn(x.shape, generator=seeded(2))).sum() for x in said)
    return list(said), torch.autograd.grad(loss, [feature])


def plans_of_starts(networks: Any, candidates: Any, shared: Any) -> Any:
    """Seven starts, as many plans of each, and noise that those of a start share, if `shared`."""
    model, length = networks.config.model, networks.config.plan_length
    sizes = model.deter, model.stoch
    start = Latent(*(torch.randn(7, size, generator=seeded(n)) for n, size in enumerate(sizes)))
    plan = torch.randn(7 * candidates, length, networks.plan_dim, generator=seeded(3))
    horizon, rows = networks.config.planner.horizon, 7 if shared else len(plan)
    return start, plan, networks.draw_noise(horizon, rows, generator=seeded(4))


def two_updates(path: Any) -> Any:
    """Metrics of the second, and the weights after it."""
    learner = Learner(path.networks, 0, path)
    replay, rng = path.networks.config.replay, torch.Generator().manual_seed(0)
    shape = replay.batch, replay.length
    batch = {
        "obs/position": torch.randn(*shape, 5, generator=rng).numpy(),
        "action": (torch.rand(*shape, ACTIONS, generator=rng) * 2 - 1).numpy(),
        "reward": torch.rand(shape, generator=rng).numpy(),
        "is_first": (torch.rand(shape, generator=rng) < 0.1).numpy(),
        "is_terminal": torch.zeros(shape, dtype=torch.bool).numpy(),
    }
    learner.update(batch)
    return learner.update(batch), path.networks.state_dict()


def whole_update(make_path: Any, **parts: Any) -> Any:
    # Adam's first steps are the gradient's sign, which rounding can turn, but for a large ε.
    return two_updates(make_path(make_disturbed(optimizer={"epsilon": 1.0}, **parts)))
