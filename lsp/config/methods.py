"""Methods: LSP, and the baselines and ablations of section 4 as what they change in a preset."""

from dataclasses import replace
from typing import Any

from lsp.config.changes import changed
from lsp.config.config import Config
from lsp.config.planner_settings import ActionsConfig
from lsp.config.presets import PRESETS
from lsp.config.settings import ReplayConfig
from lsp.errors import UserError


def _lsp(config: Config) -> Config:
    return config


def _no_plans_in_updates(config: Config) -> Config:
    """One number of iterations, that of acting: it plans then alone, if at all."""
    planner = replace(
        config.planner, num_iterations=config.acting_iterations, acting_iterations=None
    )
    return replace(config, planner=planner)


def _dreamer(config: Config) -> Config:
    """Fully amortised: no skill, nothing to plan; horizon 15 as Dreamer v1."""
    config = _no_plans_in_updates(config)
    behavior = config.behavior
    if behavior.num_starts is not None:
        # As many rollouts as LSP learns from, each from a state of its own.
        rollouts = behavior.num_starts * behavior.rollouts_per_start
        behavior = replace(behavior, num_starts=rollouts, rollouts_per_start=1)
    return replace(
        config,
        skills=replace(config.skills, dim=0),
        behavior=replace(behavior, horizon=15),
    )


def _random_skills(config: Config) -> Config:
    config = _no_plans_in_updates(config)
    return replace(config, skills=replace(config.skills, source="prior"))


def _no_mi(config: Config) -> Config:
    return replace(config, skills=replace(config.skills, intrinsic=False))


def _rand_skills_init(config: Config) -> Config:
    return _no_mi(_random_skills(config))


def _cem(config: Config) -> Config:
    """Fully online: as many model steps a plan as LSP's, or PlaNet's own numbers in `paper`."""
    config = _no_plans_in_updates(config)
    planner = replace(config.planner, over="actions", skill_length=1, mean_noise=0.0)
    if config.preset == "paper":
        planner = replace(
            planner, horizon=12, num_iterations=10, num_candidates=1000, num_elites=100
        )
    return replace(
        config,
        skills=replace(config.skills, dim=0),
        planner=planner,
        actions=ActionsConfig(),  # it plans nothing else
        behavior=replace(config.behavior, lambda_=1.0),  # rewards alone: there is no value
    )


def _hiro(config: Config) -> Config:
    """A model-free hierarchy.

    The numbers are those of HIRO's released code in every preset, but for what makes it the
    stronger baseline (docs/paper/hiro.md).
    """
    config = _no_plans_in_updates(config)
    schedule = replace(config.schedule, pretrain=0)
    replay = ReplayConfig(batch=100, length=20, capacity=200_000)
    hiro = replace(config.hiro, manager_noise=0.2)
    if config.preset != "paper":
        hiro = replace(hiro, worker_reward=10.0)
    if config.preset == "debug":
        hiro = replace(hiro, layers=(16, 16), worker_updates=3)
        replay = replace(replay, batch=4)
    else:
        schedule = replace(schedule, update_every=10)
    return replace(
        config,
        actions=ActionsConfig(),  # no model to plan in
        hiro=hiro,
        replay=replay,
        schedule=schedule,
        optimizer=replace(config.optimizer, epsilon=1e-8),  # TF1's Adam
    )


METHODS = {
    "lsp": _lsp,
    "dreamer": _dreamer,
    "random_skills": _random_skills,
    "rand_skills_init": _rand_skills_init,
    "no_mi": _no_mi,
    "cem": _cem,
    "hiro": _hiro,
}
"""What each method changes in a preset."""


def make_config(method: str = "lsp", preset: str = "fast", **settings: Any) -> Config:
    """The settings of a method at a preset.

    Args:
        method: `lsp`, `dreamer`, `random_skills`, `rand_skills_init`, `no_mi`, `cem` or `hiro`.
        preset: `paper`, `fast`, `modern` or `debug`.
        **settings: what is to differ, by the names of the command line's flags, such as
            `task="cheetah_run"` or `**{"planner.horizon": 20}`; or a whole section, such as
            `planner=PlannerConfig(...)`.

    Returns:
        All settings of a run, for `train`.

    Raises:
        UserError: there is no such method, preset or setting, or a value is of another type.
    """
    for kind, name, known in (("preset", preset, PRESETS), ("method", method, METHODS)):
        if name not in known:
            raise UserError(f"unknown {kind} {name!r}: choose one of {', '.join(known)}")
    config = replace(METHODS[method](PRESETS[preset]()), method=method)
    return changed(config, settings) if settings else config
