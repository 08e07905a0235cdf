"""The settings of a transfer: those of its source, and what another task changes in them."""

from dataclasses import replace
from typing import Any

from lsp.config.config import Config
from lsp.config.planner_settings import ActionsConfig
from lsp.config.settings import PolicyConfig, TransferConfig
from lsp.config.validation import shortest_sequence
from lsp.errors import UserError

PRIOR_WEIGHT = 0.05
"""`planner.prior_weight` on a new task. A plan meets a reward there that the policy was not trained
on, and without it CEM walks out to skills that nobody has learned (docs/notebook/skills.md)."""
ACTING_HORIZON = 50
"""`planner.acting_horizon` on a new task: one skill, held so long, is found sooner than several
(docs/notebook/transfer.md)."""
NEW_SHARE = 0.5
"""`transfer.new_share` where a policy adapts on a relabelled replay: with less of the new task's
own episodes it leaves what its model has seen before they can tell where that leads
(docs/notebook/transfer.md)."""
ANCHOR = 0.05
"""`transfer.anchor` of a frozen policy: any anchor makes it one that is fixed in what it does. One
that adapts is free. Held, it is ahead for 20k env steps towards another goal, and never learns
another gait (docs/results/transfer.md)."""
ANCHOR_RATE = 0.005
"""`transfer.anchor_rate` of a policy that adapts and is held: to a slow copy of itself."""
ANCHORED_STD = 0.1
"""Least standard deviation of a policy that is held to another: between two that are nearly sure of
what they do the KL has no end."""


def on_another_task(
    source: Config,
    task: str,
    transfer: TransferConfig,
    skill_length: int | None = None,
    horizon: int | None = None,
    acting_horizon: int | None = None,
    prior_weight: float | None = None,
    plan_lambda: float | None = None,
    min_std: float | None = None,
    action_candidates: int | None = None,
    final_episodes: int | None = None,
    **changes: Any,
) -> Config:
    """Settings of a run on `task` that starts from one with the settings `source`.

    `skill_length` K, `horizon` H, `plan_lambda` (λ of a plan's score), `min_std` (least standard
    deviation of the policy), `action_candidates` (sequences of actions planned around it, 0 for
    none) and `final_episodes` are the source's own where they are not given, but `min_std` at least
    ANCHORED_STD where there is an anchor; `prior_weight` is PRIOR_WEIGHT where skills are planned,
    and so is `acting_horizon` ACTING_HORIZON unless K or H is given, with which behaviour learning
    imagines one skill. `changes` replace top-level fields.

    What is ours and nobody chose is off in the preset `paper`.

    Raises UserError where the method has nothing that a setting could change.
    """
    transfer = _held(source, transfer)
    # The source's own reward is neither this task's nor known to be harmless code.
    config = replace(source, task=task, transfer=transfer, **({"reward": None} | changes))
    ahead = horizon, acting_horizon
    _refuse_what_is_not_there(config, skill_length, ahead, prior_weight, plan_lambda)
    if acting_horizon is None and skill_length is None and horizon is None:
        acting_horizon = _acting_horizon(config)
    if prior_weight is None:
        prior_weight = PRIOR_WEIGHT if _plans_skills(config) else 0.0
    planner = replace(
        config.planner,
        prior_weight=prior_weight,
        lambda_=config.planner.lambda_ if plan_lambda is None else plan_lambda,
        skill_length=config.planner.skill_length if skill_length is None else skill_length,
        horizon=config.planner.horizon if horizon is None else horizon,
        acting_horizon=acting_horizon,
    )
    config = replace(config, planner=planner, policy=_policy(config, min_std))
    if action_candidates is not None:
        chosen = replace(config.actions, num_candidates=action_candidates)
        config = replace(config, actions=chosen if action_candidates else ActionsConfig())
    if final_episodes is not None:
        schedule = replace(config.schedule, final_episodes=final_episodes)
        config = replace(config, schedule=schedule)
    if skill_length is None and horizon is None:
        return config
    return _fitted(config)


def _fitted(config: Config) -> Config:
    """What K and H decide besides."""
    length = config.planner.skill_length
    if config.method == "hiro":
        rows = max(config.replay.length, shortest_sequence(length))
        return replace(config, replay=replace(config.replay, length=rows))
    if not config.has_skills:
        return config
    return replace(config, behavior=replace(config.behavior, horizon=length))


def _held(source: Config, transfer: TransferConfig) -> TransferConfig:
    """What holds the policy, where nobody chose it."""
    ours = source.method != "hiro" and not source.plans_actions and source.preset != "paper"
    adapts = ours and not transfer.freeze_policy
    anchor, rate, share = transfer.anchor, transfer.anchor_rate, transfer.new_share
    if anchor is None:
        anchor = ANCHOR if ours and not adapts else 0.0
    if rate is None:
        rate = ANCHOR_RATE if adapts and anchor else 0.0
    if share is None:
        share = NEW_SHARE if adapts and transfer.relabel else 0.0
    return replace(transfer, anchor=anchor, anchor_rate=rate, new_share=share)


def _policy(config: Config, min_std: float | None) -> PolicyConfig:
    """Of a policy that may be held to another. Raises UserError for a `min_std` of none."""
    if min_std is not None and config.plans_actions:
        raise UserError(f"{config.method} has no policy: leave out its least standard deviation")
    held = bool(config.transfer.anchor)
    if min_std is None:
        min_std = max(config.policy.min_std, ANCHORED_STD if held else 0.0)
    policy = replace(config.policy, min_std=min_std)
    if held and config.transfer.freeze_policy:
        # It only follows what the source's does, and keeps up with the model whose states it reads.
        policy = replace(policy, learning_rate=config.model.learning_rate)
    return policy


def _acting_horizon(config: Config) -> int | None:
    """Of an agent's plans, where nobody chose it."""
    plans = _plans_skills(config) and not config.has_proposal
    chosen = config.planner.acting_horizon
    return chosen or (ACTING_HORIZON if plans and config.planner.scope == "per_state" else None)


def _plans_skills(config: Config) -> bool:
    """In a world model, and otherwise than in the paper."""
    return config.plans_skills and config.method != "hiro" and config.preset != "paper"


def _refuse_what_is_not_there(
    config: Config,
    skill_length: int | None,
    ahead: tuple[int | None, int | None],
    prior_weight: float | None,
    plan_lambda: float | None,
) -> None:
    if skill_length is not None and not config.has_skills:
        raise UserError(f"{config.method} has no skills: leave out the skill length")
    plans_skills = config.plans_skills and config.method != "hiro"
    looks_ahead = config.plans_actions or plans_skills
    for what, value in (("horizon", ahead[0]), ("λ of plans", plan_lambda)):
        if value is not None and not looks_ahead:
            raise UserError(f"{config.method} plans nothing: leave out the {what}")
    for what, value in (("acting horizon", ahead[1]), ("weight of their prior", prior_weight)):
        if value and not plans_skills:
            raise UserError(f"{config.method} plans no skills: leave out the {what}")
