"""Plan with the cross-entropy method by hand, on a toy and on a run.

python examples/plan_by_hand.py runs/walker_walk-lsp

The best plan of the toy is known; on the run the world model imagines each candidate.
"""

import sys

import numpy as np
import torch
from torch import Tensor

import lsp
from lsp.algorithm.cem import candidate_noise, plan, standard_plan
from lsp.algorithm.skill_planning import score_plans
from lsp.models.imagination import RolloutNoise


def plan_on_a_toy() -> Tensor:
    """The best plan of two skills, where a skill is best that is nearest to (1, -0.5, 0)."""
    best = torch.tensor([1.0, -0.5, 0.0])

    def evaluate(candidates: Tensor, iteration: int) -> Tensor:
        """Plans [candidates, starts, plan, skill] to their values [candidates, starts]."""
        return -(candidates - best).square().sum((-1, -2))

    prior = standard_plan(starts=1, length=2, skill_dim=3, device=torch.device("cpu"))  # N(0, I)
    generator = torch.Generator().manual_seed(0)
    noise = candidate_noise(prior, num_iterations=20, num_candidates=64, generator=generator)
    zeta, _ = plan(evaluate, prior, num_elites=8, noise=noise)
    return zeta.mean[0]


def plan_on_a_run(run: str) -> tuple[Tensor, float, float]:
    """The plan for the first state of an episode, and what candidates are worth, first and last."""
    agent = lsp.load(run)
    if not isinstance(agent, lsp.Agent) or not agent.config.has_skills:
        sys.exit(f"{run}: {agent.config.method} plans no skills, name a run of lsp")
    config, networks = agent.config, agent.networks
    env = lsp.make_env(config.task, config.obs, config.action_repeat)
    observation, _ = env.reset(seed=0)
    env.close()
    agent.act(observation)  # folds the observation into the latent state s_t
    start, generator = agent.latent, torch.Generator().manual_seed(0)
    # All candidates imagine with the same noise, so that the best is not the luckiest.
    same = RolloutNoise(*networks.draw_noise(config.planner.horizon, 1, 1, generator=generator))

    def evaluate(candidates: Tensor, iteration: int) -> Tensor:
        """Imagine every candidate for H steps from s_t; V_g is the λ-return of the task."""
        return score_plans(networks, start, candidates, same, generator)

    prior = standard_plan(1, config.plan_length, config.skills.dim, networks.device)
    noise = candidate_noise(prior, num_iterations=6, num_candidates=64, generator=generator)
    zeta, stats = plan(evaluate, prior, num_elites=8, noise=noise)
    return zeta.mean[0], float(stats["planner/first_value"]), float(stats["planner/value"])


def as_text(skills: Tensor) -> str:
    """Skills with two digits."""
    return np.array2string(skills.numpy(), precision=2, suppress_small=True).replace("\n", "")


def main(run: str) -> None:
    """Plan on both, and print the plans."""
    print(f"toy: the planned skills are {as_text(plan_on_a_toy())}")
    skills, before, after = plan_on_a_run(run)
    print(f"run: the planned skills are {as_text(skills)}")
    print(f"candidates are worth {before:.2f} in the first round, {after:.2f} in the last")


if __name__ == "__main__":
    main(sys.argv[1])
