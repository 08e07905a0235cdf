"""The formula against what PyTorch counts while an update runs."""

from typing import Any

import pytest
import torch
from builders import make_batch, make_networks
from torch.utils.flop_counter import FlopCounterMode

from lsp.algorithm.behavior import draw_starts
from lsp.algorithm.learner import Learner
from lsp.benchmark.flops import multiplications, update_flops
from lsp.benchmark.traffic import kept, update_traffic
from lsp.config import make_config
from lsp.models.layers import MLP, ConvDecoder, ConvEncoder
from lsp.models.networks import Networks

VECTORS, IMAGE = {"position": (5,), "velocity": (7,)}, {"image": (64, 64, 3)}


def make_wide(method: Any = "lsp", shapes: Any = VECTORS, **parts: Any) -> Any:
    """Networks wide enough that an action or a skill more or less is a small matter."""
    wide = {"deter": 48, "hidden": 48, "encoder": (48, 48), "decoder": (48, 48), "cnn_depth": 4}
    return make_networks(method, shapes, **(parts | {"model": wide | parts.get("model", {})}))


def counted(work: Any) -> Any:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("shapes", "model"),
    [(VECTORS, {}), (IMAGE, {}), (IMAGE, {"decoded_images": 8})],
    ids=["proprio", "pixels", "some pixels decoded"],
)
@pytest.mark.parametrize("method", ["lsp", "dreamer"])
def test_an_update_runs_about_the_operations_it_needs(method: Any, shapes: Any, model: Any) -> None:
    check_update(make_wide(method, shapes, model=model), shapes)


@pytest.mark.parametrize(
    ("parts", "sign"),
    [
        ({"policy": {"stop_input_gradient": True}}, -1),
        ({"policy": {"entropy": 0.1}}, 1),
        ({"skills": {"estimator": "forward"}}, 1),
    ],
)
def test_what_settings_add_to_an_update_or_save(parts: Any, sign: Any) -> None:
    networks = make_wide(**parts)
    check_update(networks, VECTORS)
    assert sign * (update_flops(networks).behavior - update_flops(make_wide()).behavior) > 0


def check_update(networks: Any, shapes: Any) -> None:
    """The formula against what is counted, part by part."""
    learner, batch = Learner(networks, 0), make_batch(networks.config, shapes)
    needed = update_flops(networks)
    data = {key: torch.as_tensor(x) for key, x in batch.items()}

    def learn_model() -> None:
        loss, _, _ = networks.world_model.loss(data, learner.generator, learner.backend.scan)
        learner.descend("model", loss)

    model = counted(learn_model)
    assert needed.world_model == pytest.approx(model, rel=0.05)
    with torch.no_grad():
        _, latents, _ = networks.world_model.loss(data, learner.generator)
    count = networks.config.behavior.num_starts
    starts = draw_starts(latents, data["is_terminal"], count, learner.generator).latent
    planning = counted(lambda: learner.plan(starts))
    assert needed.planner == planning
    everything = counted(lambda: learner.update(batch))
    assert needed.behavior == pytest.approx(everything - model - planning, rel=0.1)


def test_climbing_plans_go_forth_and_back() -> None:
    networks = make_wide(planner={"refit": "gradient"})
    learner, starts = Learner(networks, 0), networks.world_model.rssm.initial(4)
    planning = counted(lambda: learner.plan(starts))
    assert update_flops(networks).planner == pytest.approx(planning, rel=0.1)


def test_a_proposal_is_asked_once_for_every_start() -> None:
    networks = make_wide(skills={"proposal": "learned"})
    learner = Learner(networks, 0)
    starts = networks.world_model.rssm.initial(networks.config.behavior.num_starts or 0)
    assert update_flops(networks).planner == counted(lambda: learner.plan(starts))


def test_multiplications_by_hand() -> None:
    assert multiplications(MLP(3, [4, 5], 2)) == 3 * 4 + 4 * 5 + 5 * 2
    # 64 → 31 → 14 → 6 → 2 pixels a side, kernels of 4×4.
    encoder = 31**2 * 3 * 8 + 14**2 * 8 * 16 + 6**2 * 16 * 32 + 2**2 * 32 * 64
    assert multiplications(ConvEncoder(3, 8)) == 16 * encoder
    # 1 → 5 → 13 → 30 → 64, kernels of 5, 5, 6 and 6.
    decoder = 25 * 256 * 32 + 25 * 25 * 32 * 16 + 36 * 169 * 16 * 8 + 36 * 900 * 8 * 3
    assert multiplications(ConvDecoder(10, 3, 8)) == 10 * 256 + decoder


def test_paper_sizes_are_what_the_paper_says_of_dreamer() -> None:
    """The peers' workload: quadruped, 50×50, imagining 15 from 2500; 376 GFLOP by hand."""
    networks = Networks({"everything": (78,)}, 12, make_config("dreamer", "paper"))
    assert update_flops(networks).total / 1e9 == pytest.approx(376, rel=0.05)


@pytest.mark.parametrize(
    ("change", "factor"),
    [
        ({"planner": {"num_candidates": 8}}, 2),
        ({"planner": {"num_iterations": 4}}, 2),
        ({"planner": {"horizon": 20}}, 2),
        ({"behavior": {"num_starts": 8}}, 2),
    ],
)
def test_the_planner_costs_in_proportion_to_all_it_multiplies(change: Any, factor: Any) -> None:
    changed, plain = update_flops(make_wide(**change)), update_flops(make_wide())
    assert changed.planner == factor * plain.planner
    assert changed.world_model == plain.world_model


def test_what_is_kept_and_learned_is_what_moves() -> None:
    """By hand: outputs of layers, four gates' worth of a GRU, and eight numbers a parameter."""
    assert kept([MLP(3, (4, 5), 2)]) == 4 + 5 + 2
    assert kept([torch.nn.GRUCell(3, 7)]) == 28
    sides = (31, 14, 6, 2)
    assert kept([ConvEncoder(3, 8)]) == sum(8 * 2**i * side**2 for i, side in enumerate(sides))
    networks = make_wide()
    one, two = (update_traffic(networks, dtype) for dtype in (torch.bfloat16, torch.float32))
    parameters = sum(x.numel() for x in networks.world_model.parameters())
    assert 2 * one.world_model - two.world_model == 32 * parameters
    assert two.behavior > one.behavior > 0
    assert update_traffic(make_wide("dreamer"), torch.float32).planner == 0
