"""Which settings make sense, alone and together: a function for each section."""

from collections.abc import Callable
from dataclasses import replace
from math import isfinite

from lsp.config.config import Config
from lsp.config.planner_checks import PLANNING, WHILE_ACTING
from lsp.config.ranges import below, no_seed, no_share
from lsp.config.serialization import flattened, from_dict, to_dict
from lsp.config.settings import SkillsConfig, TransferConfig
from lsp.errors import UserError


def validated(config: Config) -> Config:
    """The same, with what may be spelled in several ways spelled in one. Raises UserError in one
    line if a setting makes no sense, or is of another type."""
    config = from_dict(to_dict(config))
    reset = tuple(sorted(set(config.transfer.reset)))
    config = replace(config, transfer=replace(config.transfer, reset=reset))
    for section in SECTIONS:
        for problem in section(config):
            raise UserError(problem)
    return config


def shortest_sequence(skill_length: int) -> int:
    """Agent steps that a sequence of HIRO's replay needs: wherever it begins, a whole segment and a
    step after it must lie in it."""
    return max(2 * skill_length, skill_length + 2)


_MOST_LAYERS = 64
_WIDEST = 2**13
_MOST = {
    **dict.fromkeys(("model.deter", "model.stoch", "model.hidden", "skills.dim"), _WIDEST),
    **dict.fromkeys(("model.cnn_depth", "num_envs"), 1024),
    **dict.fromkeys(("planner.horizon", "planner.num_iterations", "behavior.horizon"), 10**4),
    **dict.fromkeys((f"planner.{name}" for name in WHILE_ACTING), 10**4),
    **dict.fromkeys(("actions.length", "actions.num_iterations"), 10**4),
    **dict.fromkeys(("actions.num_candidates", "actions.policy_candidates"), 10**6),
    **dict.fromkeys(("planner.num_candidates", "policy.mode_samples", "skills.num_states"), 10**6),
    **dict.fromkeys(("replay.batch", "replay.length", "behavior.rollouts_per_start"), 10**6),
    **dict.fromkeys(("schedule.eval_episodes", "schedule.prior_episodes"), 10**6),
    "action_repeat": 10**6,
}
"""Beyond these a machine is busy until it is out of memory: they come from elsewhere."""


_RATES = ("learning_rate", "slow_rate", "critic_rate", "actor_rate")
_POSITIVE = (*_RATES, "optimizer.epsilon", "optimizer.clip")


def _numbers(config: Config) -> list[str]:
    """Of all settings at once: numbers are finite, and text can be shown."""
    found = []
    for name, value in flattened(to_dict(config)).items():
        each = value if isinstance(value, tuple) else (value,)
        if not all(isfinite(x) for x in each if isinstance(x, float)):
            found.append(f"{name} must be finite, not {value}")
        if not all(x.isprintable() for x in each if isinstance(x, str)):
            found.append(f"{name} cannot hold control characters: {value!r:.40}")
        if not all(abs(x) < 2**53 for x in each if isinstance(x, int)):
            found.append(f"{name} must be below {2**53:,}, not {value!r:.40}")
        if isinstance(value, int) and value > _MOST.get(name, value):
            found.append(f"{name} must be at most {_MOST[name]:,}, not {value}")
        if name.endswith(_POSITIVE) and not value > 0:
            found.append(f"{name} must be above 0, not {value}")
    return found


def _layers(config: Config) -> list[str]:
    """Of every network."""
    model, found = config.model, []
    named = {f"model.{name}": getattr(model, name) for name in ("encoder", "decoder", "reward")}
    for name in ("policy", "value", "skills", "hiro"):
        named[f"{name}.layers"] = getattr(config, name).layers
    for name, layers in named.items():
        if len(layers) > _MOST_LAYERS:
            found.append(f"{name} must be at most {_MOST_LAYERS} layers, not {len(layers)}")
        if any(not 1 <= size <= _WIDEST for size in layers):
            found.append(f"{name} needs sizes between 1 and {_WIDEST:,}, not {str(layers)[:40]}")
    return found


def _run(config: Config) -> list[str]:
    found = below(1, "action_repeat num_envs", config) + no_seed(config.seed)
    return found + no_share("average_rate", config.optimizer, "optimizer.")


def _model(config: Config) -> list[str]:
    found = below(1, "deter stoch hidden cnn_depth decoded_images", config.model, "model.")
    return found + below(0, "min_std", config.model, "model.")


def _policy(config: Config) -> list[str]:
    policy = config.policy
    found = below(0, "exploration_noise mode_samples entropy min_std", policy, "policy.")
    if policy.entropy > 0 and (config.plans_actions or config.method == "hiro"):
        found.append(f"policy.entropy needs a policy in a world model, which {config.method} lacks")
    return found + no_share("prior_share", policy, "policy.")


def _value(config: Config) -> list[str]:
    value, found = config.resolved().value, []
    if not 0 < value.slow_rate <= 1:
        found.append(f"value.slow_rate must lie in (0, 1], not {value.slow_rate}")
    if value.states != "observed":
        return found
    if config.has_intrinsic and value.covers != "task":
        found.append(
            "value.covers = total needs value.states = imagined: the replay knows no intrinsic "
            "reward"
        )
    if config.replay.length < 2:
        found.append("value.states = observed needs a replay.length of at least 2")
    return found


def _skills(config: Config) -> list[str]:
    skills = config.skills
    found = below(0, "dim input_noise", skills, "skills.")
    found += below(1, "num_states", skills, "skills.")
    if skills.reads and (not config.has_intrinsic or config.method == "hiro"):
        found.append(f"skills.reads needs skills paid for in a model: not {config.method}")
    if skills.estimator == "forward":
        found += _forward(config)
    relative = skills.intrinsic_unit == "return"
    if config.has_intrinsic and relative and config.value.covers != "task":
        found.append(
            "skills.intrinsic_unit = return needs value.covers = task: otherwise the "
            "intrinsic reward would be measured against itself"
        )
    return found


def _forward(config: Config) -> list[str]:
    """Of the estimator that compares the rollouts of a start."""
    if not config.has_intrinsic or config.method == "hiro":
        return [f"skills.estimator = forward needs skills paid for in a model: not {config.method}"]
    found = below(2, "rollouts_per_start", config.behavior, "behavior.")
    return [f"{each}: skills.estimator = forward compares them" for each in found]


def _proposal(config: Config) -> list[str]:
    """Where plans begin."""
    skills, planner, found = config.skills, config.planner, []
    if not 0 < skills.proposal_min_std < 1:
        found.append(
            f"skills.proposal_min_std must lie between 0 and 1, not {skills.proposal_min_std}"
        )
    if skills.proposal == "normal":
        changed = skills.proposal_min_std != SkillsConfig().proposal_min_std
        return found + ["skills.proposal_min_std needs skills.proposal = learned"] * changed
    if not config.plans_skills or config.method == "hiro":
        found.append(f"skills.proposal = learned: {config.method} plans no skills in a world model")
    if planner.scope == "shared":
        found.append("skills.proposal = learned needs planner.scope = per_state")
    if planner.warm_start:
        found.append("a plan begins from skills.proposal = learned or planner.warm_start, not both")
    if config.replay.length < 2:
        found.append("skills.proposal = learned needs a replay.length of at least 2")
    return found


def _behavior(config: Config) -> list[str]:
    behavior, states = config.behavior, config.own_sequences * config.replay.length
    found = below(1, "horizon rollouts_per_start", behavior, "behavior.")
    found += no_share("prior_share", behavior, "behavior.")
    if behavior.prior_share == 1:
        found.append("behavior.prior_share must be below 1: v learns from planned skills alone")
    starts = behavior.num_starts
    if starts is not None and not 1 <= starts <= states:
        found.append(
            f"behavior.num_starts must be between 1 and the batch's {states} states, not {starts}"
        )
    if not 0 < behavior.discount <= 1 or not 0 <= behavior.lambda_ <= 1:
        found.append("behavior.discount and behavior.lambda_ must lie between 0 and 1")
    return found


def _replay(config: Config) -> list[str]:
    return below(1, "batch length", config.replay, "replay.")


def _schedule(config: Config) -> list[str]:
    schedule = config.schedule
    ones = "update_every log_every final_episodes save_every"
    zeros = "prefill pretrain eval_every eval_episodes prior_episodes"
    return below(1, ones, schedule, "schedule.") + below(0, zeros, schedule, "schedule.")


def _transfer(config: Config) -> list[str]:
    transfer, method = config.transfer, config.method
    found = below(0, "updates anchor", transfer, "transfer.")
    # What is off is not chosen: runs have noted that as 0 and as None.
    chosen = [x for name, x in vars(transfer).items() if x and x != getattr(TransferConfig(), name)]
    if transfer.source is None and chosen:
        found.append("transfer settings need a transfer.source, the folder of a run")
    if not transfer.relabel and transfer.updates != TransferConfig().updates:
        found.append("transfer.updates are those on a relabelled replay: it needs transfer.relabel")
    lacking = {
        "reward": method == "hiro",
        "value": config.plans_actions or method == "hiro",
    }
    found += [
        f"transfer.reset {head}: {method} has no such head"
        for head in transfer.reset
        if lacking[head]
    ]
    if transfer.freeze_policy and config.plans_actions:
        found.append("transfer.freeze_policy needs a policy, and this method plans actions")
    if transfer.freeze_policy and method == "hiro":
        found.append("transfer.freeze_policy needs a planner that adapts, which hiro lacks")
    return found + _anchor(config)


def _anchor(config: Config) -> list[str]:
    """How a transfer holds on to its source."""
    transfer, method, found = config.transfer, config.method, []
    if transfer.anchor and (config.plans_actions or method == "hiro"):
        found.append(f"transfer.anchor holds a policy in a world model, which {method} lacks")
    if transfer.keep_replay and method == "hiro":
        found.append("transfer.keep_replay is for learning a world model, which hiro lacks")
    if transfer.keep_replay and config.replay.batch < 2:
        found.append("transfer.keep_replay needs a replay.batch of at least 2")
    found += below(1, "anchor_steps", transfer, "transfer.")
    found += [
        f"transfer.{name} needs a transfer.anchor"
        for name in ("anchor_steps", "anchor_rate")
        if getattr(transfer, name) and not transfer.anchor
    ]
    if transfer.anchor_rate and transfer.freeze_policy:
        found.append("transfer.anchor_rate: a frozen policy would be held to itself")
    return found + _shares(config)


def _shares(config: Config) -> list[str]:
    transfer = config.transfer
    found = [
        f"transfer.{name} must be at least 0 and below 1, not {getattr(transfer, name)}"
        for name in ("anchor_rate", "new_share")
        if not 0 <= (getattr(transfer, name) or 0.0) < 1
    ]
    if transfer.new_share and not transfer.relabel:
        found.append("transfer.new_share is that of a relabelled replay: it needs transfer.relabel")
    return found


def _hiro(config: Config) -> list[str]:
    if config.method != "hiro":
        return []
    hiro, length, found = config.hiro, config.planner.skill_length, []
    if config.obs == "pixels":
        found.append(
            "method hiro needs --obs proprio: HIRO has not been shown to work from images "
            "(Nachum et al. 2018), and LSP's paper has no curves of it from pixels"
        )
    if hiro.goals == "skills" and not config.has_skills:
        found.append("hiro.goals = skills needs skills.dim of at least 1")
    found += below(1, "worker_updates actor_every candidates", hiro, "hiro.")
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


SECTIONS: tuple[Callable[[Config], list[str]], ...] = (
    *(_run, _model, _policy, _skills, *PLANNING, _proposal, _replay, _schedule),
    *(_behavior, _value, _transfer, _hiro, _numbers, _layers),
)
"""What is wrong with each section, a sentence each; sizes before what depends on them, and
what holds of all settings last."""
