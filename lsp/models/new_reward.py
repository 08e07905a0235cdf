"""Rewards that the world model was not trained for, read on what it imagines."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lsp.envs.rewards import OwnReward
from lsp.models.imagination import Rollout
from lsp.models.layers import MLP
from lsp.models.networks import Networks


class DecodedReward:
    """A user's function of observations and actions, on the observations that the model decodes.

    It is called in numpy, so no gradient passes, and a GPU waits for it.
    """

    def __init__(self, reward: OwnReward, action_repeat: int):
        self.reward, self.action_repeat = reward, action_repeat

    @torch.no_grad()
    def __call__(self, networks: Networks, rollout: Rollout) -> Float[Tensor, "horizon batch"]:
        """Of each agent step: the reward of its last observation for each env step of it."""
        states, model = rollout.feature[1:], networks.world_model
        decoded = model.preprocess.restore(model.decoder(states.flatten(0, 1)))
        rows = {key: x.cpu().numpy() for key, x in decoded.items()}
        paid = self.reward(rows, rollout.action.flatten(0, 1).cpu().numpy())
        paid *= self.action_repeat
        return torch.as_tensor(paid, dtype=torch.float32, device=states.device).view(
            states.shape[:2]
        )


class FittedReward(nn.Module):
    """A regression of an agent step's reward on the state that it leads to."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: int, hidden: tuple[int, ...] = (128, 128)):
        super().__init__()
        self.net = MLP(features, hidden, 1)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    def predict(self, feature: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch"]:
        """Rewards of states."""
        return self.net(feature).squeeze(-1) * self.std + self.mean

    def forward(self, networks: Networks, rollout: Rollout) -> Float[Tensor, "horizon batch"]:
        """Of each agent step."""
        return self.predict(rollout.feature[1:])
