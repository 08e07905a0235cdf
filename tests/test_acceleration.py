"""The fast path computes what the reference does, and keeps up with its weights."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lsp.acceleration import FastPath, compiler_found, frozen_view
from lsp.behavior import score_plans
from lsp.config import make_config
from lsp.networks import Networks
from lsp.world_model import Latent


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_networks(method="lsp", termination=False):
    config = make_config(method, "debug")
    torch.manual_seed(0)
    model = replace(config.model, termination=termination)
    return Networks({"position": (5,)}, 2, replace(config, model=model))


def make_step(networks, rows=6):
    """A latent, a skill and the noise of one step."""
    config = networks.config
    deter = torch.randn(rows, config.model.deter, generator=seeded(1)).tanh()
    latent = Latent(deter, torch.randn(rows, config.model.stoch, generator=seeded(2)))
    skill = torch.randn(rows, config.skills.dim, generator=seeded(3))
    noise = networks.draw_noise(1, rows, generator=seeded(4))
    return latent, skill, type(noise)(noise.action[0], noise.latent[0])


def make_sequences(networks, length):
    """Embeddings, actions, episode starts and noise `[3, length, ...]`."""
    rssm, generator = networks.world_model.rssm, seeded(1)
    sizes = (networks.world_model.encoder.outputs, 2, rssm.stoch)
    embedding, action, noise = (torch.randn(3, length, size, generator=generator) for size in sizes)
    return embedding, action, torch.rand(3, length, generator=generator) < 0.2, noise


def observe(networks, sequences, scan):
    """Everything that observing gives, in one tensor, and the gradient of its sum."""
    rssm = networks.world_model.rssm
    state, posterior, prior = rssm.observe(*sequences, scan)
    everything = torch.cat([*state, *posterior, *prior], -1)
    return everything, torch.autograd.grad(everything.sum(), list(rssm.parameters()))


def difference(one, other):
    return max((x.float() - y.float()).abs().max().item() for x, y in zip(one, other, strict=True))


@pytest.mark.parametrize("method", ["lsp", "dreamer"])
def test_in_full_precision_the_fast_path_is_the_reference(method):
    networks = make_networks(method, termination=True)
    fast = FastPath(networks, compiled=False, dtype=torch.float32)
    step = make_step(networks)
    expected, action = networks.transition(*step)
    for path in (fast.plan, fast.imagine):
        latent, same_action = path(*step)
        assert torch.equal(latent.feature, expected.feature)
        assert torch.equal(same_action, action)
    judgement, same = networks.heads(expected.feature), fast.judge(expected.feature)
    assert all(torch.equal(x, y) for x, y in zip(judgement, same, strict=True))


@pytest.mark.parametrize("length", [1, 4, 10])
def test_scanning_in_pieces_is_scanning_at_once(length):
    networks = make_networks()
    fast = FastPath(networks, compiled=False, dtype=torch.float32)
    sequences = make_sequences(networks, length)
    states, gradients = zip(*(observe(networks, sequences, scan) for scan in (None, fast.scan)))
    assert torch.equal(*states)
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(*gradients, strict=True))


def test_the_bf16_copy_is_close_to_the_reference():
    networks = make_networks(termination=True)
    fast = FastPath(networks, compiled=False, dtype=torch.bfloat16)
    step = make_step(networks, rows=200)
    (expected, action), (latent, rough_action) = networks.transition(*step), fast.plan(*step)
    assert latent.deter.dtype == torch.bfloat16
    # bf16 has 8 bits: values of size 1 are 0.4 % off, and a few layers add up.
    assert 0 < difference(expected, latent) < 0.06
    assert 0 < difference([action], [rough_action]) < 0.03
    judgement, rough = networks.heads(expected.feature), fast.judge(expected.feature)
    assert rough.value.dtype == torch.float32
    assert 0 < difference(judgement, rough) < 0.06


def test_plans_are_ranked_in_bf16_as_in_full_precision():
    networks = make_networks()
    fast = FastPath(networks, compiled=False, dtype=torch.bfloat16)
    latent = make_step(networks)[0]
    candidates = torch.randn(64, 6, 1, 3, generator=seeded(5))
    noise = networks.draw_noise(10, 1, 6, generator=seeded(6))
    with torch.no_grad():
        exact = score_plans(networks, latent, candidates, noise, seeded(7))
        rough = score_plans(networks, latent, candidates, noise, seeded(7), fast)
    for start in range(6):
        assert torch.corrcoef(torch.stack([exact[:, start], rough[:, start]]))[0, 1] > 0.95


def test_a_large_value_keeps_its_precision_in_bf16():
    networks = make_networks()
    with torch.no_grad():
        networks.slow_value.net[-1].bias.fill_(100.0)
    fast = FastPath(networks, compiled=False, dtype=torch.bfloat16)
    feature = make_step(networks, rows=200)[0].feature
    # Around 100, bf16 itself knows only multiples of one half.
    exact, rough = networks.heads(feature).value, fast.judge(feature).value
    assert difference([exact], [exact.bfloat16()]) > 0.1
    assert 0 < difference([exact], [rough]) < 0.06


def test_the_copy_follows_the_weights_when_refreshed_and_the_live_paths_at_once():
    networks = make_networks()
    fast = FastPath(networks, compiled=False, dtype=torch.float32)
    step = make_step(networks)
    old = fast.plan(*step)[0].feature
    with torch.no_grad():
        for weight in networks.parameters():
            weight.add_(0.1)
    new = networks.transition(*step)[0].feature
    assert not torch.equal(old, new)
    assert torch.equal(fast.imagine(*step)[0].feature, new)
    assert torch.equal(fast.plan(*step)[0].feature, old)
    fast.refresh()
    assert torch.equal(fast.plan(*step)[0].feature, new)
    assert torch.equal(fast.judge(new).value, networks.heads(new).value)


def test_a_frozen_view_shares_memory_and_passes_gradients_through():
    networks = make_networks()
    rssm = networks.world_model.rssm
    view = frozen_view(rssm)
    pairs = list(zip(view.parameters(), rssm.parameters(), strict=True))
    assert all(mine.data_ptr() == theirs.data_ptr() for mine, theirs in pairs)
    assert not any(mine.requires_grad for mine, _ in pairs)
    assert all(theirs.requires_grad for _, theirs in pairs)
    with torch.no_grad():
        rssm.enter.weight.fill_(0.125)
    assert (view.enter.weight == 0.125).all()
    networks.load_state_dict({k: x.clone() + 1 for k, x in networks.state_dict().items()})
    assert (view.enter.weight == 1.125).all()

    latent, _, noise = make_step(networks)
    action = torch.zeros(6, 2, requires_grad=True)
    view.imagine(latent, action, noise.latent).feature.sum().backward()
    assert action.grad is not None
    assert action.grad.abs().sum() > 0
    assert all(theirs.grad is None for _, theirs in pairs)


COMPILED = """
import sys

import torch

sys.path.insert(0, sys.argv[1])
import test_acceleration as t

from lsp.acceleration import fast_path
from lsp.config import RuntimeConfig

networks = t.make_networks()
fast = fast_path(networks, RuntimeConfig(compile=True, bf16=False))
step = t.make_step(networks)
close = {"atol": 1e-4, "rtol": 1e-3}
expected, action = networks.transition(*step)
latent, same_action = fast.imagine(*step)
torch.testing.assert_close(latent.feature, expected.feature, **close)
torch.testing.assert_close(same_action, action, **close)
with torch.no_grad():
    torch.testing.assert_close(fast.plan(*step)[0].feature, expected.feature, **close)
    judged, heads = fast.judge(expected.feature), networks.heads(expected.feature)
    for one, other in zip(judged, heads):
        torch.testing.assert_close(one, other, **close)
weights = list(networks.policy.parameters())
gradients = [
    torch.autograd.grad(path(*step)[0].feature.sum(), weights)
    for path in (networks.transition, fast.imagine)
]
for one, other in zip(*gradients):
    torch.testing.assert_close(one, other, **close)
sequences = t.make_sequences(networks, 10)
seen, slopes = zip(*(t.observe(networks, sequences, scan) for scan in (None, fast.scan)))
torch.testing.assert_close(*seen, **close)
for one, other in zip(*slopes):
    torch.testing.assert_close(one, other, **close)
print("same")
"""


@pytest.mark.slow
@pytest.mark.skipif(not compiler_found(), reason="no C++ compiler")
def test_the_compiled_path_is_the_reference_up_to_rounding():
    # In a process of its own, because shape checking cannot be compiled.
    command = [sys.executable, "-c", COMPILED, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("same")
