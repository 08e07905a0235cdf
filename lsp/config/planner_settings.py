"""The settings of planning, as frozen dataclasses.

Sources and defaults are named as in `settings`.
"""

from dataclasses import dataclass
from typing import Literal

RefitKind = Literal["cem", "mppi", "gradient"]


@dataclass(frozen=True)
class PlannerConfig:
    """Cross-entropy method over skill plans (Algorithm 2), or over actions."""

    over: Literal["skills", "actions"] = "skills"
    """What is planned. `actions` has no policy, no value and no skills: PlaNet."""

    horizon: int = 10
    """H, agent steps (A.3)."""
    skill_length: int = 10
    """K, agent steps a skill is held (A.3)."""
    num_candidates: int = 16
    """G, plans sampled in each iteration (A.3)."""
    num_elites: int = 4
    """M, plans that refit the distribution (A.3)."""
    num_iterations: int = 4
    """MaxCEMiter (A.3): rounds of sampling and refitting, or steps of gradient ascent."""
    acting_iterations: int | None = None
    """The same while acting; None: as many as in updates (ours)."""
    acting_horizon: int | None = None
    """Agent steps that a plan looks ahead while acting, with one skill held throughout; None: as in
    updates, H and K (ours)."""
    replan_every: int | None = None
    """Agent steps between plans while acting; None: K (Algorithm 1). Before K steps are over, the
    new plan begins with a fresh skill; after them the plan in force goes on to its next (ours)."""
    refit: RefitKind = "cem"
    """`cem`: mean and variance of the M best plans (section 3). `mppi`: the same, weighted by
    exp((V - V_max) / temperature) (TD-MPC2). `gradient`: the M best of G plans climb along the
    gradient of V with respect to the skills, through the model (section 6)."""
    temperature: float = 0.02
    """Of `mppi`, in units of the running size of returns (TD-MPC2: 2, of returns around 100); of a
    reward that was not trained, in units of the mean |V| of the elites. One round from N(0, I)
    gives p_0(z) exp(V / temperature) among the elites (A.5, eq. 6)."""
    step_size: float = 0.3
    """Of `gradient`: length of the first step of a whole plan; the others grow shorter in equal
    parts (ours)."""
    min_std: float = 0.05
    """Of `mppi` and `gradient`: least standard deviation of ζ (TD-MPC2)."""
    mean_noise: float = 0.1
    """Std of ε, added to the planned mean in training and collecting (A.3)."""
    intrinsic_weight: float = 0.0
    """Weight of the intrinsic return beside the task return in a plan's score (ours)."""
    prior_weight: float = 0.0
    """Weight of log p_0(z), p_0 = N(0, I), in a plan's score (A.5, eq. 6), in units of the running
    size of returns. It keeps plans among the skills that the policy has learned (ours)."""
    lambda_: float | None = None
    """λ of a plan's score. None: behaviour's, or 1 for a horizon beyond 15, of which λ = 0.95 would
    see the first twenty steps alone (PlaNet and TD-MPC2: 1)."""
    scope: Literal["per_state", "shared"] = "per_state"
    """One ζ for each start state, or one for all of an update (ours, the literal Algorithm 1)."""
    rollout_noise: Literal["independent", "common"] = "independent"
    """Candidates of one start imagine with their own noise, or all with the same (ours)."""
    warm_start: bool = False
    """Acting: plan from N(previous mean, I) instead of N(0, I) (ours)."""


@dataclass(frozen=True)
class ActionsConfig:
    """Planning over actions around the policy, at every agent step: skills above, actions below.

    MPPI as in TD-MPC (Hansen et al. 2022), with the world model's means, its rewards, and v.
    """

    num_candidates: int = 0
    """Sequences of actions sampled in each iteration; 0: the policy acts alone (the paper)."""
    policy_candidates: int = 6
    """Sequences of the policy's own beside them, under the skill in force."""
    num_elites: int = 16
    """Best sequences, which refit the distribution."""
    num_iterations: int = 4
    """Rounds of sampling and refitting (TD-MPC: 6)."""
    length: int = 3
    """Agent steps of a sequence, which ends in v (TD-MPC2: 3)."""
    temperature: float = 0.05
    """Elites are weighted by exp((V - V_max) / temperature), in units of the running size of
    returns (ours; TD-MPC: 2, of returns around 100)."""
    min_std: float = 0.05
    """Least standard deviation of the distribution (TD-MPC2)."""
    max_std: float = 2.0
    """The one that it begins with: most first samples lie at the bounds of the actions (TD-MPC)."""
    momentum: float = 0.1
    """Share of the mean of the round before in each mean (TD-MPC)."""
