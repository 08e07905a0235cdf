"""The kernels are the reference at odd sizes: sixty networks and batches, drawn at random."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from builders import seeded
from passes import (
    MLPS,
    distance,
    gradient_of_plan,
    likelihood,
    make_disturbed,
    pass_through,
    plans_of_starts,
    predict_heads,
    rollout,
    scan,
)
from test_native import bf16_products

from lsp.backends.backends import NativeBackend
from lsp.backends.hardware import compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")


class Drawn:
    """A size for everything that kernels have a size of, a multiple of nothing."""

    def __init__(self, number: int):
        rng = np.random.default_rng(number)

        def size(largest: int, least: int = 1) -> int:
            # Evenly on a logarithmic scale: small ones are where blocks and tiles end.
            return int(np.exp(rng.uniform(np.log(least), np.log(largest + 1))))

        def layers(least: int = 1) -> tuple[int, ...]:
            return tuple(size(150, 5) for _ in range(rng.integers(least, 4)))

        def maybe() -> bool:
            return bool(rng.integers(2))

        widths = {"deter": size(150, 5), "stoch": size(40), "hidden": size(150, 5)}
        mlps = {"encoder": layers(), "decoder": layers(), "reward": layers()}
        horizon = int(rng.integers(1, 13))
        self.parts: dict[str, Any] = {
            "model": widths | mlps | {"layer_norm": maybe(), "termination": maybe()},
            "policy": {"layers": layers(0), "layer_norm": maybe(), "stop_input_gradient": maybe()},
            "value": {"layers": layers(), "layer_norm": maybe()},
            "skills": {"dim": size(9), "layers": layers()},
            "planner": {"horizon": horizon, "skill_length": int(rng.integers(1, horizon + 1))},
        }
        self.action_dim, self.rows = size(20), size(400)
        self.length, self.candidates, self.shares_noise = size(20), size(40), maybe()

    def passes(self, networks: Any, copy: Any, model: Any, filter: Any) -> dict[str, Any]:
        """What every kernel is for, by the networks given or by a backend's parts for them."""
        states = rollout(networks, copy.imagine, list(copy.policy.parameters()), self.rows)
        likelihoods = likelihood(networks, copy, self.rows)
        heads = predict_heads(networks, copy.predict_heads, self.rows)
        filtered = scan(networks, filter, self.length, self.rows)
        plans = plans_of_starts(networks, self.candidates, self.shares_noise)
        with torch.no_grad():
            judged = copy.judge_plans(*plans)
        holders = {"frozen_copy": copy, "model": model}
        return {
            "states": states[0],
            "their gradient": states[1],
            "gradient of a plan": gradient_of_plan(networks, copy.imagine, self.rows),
            "likelihood": likelihoods[0],
            "its gradient": likelihoods[1],
            "heads": heads[0],
            "their gradients": heads[1],
            "filter": filtered[0],
            "filter's gradient": filtered[1],
            "judged plans": judged,
        } | {
            name: pass_through(holders[holder].get_submodule(part))
            for name, (holder, part) in MLPS.items()
        }

    def reference(self, networks: Any) -> dict[str, Any]:
        return self.passes(networks, networks, networks.world_model, networks.world_model.rssm.scan)


def rounded_otherwise(networks: Any, dtype: torch.dtype) -> Any:
    """The same networks, with weights that differ in their last bit."""
    other, generator = deepcopy(networks), seeded(1)
    with torch.no_grad():
        for weight in other.parameters():
            bits = 2 * torch.rand(weight.shape, generator=generator) - 1
            weight.mul_(1 + torch.finfo(dtype).eps * bits)
    return other


@pytest.mark.parametrize(
    ("dtype", "close"),
    [(torch.float32, 1e-5), pytest.param(torch.bfloat16, 0.03, marks=bf16_products)],
)
@pytest.mark.parametrize("number", range(60))
def test_kernels_of_random_sizes_are_the_reference(number: Any, dtype: Any, close: Any) -> None:
    """Up to `close`, or where rounding is magnified (LayerNorm of a few numbers that are nearly
    the same), up to a few times what one bit of the weights does to the reference."""
    drawn = Drawn(number)
    networks = make_disturbed(action_dim=drawn.action_dim, **drawn.parts)
    backend = NativeBackend(networks, dtype)
    expected = drawn.reference(networks)
    found = drawn.passes(networks, backend.frozen_copy, backend.model, backend.scan)
    moved = drawn.reference(rounded_otherwise(networks, dtype))
    for name, numbers in expected.items():
        off, by_rounding = (distance(x[name], numbers) for x in (found, moved))
        assert off < max(close, 8 * by_rounding), (name, drawn.parts)
