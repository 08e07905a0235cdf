"""λ-returns of imagined rollouts."""

import torch
from jaxtyping import Float
from torch import Tensor


def lambda_return(
    reward: Float[Tensor, "time *batch"],
    value: Float[Tensor, "time *batch"],
    discount: Float[Tensor, "time *batch"],
    lambda_: float,
) -> Float[Tensor, "time *batch"]:
    """Exponentially weighted average of n-step returns.

    G_t = r(s_{t+1}) + γ_{t+1} [(1 - λ) v(s_{t+1}) + λ G_{t+1}],  G_H = v(s_H)

    Index t of every argument belongs to s_{t+1}, so v excludes the reward of its own state and the
    last reward counts. Dreamer v1's return (its eq. 6) drops that reward, which with H = K would
    be the only one that carries the intrinsic reward; see docs/paper/deviations.md.
    """
    stopping = reward + (1 - lambda_) * discount * value  # what counts if the average ends here
    going_on = lambda_ * discount
    following, returns = value[-1], []
    for now, weight in zip(reversed(stopping.unbind(0)), reversed(going_on.unbind(0))):
        following = torch.addcmul(now, weight, following)
        returns.append(following)
    return torch.stack(returns[::-1])


def discounted_sum(
    reward: Float[Tensor, "time *batch"], discount: Float[Tensor, "time *batch"]
) -> Float[Tensor, "time *batch"]:
    """Rewards to the end of a rollout, where nothing stands for what comes after it.

    G_t = r(s_{t+1}) + γ_{t+1} G_{t+1},  G_H = 0
    """
    return lambda_return(reward, torch.zeros_like(reward), discount, lambda_=1.0)
