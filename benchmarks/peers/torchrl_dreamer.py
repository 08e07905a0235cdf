"""torchrl's Dreamer losses, at the sizes that `lsp bench --sizes` measures; compare.py runs it.

Usage: torchrl_dreamer.py SIZES PRECISION THREADS, where PRECISION is fp32 or bf16 (autocast).
Times one update for every line it reads, and prints the milliseconds.
"""

import sys
import time
import warnings
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict
from tensordict.nn import (
    InteractionType,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
)
from torch import nn
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs.model_based.dreamer import DreamerEnv
from torchrl.modules import (
    MLP,
    DreamerActor,
    RSSMPosterior,
    RSSMPrior,
    RSSMRollout,
    TanhNormal,
    WorldModelWrapper,
)
from torchrl.objectives import DreamerActorLoss, DreamerModelLoss, DreamerValueLoss

OBSERVATION, ACTION = 78, 12  # dm_control's quadruped


class Sizes(NamedTuple):
    batch: int
    length: int
    horizon: int
    deter: int
    stoch: int
    coder: tuple[int, int]
    """Units and layers of encoder and decoder."""
    units: int
    policy: int
    value: int


SIZES = {
    "paper": Sizes(50, 50, 15, 200, 30, (256, 2), 400, policy=4, value=3),
    "small": Sizes(16, 32, 10, 128, 24, (128, 2), 128, policy=2, value=2),
}


def mlp(inputs: int, outputs: int, units: int, depth: int) -> MLP:
    return MLP(inputs, outputs, depth=depth, num_cells=units, activation_class=nn.ELU)


def next_keys(*names: str) -> list[Any]:
    return [("next", name) for name in names]


class Dreamer:
    """World model, policy and value with their losses and optimisers (Dreamer v1's rates)."""

    def __init__(self, sizes: Sizes) -> None:
        features, action = sizes.deter + sizes.stoch, Bounded(-1, 1, (ACTION,))
        units, layers = sizes.coder
        prior = RSSMPrior(action, sizes.deter, sizes.deter, sizes.stoch, action_dim=ACTION)
        posterior = RSSMPosterior(
            sizes.deter, sizes.stoch, rnn_hidden_dim=sizes.deter, obs_embed_dim=units
        )
        # As in the other two, the encoder's second layer is its output.
        encoder = nn.Sequential(mlp(OBSERVATION, units, units, layers - 1), nn.ELU())
        reward = mlp(features, 1, sizes.units, 2)
        latent = next_keys("state", "belief")
        rollout = RSSMRollout(
            TensorDictModule(
                prior,
                ["state", "belief", "action"],
                [*next_keys("prior_mean", "prior_std"), "_", ("next", "belief")],
            ),
            TensorDictModule(
                posterior,
                next_keys("belief", "embedding"),
                next_keys("posterior_mean", "posterior_std", "state"),
            ),
        )
        world_model = WorldModelWrapper(
            TensorDictSequential(
                TensorDictModule(encoder, next_keys("vector"), next_keys("embedding")),
                rollout,
                TensorDictModule(
                    mlp(features, OBSERVATION, units, layers), latent, next_keys("predicted")
                ),
            ),
            TensorDictModule(reward, latent, next_keys("reward")),
        )
        dream = WorldModelWrapper(
            TensorDictModule(prior, ["state", "belief", "action"], ["_", "_", "state", "belief"]),
            TensorDictModule(reward, ["state", "belief"], ["reward"]),
        )
        env = DreamerEnv(dream, (sizes.stoch,), (sizes.deter,))
        env.action_spec, env.reward_spec = action, Unbounded((1,))
        env.observation_spec = Composite(
            state=Unbounded((sizes.stoch,)), belief=Unbounded((sizes.deter,))
        )
        env.state_spec = env.observation_spec.clone()
        policy = ProbabilisticTensorDictSequential(
            TensorDictModule(
                DreamerActor(ACTION, depth=sizes.policy, num_cells=sizes.units),
                ["state", "belief"],
                ["loc", "scale"],
            ),
            ProbabilisticTensorDictModule(
                ["loc", "scale"],
                ["action"],
                default_interaction_type=InteractionType.RANDOM,
                distribution_class=TanhNormal,
                distribution_kwargs={"tanh_loc": True},
            ),
        )
        value = TensorDictModule(
            mlp(features, 1, sizes.units, sizes.value), ["state", "belief"], ["state_value"]
        )
        policy(TensorDict(state=torch.zeros(1, sizes.stoch), belief=torch.zeros(1, sizes.deter)))
        self.model_loss = DreamerModelLoss(world_model, global_average=True)
        self.model_loss.set_keys(pixels="vector", reco_pixels="predicted")
        self.policy_loss = DreamerActorLoss(policy, value, env, imagination_horizon=sizes.horizon)
        self.policy_loss.make_value_estimator(gamma=0.99, lmbda=0.95)
        self.value_loss = DreamerValueLoss(value)
        parts = (world_model, 6e-4), (policy, 8e-5), (value, 8e-5)
        self.parts = [
            (list(module.parameters()), torch.optim.Adam(module.parameters(), rate, fused=True))
            for module, rate in parts
        ]

    def update(self, data: TensorDict, bf16: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            losses, states = self.model_loss(data)
        self._descend(0, sum(losses.values()))
        latents = states.get("next").select("state", "belief").flatten(0, 1).detach()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            losses, dreams = self.policy_loss(latents)
        self._descend(1, losses["loss_actor"])
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            losses, _ = self.value_loss(dreams)
        self._descend(2, losses["loss_value"])

    def _descend(self, part: int, loss: torch.Tensor) -> None:
        parameters, optimizer = self.parts[part]
        optimizer.zero_grad()
        loss.backward(inputs=parameters)
        nn.utils.clip_grad_norm_(parameters, 100.0)
        optimizer.step()


def make_batch(sizes: Sizes) -> TensorDict:
    """Random sequences `[batch, time, ...]`."""
    shape = (sizes.batch, sizes.length)
    following = TensorDict(
        vector=torch.randn(*shape, OBSERVATION), reward=torch.rand(*shape, 1), batch_size=shape
    )
    return TensorDict(
        state=torch.zeros(*shape, sizes.stoch),
        belief=torch.zeros(*shape, sizes.deter),
        action=torch.rand(*shape, ACTION) * 2 - 1,
        next=following,
        batch_size=shape,
    )


def main(sizes: str, precision: str, threads: int) -> None:
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    dreamer, batch = Dreamer(SIZES[sizes]), make_batch(SIZES[sizes])
    for _ in sys.stdin:
        data = batch.clone()
        began = time.perf_counter()
        dreamer.update(data, precision == "bf16")
        print(1000 * (time.perf_counter() - began), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
