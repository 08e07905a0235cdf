"""Which settings of planning make sense, alone and together: a function for each group."""

from collections.abc import Callable
from dataclasses import replace

from lsp.config.config import Config
from lsp.config.planner_settings import ActionsConfig, PlannerConfig, RefitKind
from lsp.config.ranges import below, no_share

WHILE_ACTING = ("acting_iterations", "acting_horizon", "replan_every")
"""Settings of plans that are made while acting."""

_PLANNER_LETTERS = {"horizon": "H", "skill_length": "K", "num_candidates": "G", "num_elites": "M"}


def _planner(config: Config) -> list[str]:
    planner = config.planner
    found = [
        f"planner.{name} ({letter}) must be at least 1, not {getattr(planner, name)}"
        for name, letter in _PLANNER_LETTERS.items()
        if getattr(planner, name) < 1
    ]
    found += below(1, " ".join(("num_iterations", *WHILE_ACTING)), planner, "planner.")
    found += below(0, "mean_noise prior_weight", planner, "planner.")
    found += no_share("lambda_", planner, "planner.")
    if planner.num_elites > planner.num_candidates:
        found.append(
            f"planner.num_elites (M = {planner.num_elites}) must not exceed "
            f"planner.num_candidates (G = {planner.num_candidates})"
        )
    if planner.prior_weight > 0 and not config.plans_skills:
        found.append("planner.prior_weight needs skills that are planned")
    if planner.scope == "shared" and not config.plans_skills:
        found.append("planner.scope = shared needs skills that are planned")
    if config.plans_actions and config.has_skills:
        found.append(
            f"planner.over = actions has no skills: skills.dim must be 0, not {config.skills.dim}"
        )
    return found


def _refit(config: Config) -> list[str]:
    """How plans are found."""
    planner, default = config.planner, PlannerConfig()
    found = below(0, "min_std", planner, "planner.")
    found += [
        f"planner.{name} must be above 0, not {getattr(planner, name)}"
        for name in ("temperature", "step_size")
        if not getattr(planner, name) > 0
    ]
    for name, kinds in _OF_REFITS.items():
        if planner.refit not in kinds and getattr(planner, name) != getattr(default, name):
            found.append(f"planner.{name} needs planner.refit = {' or '.join(kinds)}")
    if planner.refit != "cem" and not _plans(config):
        found.append(f"planner.refit = {planner.refit}: {config.method} plans nothing")
    return found


_OF_REFITS = {
    "temperature": ("mppi",),
    "step_size": ("gradient",),
    "min_std": ("mppi", "gradient"),
}
"""Settings that other refits do not read."""


def with_refit(planner: PlannerConfig, refit: RefitKind) -> PlannerConfig:
    """The same with another refit, and without what only the one before has read."""
    default = PlannerConfig()
    unread = [name for name, kinds in _OF_REFITS.items() if refit not in kinds]
    return replace(planner, refit=refit, **{name: getattr(default, name) for name in unread})


def _acting(config: Config) -> list[str]:
    """When plans are made while acting."""
    planner, found = config.planner, []
    for name in WHILE_ACTING:
        if getattr(planner, name) is None:
            continue
        if not _plans(config):
            found.append(f"planner.{name}: {config.method} plans nothing while acting")
        if planner.scope == "shared":
            found.append(f"planner.{name}: with planner.scope = shared acting plans nothing")
    if planner.acting_horizon is not None and config.plans_actions:
        found.append("planner.acting_horizon needs skills that are planned")
    if planner.acting_horizon is not None and config.has_proposal:
        found.append("planner.acting_horizon: skills.proposal = learned proposes plans of H and K")
    acting = config.acting
    covered = acting.skills_ahead * acting.planner.skill_length
    if planner.replan_every is not None and planner.replan_every > covered:
        found.append(
            f"planner.replan_every must be at most the {covered} agent steps of a plan's skills, "
            f"not {planner.replan_every}"
        )
    return found


def _plans(config: Config) -> bool:
    """Whether plans are made in a world model."""
    return config.method != "hiro" and (config.plans_skills or config.plans_actions)


def _actions(config: Config) -> list[str]:
    """Planning over actions around the policy."""
    actions = config.actions
    if not config.refines_actions:
        changed = replace(actions, num_candidates=0) != ActionsConfig()
        found = ["actions: settings need actions.num_candidates above 0"] * changed
        return found + below(0, "num_candidates", actions, "actions.")
    if config.method == "hiro" or config.plans_actions:
        return [f"actions.num_candidates needs a policy in a world model: not {config.method}"]
    found = below(1, "policy_candidates num_elites num_iterations length", actions, "actions.")
    found += no_share("momentum", actions, "actions.")
    together = actions.num_candidates + actions.policy_candidates
    if actions.num_elites > together:
        found.append(
            f"actions.num_elites must be at most {together}, not {actions.num_elites}: choose "
            f"fewer, or at least {actions.num_elites - actions.policy_candidates} "
            "actions.num_candidates"
        )
    if not actions.temperature > 0:
        found.append(f"actions.temperature must be above 0, not {actions.temperature}")
    if not 0 <= actions.min_std <= actions.max_std:
        found.append("actions.min_std must be at least 0 and at most actions.max_std")
    return found


PLANNING: tuple[Callable[[Config], list[str]], ...] = (_planner, _refit, _acting, _actions)
"""What is wrong with each group, a sentence each."""
