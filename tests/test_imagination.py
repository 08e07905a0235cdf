"""Rolling plans out, on a world that can be followed by hand."""

from typing import Any

import pytest
import torch

from lsp.models.imagination import RolloutNoise, imagine
from lsp.models.skills import intrinsic_reward, segments
from lsp.models.world_model import Latent


def walk(latent: Any, skill: Any, noise: Any) -> Any:
    """The action is the skill plus noise; the state adds up actions and remembers its noise."""
    action = skill + noise.action
    return Latent(latent.deter + action, noise.latent), action


def follow(
    plan: Any, horizon: Any, skill_length: Any, start: Any = ((0.0,),), action_noise: Any = None
) -> Any:
    start = torch.tensor(start)
    rows = start.shape[0]
    latent_noise = torch.arange(1.0, horizon + 1)[:, None, None].expand(horizon, rows, 1)
    if action_noise is None:
        action_noise = torch.zeros(horizon, rows, 1)
    noise = RolloutNoise(action_noise, latent_noise)
    return imagine(Latent(start, torch.zeros(rows, 1)), plan, skill_length, walk, noise)


def test_each_skill_is_held_for_k_steps_and_the_last_for_what_is_left() -> None:
    plan = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])
    rollout = follow(plan, horizon=5, skill_length=2)
    assert rollout.action[:, 0, 0].tolist() == [1, 1, 2, 2, 3]


def test_a_plan_is_followed_step_by_step() -> None:
    rollout = follow(torch.tensor([[[1.0], [-2.0]]]), horizon=4, skill_length=2)
    assert rollout.action[:, 0, 0].tolist() == [1, 1, -2, -2]
    # s_0..s_4: five states, the start among them; the second half is what the noise was.
    assert rollout.feature[:, 0].tolist() == [[0, 0], [1, 1], [2, 2], [0, 3], [-2, 4]]


def test_every_row_follows_its_own_plan_from_its_own_start() -> None:
    plan = torch.tensor([[[1.0]], [[-1.0]]])
    rollout = follow(plan, horizon=3, skill_length=3, start=((0.0,), (10.0,)))
    assert rollout.feature[-1, :, 0].tolist() == [3, 7]


def test_each_step_gets_the_noise_of_its_own_time() -> None:
    noise = torch.tensor([0.5, 0.0, -0.5])[:, None, None]
    rollout = follow(torch.ones(1, 1, 1), horizon=3, skill_length=3, action_noise=noise)
    assert rollout.action[:, 0, 0].tolist() == [1.5, 1.0, 0.5]


def test_segments_start_with_the_last_state_of_the_one_before() -> None:
    times = torch.arange(21.0)[:, None, None]
    first, second = segments(times, skill_length=10)
    assert first[:, 0, 0].tolist() == list(range(11))
    assert second[:, 0, 0].tolist() == list(range(10, 21))


@pytest.mark.parametrize(("horizon", "complete"), [(5, 0), (10, 1), (19, 1), (25, 2), (30, 3)])
def test_an_incomplete_last_segment_is_left_out(horizon: Any, complete: Any) -> None:
    assert len(segments(torch.zeros(horizon + 1, 2, 3), skill_length=10)) == complete


def test_only_the_last_state_of_a_complete_segment_earns_intrinsic_reward() -> None:
    log_q = [torch.tensor([-1.0, -2.0]), torch.tensor([0.5, 0.0])]
    reward = intrinsic_reward(log_q, horizon=25, skill_length=10, skill_dim=3)
    entropy = 4.256816  # 3/2 ln(2πe): a density of one standard deviation in three dimensions
    by_hand = torch.zeros(25, 2)
    by_hand[9] = torch.tensor([-1.0, -2.0]) + entropy  # on arriving at s_10
    by_hand[19] = torch.tensor([0.5, 0.0]) + entropy  # on arriving at s_20
    torch.testing.assert_close(reward, by_hand)
