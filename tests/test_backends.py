"""A faster backend computes what the reference does, and keeps up with its weights."""

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import linear, make_latent, make_networks, seeded

import lsp.backends.backends
from lsp.algorithm.learner import Learner
from lsp.algorithm.skill_planning import score_plans
from lsp.backends.backends import CompiledBackend, EagerBackend, acting_backend, learning_backend
from lsp.backends.cuda_graphs import Recording
from lsp.backends.hardware import compiler
from lsp.config import RuntimeConfig
from lsp.errors import RunWarning
from lsp.models.networks import Networks


def make_steps(networks: Any, rows: Any = 6, count: Any = 3) -> Any:
    """A latent, a plan of one skill and the noise of so many steps."""
    plan = torch.randn(rows, 1, networks.config.skills.dim, generator=seeded(3))
    return make_latent(networks, rows), plan, networks.draw_noise(count, rows, generator=seeded(4))


def make_sequences(networks: Any, length: Any) -> Any:
    """Embeddings, actions, episode starts and noise `[3, length, ...]`."""
    rssm, generator = networks.world_model.rssm, seeded(1)
    sizes = (networks.world_model.encoder.outputs, 2, rssm.stoch)
    embedding, action, noise = (torch.randn(3, length, size, generator=generator) for size in sizes)
    return embedding, action, torch.rand(3, length, generator=generator) < 0.2, noise


def observe(networks: Any, sequences: Any, scan: Any) -> Any:
    """Everything that observing gives, in one tensor, and the gradient of its sum."""
    rssm = networks.world_model.rssm
    state, posterior, prior = rssm.observe(*sequences, scan)
    everything = torch.cat([*state, *posterior, *prior], -1)
    return everything, torch.autograd.grad(everything.sum(), list(rssm.parameters()))


def same_weights(copy: Any, networks: Any) -> Any:
    pairs = zip(copy.parameters(), networks.parameters(), strict=True)
    return all(torch.equal(mine, theirs.to(mine.dtype)) for mine, theirs in pairs)


def difference(one: Any, other: Any) -> Any:
    return max((x.float() - y.float()).abs().max().item() for x, y in zip(one, other, strict=True))


@pytest.mark.parametrize("method", ["lsp", "dreamer"])
def test_in_full_precision_the_twin_is_the_reference(method: Any) -> None:
    networks = make_networks(method, model={"termination": True})
    copy = EagerBackend(networks).frozen_copy
    steps = make_steps(networks)
    expected, same = (x.imagine(*steps) for x in (networks, copy))
    assert torch.equal(same.feature, expected.feature)
    assert torch.equal(same.action, expected.action)
    heads, same_heads = (x.predict_heads(expected.feature) for x in (networks, copy))
    assert all(torch.equal(x, y) for x, y in zip(heads, same_heads, strict=True))


@pytest.mark.parametrize("stopped", [True, False])
def test_imagining_in_pieces_has_the_gradient_of_imagining_at_once(stopped: Any) -> None:
    networks = make_networks(policy={"stop_input_gradient": stopped})
    copy = CompiledBackend(networks, wrap=lambda function: function).frozen_copy
    gradients = [
        torch.autograd.grad(x.imagine(*make_steps(x)).feature.sum(), list(x.policy.parameters()))
        for x in (networks, copy)
    ]
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(*gradients, strict=True))


def test_a_likelihood_in_pieces_is_the_likelihood_at_once() -> None:
    networks = make_networks()
    copy = CompiledBackend(networks, wrap=lambda function: function).frozen_copy
    latent, plan, noise = make_steps(networks)
    drawn = torch.randn(noise.latent.shape, generator=seeded(5))
    found = []
    for each in (networks, copy):
        stoch = drawn.clone().requires_grad_()
        scores = each.log_likelihood(latent, plan, noise.action, stoch)
        learned = [stoch, *each.policy.parameters()]
        found.append([scores, *torch.autograd.grad(scores.sum(), learned)])
    assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip(*found, strict=True))


@pytest.mark.parametrize("length", [1, 4, 10])
def test_scanning_in_pieces_is_scanning_at_once(length: Any) -> None:
    networks = make_networks()
    backend = CompiledBackend(networks, wrap=lambda function: function)
    sequences = make_sequences(networks, length)
    states, gradients = zip(*(observe(networks, sequences, scan) for scan in (None, backend.scan)))
    assert torch.equal(*states)
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("chosen", "has_compiler", "path", "recorded"),
    [
        ({}, True, CompiledBackend, True),
        ({"cuda_graphs": False}, True, CompiledBackend, False),
        ({"compile": False}, True, EagerBackend, True),
        ({"compile": False, "cuda_graphs": False}, True, EagerBackend, False),
        ({}, False, EagerBackend, True),
    ],
)
def test_a_gpu_compiles_and_records(
    monkeypatch: Any, chosen: Any, has_compiler: Any, path: Any, recorded: Any
) -> None:
    networks, runtime = make_networks(), RuntimeConfig(device="cuda", **chosen)
    monkeypatch.setattr(Networks, "device", torch.device("cuda"))  # all that the choice looks at
    monkeypatch.setattr(lsp.backends.backends, "compiler", lambda: "g++" if has_compiler else None)
    lsp.backends.backends._say_once.cache_clear()
    with nullcontext() if has_compiler else pytest.warns(RunWarning, match="nothing is compiled"):
        backend = learning_backend(networks, runtime)
    assert type(backend) is path
    assert backend.frozen_copy.dtype == torch.bfloat16
    acting = acting_backend(networks, runtime)
    assert type(acting) is EagerBackend
    assert acting.frozen_copy.dtype == torch.float32
    for each in (backend, acting):
        assert (each.record is Recording) == recorded


def test_the_bf16_twin_is_close_to_the_reference() -> None:
    networks = make_networks(model={"termination": True})
    copy = EagerBackend(networks, torch.bfloat16).frozen_copy
    steps = make_steps(networks, rows=200, count=1)
    expected, rough = networks.imagine(*steps), copy.imagine(*steps)
    assert rough.feature.dtype == torch.bfloat16
    # bf16 has 8 bits: values of size 1 are 0.4 % off, and a few layers add up.
    assert 0 < difference([expected.feature], [rough.feature]) < 0.06
    assert 0 < difference([expected.action], [rough.action]) < 0.03
    heads, rough_heads = (
        networks.predict_heads(expected.feature),
        copy.predict_heads(expected.feature),
    )
    assert rough_heads.value.dtype == torch.float32
    assert 0 < difference(heads, rough_heads) < 0.06


def test_plans_are_ranked_in_bf16_as_in_full_precision() -> None:
    networks = make_networks()
    copy = EagerBackend(networks, torch.bfloat16).frozen_copy
    latent = make_steps(networks)[0]
    candidates = torch.randn(64, 6, 1, 3, generator=seeded(5))
    noise = networks.draw_noise(10, 1, 6, generator=seeded(6))
    with torch.no_grad():
        exact, rough = (
            score_plans(x, latent, candidates, noise, seeded(7)) for x in (networks, copy)
        )
    for start in range(6):
        assert torch.corrcoef(torch.stack([exact[:, start], rough[:, start]]))[0, 1] > 0.95


def test_a_large_value_keeps_its_precision_in_bf16() -> None:
    networks = make_networks()
    with torch.no_grad():
        linear(networks.slow_value.net).bias.fill_(100.0)
    copy = EagerBackend(networks, torch.bfloat16).frozen_copy
    feature = make_steps(networks, rows=200)[0].feature
    # Around 100, bf16 itself knows only multiples of one half.
    exact, rough = networks.predict_heads(feature).value, copy.predict_heads(feature).value
    assert difference([exact], [exact.bfloat16()]) > 0.1
    assert 0 < difference([exact], [rough]) < 0.06


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_twin_follows_the_weights(dtype: Any) -> None:
    networks = make_networks()
    backend = EagerBackend(networks, dtype)
    shared = dtype == torch.float32
    with torch.no_grad():
        for weight in networks.parameters():
            weight.add_(0.1)
    networks.track_return_size(torch.linspace(-90, 90, 100)[None], torch.ones(100))
    assert torch.equal(backend.frozen_copy.return_size, networks.return_size)
    assert same_weights(backend.frozen_copy, networks) == shared
    backend.refresh()
    assert same_weights(backend.frozen_copy, networks)
    networks.load_state_dict({k: x.clone() + 1 for k, x in networks.state_dict().items()})
    assert same_weights(backend.frozen_copy, networks) == shared


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_the_twin_teach_the_networks(dtype: Any) -> None:
    """The losses of behaviour never reach the world model, in either precision."""
    networks = make_networks()
    backend = EagerBackend(networks, dtype)
    assert not any(weight.requires_grad for weight in backend.frozen_copy.world_model.parameters())
    assert all(weight.requires_grad for weight in networks.world_model.parameters())
    learner = Learner(networks, 0, backend)
    before = {name: x.clone() for name, x in networks.state_dict().items()}
    steps = make_steps(networks)
    learner.descend("policy", -backend.frozen_copy.imagine(*steps).feature.float().square().mean())
    changed = {k for k, x in networks.state_dict().items() if not torch.equal(x, before[k])}
    assert changed == {name for name in before if name.startswith("policy.")}
    exact = networks.imagine(*steps).feature.square().mean()
    wanted = torch.autograd.grad(-exact, list(networks.policy.parameters()))
    backend.refresh()
    rough = backend.frozen_copy.imagine(*steps).feature.float().square().mean()
    computed = torch.autograd.grad(-rough, list(backend.frozen_copy.policy.parameters()))
    one, other = (torch.cat([x.float().flatten() for x in g]) for g in (wanted, computed))
    assert torch.cosine_similarity(one, other, dim=0) > 0.99


TRACED = """
import sys

import torch

sys.path.insert(0, sys.argv[1])
import test_backends as t

from lsp.algorithm.skill_planning import score_plans
from lsp.models.imagination import RolloutNoise
from lsp.algorithm.cem import candidate_noise, plan, standard_plan

# Each step is traced for itself: three say as much as ten.
short = {"horizon": 3, "skill_length": 3}
networks = t.make_networks(model={"termination": True}, planner=short)
latent, skills, noise = t.make_steps(networks)
planner = networks.config.planner
prior = standard_plan(6, 1, 3, networks.device)
draws = candidate_noise(prior, planner.num_iterations, planner.num_candidates, t.seeded(5))
shape = (planner.num_iterations, planner.horizon, 1, 6)
rollouts = networks.draw_noise(*shape, generator=t.seeded(6))

def search(latent, draws, rollouts):
    def evaluate(candidates, iteration):
        now = RolloutNoise(*(x[iteration] for x in rollouts))
        return score_plans(networks, latent, candidates, now, None)

    return plan(evaluate, prior, planner.num_elites, draws)

calls = (search, (latent, draws, rollouts)), (networks.imagine, (latent, skills, noise))
for work, given in calls:
    traced = torch.compile(work, backend="eager", fullgraph=True, dynamic=False)
    for one, other in zip(traced(*given)[0], work(*given)[0], strict=True):
        torch.testing.assert_close(one, other)
print("traced")
"""


@pytest.mark.long
def test_planner_and_imagination_are_each_one_graph() -> None:
    """No Python decision in them depends on data."""
    command = [sys.executable, "-c", TRACED, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("traced")


COMPILED = """
import sys

import torch

sys.path.insert(0, sys.argv[1])
import test_backends as t

from lsp.backends.backends import CompiledBackend

networks = t.make_networks()
backend = CompiledBackend(networks)
copy, steps = backend.frozen_copy, t.make_steps(networks)
close = {"atol": 1e-4, "rtol": 1e-3}
expected, same = networks.imagine(*steps), copy.imagine(*steps)
torch.testing.assert_close(same.feature, expected.feature, **close)
torch.testing.assert_close(same.action, expected.action, **close)
with torch.no_grad():
    torch.testing.assert_close(copy.imagine(*steps).feature, expected.feature, **close)
    outputs = (x.predict_heads(expected.feature) for x in (copy, networks))
    for one, other in zip(*outputs):
        torch.testing.assert_close(one, other, **close)
gradients = [
    torch.autograd.grad(x.imagine(*steps).feature.sum(), list(x.policy.parameters()))
    for x in (networks, copy)
]
for one, other in zip(*gradients):
    torch.testing.assert_close(one, other, **close)
sequences = t.make_sequences(networks, 10)
seen, slopes = zip(*(t.observe(networks, sequences, scan) for scan in (None, backend.scan)))
torch.testing.assert_close(*seen, **close)
for one, other in zip(*slopes):
    torch.testing.assert_close(one, other, **close)
print("same")
"""


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
def test_the_compiled_path_is_the_reference_up_to_rounding() -> None:
    # In a process of its own, because shape checking cannot be compiled.
    command = [sys.executable, "-c", COMPILED, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("same")
