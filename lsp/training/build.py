"""What a run is made of, by its method: networks, a learner and agents.

Most methods share one world model and differ in settings; HIRO has no model at all.
"""

from typing import Literal

from lsp.algorithm.agent import Agent
from lsp.algorithm.learner import Learner
from lsp.backends.backends import acting_backend, learning_backend
from lsp.baselines.hiro import HiroLearner, HiroNetworks
from lsp.baselines.hiro_agent import HiroAgent
from lsp.config import Config, RuntimeConfig
from lsp.models.networks import Networks
from lsp.runs.spaces import Spaces

AnyNetworks = Networks | HiroNetworks
AnyLearner = Learner | HiroLearner
AnyAgent = Agent | HiroAgent


def build_networks(spaces: Spaces, config: Config, device: str = "cpu") -> AnyNetworks:
    """Networks for what an agent observes and does. Raises UserError where the method cannot see
    it."""
    shapes = {key: tuple(shape) for key, shape in spaces.observations.items()}
    kind = HiroNetworks if config.method == "hiro" else Networks
    return kind(shapes, spaces.actions, config.resolved()).to(device)


def build_learner(networks: AnyNetworks, seed: int, runtime: RuntimeConfig) -> AnyLearner:
    """A learner for these networks, as fast as the machine allows."""
    if isinstance(networks, HiroNetworks):
        return HiroLearner(networks, seed)
    return Learner(networks, seed, learning_backend(networks, runtime))


def build_agent(
    networks: AnyNetworks,
    mode: Literal["collect", "evaluate"] = "evaluate",
    num_envs: int | None = None,
    seed: int = 0,
    runtime: RuntimeConfig | None = None,
    skills: Literal["planned", "prior"] | None = None,
) -> AnyAgent:
    """An agent of its own generator, seeded with `seed`; it plans as `runtime` allows. `skills` are
    planned or drawn from N(0, I), whatever the settings say; HIRO's manager chooses its own."""
    if isinstance(networks, HiroNetworks):
        return HiroAgent(networks, mode, num_envs, seed)
    backend = None if runtime is None else acting_backend(networks, runtime)
    return Agent(networks, mode, num_envs, seed, backend, skills)
