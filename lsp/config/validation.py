"""Which settings make sense, alone and together."""

from dataclasses import replace

from lsp.config.serialization import from_dict, to_dict
from lsp.config.settings import Config, TransferConfig
from lsp.errors import UserError

_SEEDS = 2**32  # PyTorch would take more, numpy's older generators would not


def validated(config: Config) -> Config:
    """The same, with what may be spelled in several ways spelled in one. Raises UserError in one
    line if a setting makes no sense, or is of another type."""
    config = from_dict(to_dict(config))
    reset = tuple(sorted(set(config.transfer.reset)))
    config = replace(config, transfer=replace(config.transfer, reset=reset))
    for problem in _problems(config):
        raise UserError(problem)
    return config


def _problems(config: Config) -> list[str]:
    """What is wrong with `config`, a sentence each."""
    planner, replay, schedule = config.planner, config.replay, config.schedule
    at_least_one = {
        "action_repeat": config.action_repeat,
        "num_envs": config.num_envs,
        "planner.horizon (H)": planner.horizon,
        "planner.skill_length (K)": planner.skill_length,
        "planner.num_candidates (G)": planner.num_candidates,
        "planner.num_elites (M)": planner.num_elites,
        "planner.num_iterations": planner.num_iterations,
        "behavior.horizon": config.behavior_horizon if config.behavior.horizon != 0 else 0,
        "behavior.rollouts_per_start": config.behavior.rollouts_per_start,
        "skills.num_states": config.skills.num_states,
        "replay.batch": replay.batch,
        "replay.length": replay.length,
        "schedule.update_every": schedule.update_every,
        "schedule.log_every": schedule.log_every,
        "schedule.eval_episodes": schedule.eval_episodes,
        "schedule.save_every": schedule.save_every,
        "model.deter": config.model.deter,
        "model.stoch": config.model.stoch,
        "model.decoded_images": 1
        if config.model.decoded_images is None
        else config.model.decoded_images,
    }
    at_least_zero = {
        "transfer.updates": config.transfer.updates,
        "transfer.anchor": config.transfer.anchor,
        "seed": config.seed,
        "skills.dim": config.skills.dim,
        "skills.input_noise": config.skills.input_noise,
        "planner.mean_noise": planner.mean_noise,
        "policy.exploration_noise": config.policy.exploration_noise,
        "policy.mode_samples": config.policy.mode_samples,
        "schedule.prefill": schedule.prefill,
        "schedule.pretrain": schedule.pretrain,
        "schedule.eval_every": schedule.eval_every,
        "schedule.prior_episodes": schedule.prior_episodes,
        "planner.prior_weight": planner.prior_weight,
    }
    shares = {
        "behavior.prior_share": config.behavior.prior_share,
        "policy.prior_share": config.policy.prior_share,
        "planner.lambda_": planner.lambda_ or 0.0,
    }
    found = [f"{k} must be at least 1, not {v}" for k, v in at_least_one.items() if v < 1]
    found += [f"{k} must be at least 0, not {v}" for k, v in at_least_zero.items() if v < 0]
    wrong = {name: x for name, x in shares.items() if not 0 <= x <= 1}
    found += [f"{name} must lie between 0 and 1, not {x}" for name, x in wrong.items()]
    if config.behavior.prior_share == 1:
        found.append("behavior.prior_share must be below 1: v learns from planned skills alone")
    if config.seed >= _SEEDS:
        found.append(f"seed must be below {_SEEDS:,}, not {config.seed}")
    if planner.num_elites > planner.num_candidates:
        found.append(
            f"planner.num_elites (M = {planner.num_elites}) must not exceed "
            f"planner.num_candidates (G = {planner.num_candidates})"
        )
    starts, states = config.behavior.num_starts, config.own_sequences * replay.length
    if starts is not None and not 1 <= starts <= states:
        found.append(
            f"behavior.num_starts must be between 1 and the batch's {states} states, not {starts}"
        )
    if not 0 < config.behavior.discount <= 1 or not 0 <= config.behavior.lambda_ <= 1:
        found.append("behavior.discount and behavior.lambda_ must lie between 0 and 1")
    relative = config.skills.intrinsic_unit == "return"
    if config.has_intrinsic and relative and config.value.covers != "task":
        found.append(
            "skills.intrinsic_unit = return needs value.covers = task: otherwise the "
            "intrinsic reward would be measured against itself"
        )
    if config.resolved().value.states == "observed":
        if config.has_intrinsic and config.value.covers != "task":
            found.append(
                "value.covers = total needs value.states = imagined: the replay knows no intrinsic "
                "reward"
            )
        if replay.length < 2:
            found.append("value.states = observed needs a replay.length of at least 2")
    if config.transfer.source is None and config.transfer != TransferConfig():
        found.append("transfer settings need a transfer.source, the folder of a run")
    if not config.transfer.relabel and config.transfer.updates != TransferConfig().updates:
        found.append("transfer.updates are those on a relabelled replay: it needs transfer.relabel")
    lacking = {"reward": config.method == "hiro", "value": config.plans_actions}
    lacking["value"] |= config.method == "hiro"
    found += [
        f"transfer.reset {head}: {config.method} has no such head"
        for head in config.transfer.reset
        if lacking[head]
    ]
    found += _anchor_problems(config)
    if config.transfer.freeze_policy and config.plans_actions:
        found.append("transfer.freeze_policy needs a policy, and this method plans actions")
    if config.transfer.freeze_policy and config.method == "hiro":
        found.append("transfer.freeze_policy needs a planner that adapts, which hiro lacks")
    if planner.prior_weight > 0 and not config.plans_skills:
        found.append("planner.prior_weight needs skills that are planned")
    if planner.scope == "shared" and not config.plans_skills:
        found.append("planner.scope = shared needs skills that are planned")
    if config.plans_actions and config.has_skills:
        found.append(
            f"planner.over = actions has no skills: skills.dim must be 0, not {config.skills.dim}"
        )
    if not 0 < config.value.slow_rate <= 1:
        found.append(f"value.slow_rate must lie in (0, 1], not {config.value.slow_rate}")
    return found + (_hiro_problems(config) if config.method == "hiro" else [])


def _anchor_problems(config: Config) -> list[str]:
    """What is wrong with how a transfer holds on to its source."""
    transfer, method, found = config.transfer, config.method, []
    if transfer.anchor > 0 and (config.plans_actions or method == "hiro"):
        found.append(f"transfer.anchor holds a policy in a world model, which {method} lacks")
    if transfer.keep_replay and method == "hiro":
        found.append("transfer.keep_replay is for learning a world model, which hiro lacks")
    if transfer.keep_replay and config.replay.batch < 2:
        found.append("transfer.keep_replay needs a replay.batch of at least 2")
    steps = transfer.anchor_steps
    if steps is not None and steps < 1:
        found.append(f"transfer.anchor_steps must be at least 1, not {steps}")
    if steps is not None and transfer.anchor == 0:
        found.append("transfer.anchor_steps needs a transfer.anchor")
    return found


def shortest_sequence(skill_length: int) -> int:
    """Agent steps that a sequence of HIRO's replay needs: wherever it begins, a whole segment and a
    step after it must lie in it."""
    return max(2 * skill_length, skill_length + 2)


def _hiro_problems(config: Config) -> list[str]:
    """What is wrong with `config` for HIRO alone."""
    hiro, length, found = config.hiro, config.planner.skill_length, []
    if config.obs == "pixels":
        found.append(
            "method hiro needs --obs proprio: HIRO has not been shown to work from images "
            "(Nachum et al. 2018), and LSP's paper has no curves of it from pixels"
        )
    if hiro.goals == "skills" and not config.has_skills:
        found.append("hiro.goals = skills needs skills.dim of at least 1")
    counts = {name: getattr(hiro, name) for name in ("worker_updates", "actor_every", "candidates")}
    found += [f"hiro.{k} must be at least 1, not {v}" for k, v in counts.items() if v < 1]
    if not hiro.layers or min(hiro.layers) < 1:
        found.append(f"hiro.layers needs sizes of at least 1, not {hiro.layers}")
    if hiro.goal_range <= 0:
        found.append(f"hiro.goal_range must be above 0, not {hiro.goal_range}")
    if not hiro.worker_reward >= 0:
        found.append(f"hiro.worker_reward must be at least 0, not {hiro.worker_reward}")
    least = shortest_sequence(length)
    if config.replay.length < least:
        found.append(
            f"replay.length must be at least {least} for segments of {length} steps "
            f"(planner.skill_length), not {config.replay.length}"
        )
    return found
