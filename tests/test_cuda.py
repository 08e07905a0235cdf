"""What a GPU computes is what a CPU would, recorded or not, and nothing waits for it."""

from typing import Any

import numpy as np
import pytest
import torch
from builders import make_batch, make_networks, seeded

from lsp.algorithm.agent import Agent
from lsp.algorithm.learner import Learner
from lsp.backends.backends import EagerBackend
from lsp.backends.cuda_graphs import WARM_UP, Recording
from lsp.backends.torch_setup import prepare_torch
from lsp.cli.main import main
from lsp.config import RuntimeConfig
from lsp.models.encoders import Shapes
from lsp.models.world_model import Latent

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

SHAPES: dict[str, Shapes] = {"proprio": {"position": (5,)}, "pixels": {"image": (64, 64, 3)}}
CLOSE: dict[str, Any] = {"atol": 1e-4, "rtol": 1e-3}


@pytest.fixture(autouse=True)
def prepared() -> None:
    """As a run prepares PyTorch, in full precision."""
    prepare_torch(RuntimeConfig(device="cuda", bf16=False))


def make_there(method: Any = "lsp", obs: Any = "proprio", device: Any = "cuda") -> Any:
    """Networks on a GPU."""
    model = {"decoded_images": 8} if obs == "pixels" else {}
    return make_networks(method, SHAPES[obs], model=model).to(device)


def make_broken_batch(networks: Any, obs: Any, seed: Any) -> Any:
    """A tenth of the rows begins an episode."""
    batch = make_batch(networks.config, SHAPES[obs], seed=seed)
    begins = np.random.default_rng(seed).random(batch["is_first"].shape) < 0.1
    return batch | {"is_first": begins}


@pytest.mark.parametrize("obs", ["proprio", "pixels"])
@pytest.mark.parametrize("method", ["lsp", "dreamer", "no_mi", "random_skills", "cem"])
def test_a_recorded_update_is_an_update(method: Any, obs: Any) -> None:
    both = [make_there(method, obs) for _ in range(2)]
    learners = [
        Learner(both[0], 0, EagerBackend(both[0])),
        Learner(both[1], 0, EagerBackend(both[1], record=Recording)),
    ]
    for update in range(WARM_UP + 4):
        plain, recorded = (x.update(make_broken_batch(both[0], obs, update)) for x in learners)
        assert plain.keys() == recorded.keys()
        for name in plain:
            torch.testing.assert_close(plain[name], recorded[name], **CLOSE, msg=f"{update} {name}")
    states = [x.state() for x in learners]
    assert torch.equal(*(x["generator"] for x in states))
    for name, x in both[0].state_dict().items():
        torch.testing.assert_close(both[1].state_dict()[name], x, atol=1e-3, rtol=1e-2)
    # Metrics are the caller's own: another update does not change them.
    kept = {name: x.clone() for name, x in recorded.items()}
    learners[1].update(make_broken_batch(both[0], obs, 0))
    assert all(torch.equal(recorded[name], kept[name]) for name in kept)


@pytest.mark.parametrize("obs", ["proprio", "pixels"])
def test_the_same_seed_gives_the_same_updates(obs: Any) -> None:
    weights = []
    for _ in range(2):
        networks = make_there(obs=obs)
        learner = Learner(networks, 0, EagerBackend(networks, record=Recording))
        for update in range(WARM_UP + 3):
            learner.update(make_broken_batch(networks, obs, update))
        weights.append(networks.state_dict())
    one, other = weights
    assert all(torch.equal(one[name], other[name]) for name in one)


# PyTorch warns that it knows most operations that wait, but not all.
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("record", [False, True])
@pytest.mark.parametrize("method", ["lsp", "dreamer", "cem"])
def test_nothing_in_an_update_waits_for_the_gpu(method: Any, record: Any) -> None:
    networks = make_there(method)
    chosen: dict[str, Any] = {"record": Recording} if record else {}
    learner = Learner(networks, 0, EagerBackend(networks, **chosen))
    batch = make_broken_batch(networks, "proprio", 0)
    for _ in range(WARM_UP + 2):
        learner.update(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        learner.update(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("mode", ["collect", "evaluate"])
@pytest.mark.parametrize("method", ["lsp", "dreamer", "random_skills", "cem"])
def test_a_recorded_agent_acts_as_it_would(method: Any, mode: Any) -> None:
    networks = make_there(method)
    backends = EagerBackend(networks), EagerBackend(networks, record=Recording)
    agents = [Agent(networks, mode, 3, 0, backend) for backend in backends]
    rng = np.random.default_rng(0)
    for step in range(60):
        if step in (7, 23):  # one env is out of step with the others from now on
            for agent in agents:
                agent.begin(1)
        observation = {"position": rng.normal(size=(3, 5)).astype(np.float32)}
        plain, recorded = (agent.act(observation) for agent in agents)
        np.testing.assert_allclose(plain, recorded, atol=1e-4, err_msg=f"step {step}")


def test_imagination_and_filter_are_those_of_a_cpu() -> None:
    here, there = make_there(device="cpu"), make_there()
    config, seed = here.config, seeded()

    def draw(*shape: Any) -> Any:
        return torch.randn(shape, generator=seed)

    latent = Latent(draw(6, config.model.deter).tanh(), draw(6, config.model.stoch))
    steps = latent, draw(6, 1, config.skills.dim), here.draw_noise(5, 6, generator=seed)
    expected = here.imagine(*steps).feature

    def moved(x: Any) -> Any:
        return x.cuda() if isinstance(x, torch.Tensor) else type(x)(*(part.cuda() for part in x))

    feature = there.imagine(*(moved(x) for x in steps)).feature
    torch.testing.assert_close(feature.cpu(), expected, **CLOSE)
    for one, other in zip(
        here.predict_heads(expected), there.predict_heads(expected.cuda()), strict=True
    ):
        torch.testing.assert_close(other.cpu(), one, **CLOSE)
    rssm = here.world_model.rssm
    first = torch.rand(3, 9, generator=seed) < 0.2
    embedding, action = draw(3, 9, here.world_model.encoder.outputs), draw(3, 9, 2)
    sequences = embedding, action, first, draw(3, 9, rssm.stoch)
    filtered = rssm.observe(*sequences)
    same = there.world_model.rssm.observe(*(x.cuda() for x in sequences))
    for one, other in zip(filtered, same, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            torch.testing.assert_close(theirs.cpu(), mine, **CLOSE)


def test_products_are_exact_where_bf16_is_refused() -> None:
    left, right = (torch.rand(256, 256, dtype=torch.float64) for _ in range(2))
    errors = {}
    for bf16 in (True, False):
        prepare_torch(RuntimeConfig(device="cuda", bf16=bf16))
        product = left.float().cuda() @ right.float().cuda()
        errors[bf16] = (product.cpu().double() - left @ right).abs().max().item()
    assert errors[False] < 1e-4 < errors[True]


@pytest.mark.parametrize("method", ["lsp", "hiro"])
def test_a_run_trains_resumes_and_changes_to_a_cpu(method: Any, tmp_path: Any) -> None:
    run = str(tmp_path / "run")
    command = ["train", "--preset", "debug", "--task", "walker_walk", "--method", method]
    for device, steps in (("cuda", "2000"), ("cuda", "3000"), ("cpu", "4000"), ("cuda", "5000")):
        main([*command, "--steps", steps, "--logdir", run, "--device", device])
    for device in ("cpu", "cuda"):
        main(["eval", run, "--episodes", "1", "--device", device])
