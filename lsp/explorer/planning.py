"""How skills are planned in the explorer: the settings that may be changed while it runs."""

from dataclasses import dataclass, fields, replace

from lsp.config import Config, RefitKind, SkillsConfig, validated, with_refit
from lsp.errors import UserError

MOST = 200
"""Of every number below, unless the run has more: what takes long to imagine cannot be watched."""


@dataclass(frozen=True)
class Planning:
    """What somebody who looks on may want to change.

    Attributes:
        refit: the planner: `cem`, `mppi` or `gradient`.
        skill_length: K, agent steps that a plan holds each skill.
        horizon: H, agent steps that are planned.
        num_candidates: G, plans that are sampled in each round.
        replan_every: agent steps between plans.
    """

    refit: RefitKind
    skill_length: int
    horizon: int
    num_candidates: int
    replan_every: int


def planning_of(config: Config) -> Planning:
    """What settings say of it while acting."""
    config = config.acting
    planner = config.planner
    numbers = planner.skill_length, planner.horizon, planner.num_candidates
    return Planning(planner.refit, *numbers, config.replan_every)


def planned_with(config: Config, planning: Planning) -> Config:
    """`config` with another planning; the best plans (M) stay the same share of all.

    Raises:
        UserError: in one line, what does not fit.
    """
    usual = planning_of(config)
    if planning == usual:
        return config
    for name in (field.name for field in fields(planning) if field.name != "refit"):
        value, most = getattr(planning, name), max(MOST, getattr(usual, name))
        if value > most:
            raise UserError(f"planner.{name} must be at most {most} here, not {value}")
    config = config.acting
    before = config.planner
    elites = round(before.num_elites * planning.num_candidates / before.num_candidates)
    planner = replace(
        with_refit(before, planning.refit),
        skill_length=planning.skill_length,
        horizon=planning.horizon,
        num_candidates=planning.num_candidates,
        num_elites=max(1, elites),
        replan_every=planning.replan_every,
    )
    skills = config.skills
    if (planner.skill_length, planner.horizon) != (before.skill_length, before.horizon):
        # What is proposed for other K and H is no beginning of these plans.
        least = SkillsConfig().proposal_min_std
        skills = replace(skills, proposal="normal", proposal_min_std=least)
    return validated(replace(config, planner=planner, skills=skills))
