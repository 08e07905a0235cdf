"""What tells runs of a method apart: their settings, by the names of the command line's flags."""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from lsp.config import (
    ADDED,
    Config,
    TransferConfig,
    flattened,
    make_config,
    on_another_task,
    to_dict,
)
from lsp.errors import UserError

NAMED_ELSEWHERE = {"task", "method", "preset", "obs", "seed", "reward", "transfer.source"}
"""Columns and file names have these; a path is nothing that a run does."""
VARIANTS = {
    f"transfer.{name}"
    for name in (
        *("freeze_policy", "relabel", "keep_replay", "reset", "new_share"),
        *("anchor", "anchor_steps", "anchor_rate"),
    )
}
"""Of a transfer, in the names of tables: "lsp-frozen"."""
_LENGTHS = {"planner.skill-length", "planner.horizon"}
"""Of a transfer, in columns of its table."""
MEASURING = "schedule.", {"prefill", "pretrain", "update_every"}
"""The rest of the schedule says when a run is measured and saved, which it does not learn from."""


def own_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Settings in which a run differs from its method at its preset, by flag, and their values.

    Such as `{"planner.horizon": "20", "policy.layers": "64 64"}`. Left out is what a table says
    elsewhere: task, method, preset, observations, seed, reward and a transfer's variant, K and H;
    the places of files; and when a run is measured.

    Args:
        config: all settings as nested dictionaries (config.json). Those of another version are
            compared as far as the two have the same; what came later has the value that does what
            was done before.
    """
    base, told = _method_settings(config), _LENGTHS if _is_transfer(config) else set()
    return {
        name: text
        for name, text in all_settings(config).items()
        if name in base and text != base[name] and name not in told
    }


def all_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """The settings that can tell runs apart, by flag; those that an older run lacks, as it did."""
    transferred = _is_transfer(config)
    older = {name: x for name, x in ADDED.items() if config.get(name.partition(".")[0])}
    return {
        flag(name): _text(value)
        for name, value in flattened(older | dict(config)).items()
        if name not in NAMED_ELSEWHERE and not _is_measuring(name)
        if not (name in VARIANTS if transferred else name.startswith("transfer."))
    }


def joined(settings: Mapping[str, str], separator: str = "; ") -> str:
    """`planner.horizon 20; policy.layers 64 64`."""
    return separator.join(f"{name} {text}" for name, text in settings.items())


def parsed(text: str) -> dict[str, str]:
    """The inverse of `joined`."""
    parts = (part.partition(" ") for part in text.split("; ") if part)
    return {name: value for name, _, value in parts}


def differing(groups: Iterable[Mapping[str, str]]) -> set[str]:
    """Names whose values are not the same in all groups of settings."""
    every = list(groups)
    names = {name for each in every for name in each}
    return {name for name in names if len({each.get(name) for each in every}) > 1}


def flag(name: str) -> str:
    """A setting's name on the command line, without the dashes before it."""
    return name.rstrip("_").replace("_", "-") + "_" * name.endswith("_")


def _method_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Those of the method at the preset, as far as this version knows them."""
    named = config["method"], config["preset"], config["task"]
    try:
        if _is_transfer(config):
            return all_settings(to_dict(_transferred(_base(*named), config).resolved()))
        return _from_scratch(*named)
    except UserError:
        return {}


@cache
def _from_scratch(method: str, preset: str, task: str) -> dict[str, str]:
    """A figure asks for the same ones hundreds of times."""
    return all_settings(to_dict(_base(method, preset, task).resolved()))


def _base(method: str, preset: str, task: str) -> Config:
    return make_config(method, preset, task=task)


def _transferred(base: Config, config: Mapping[str, Any]) -> Config:
    """What a transfer makes of them, with the K and H that it has."""
    length, horizon = (config["planner"].get(key) for key in ("skill_length", "horizon"))
    looks_ahead = base.plans_actions or (base.plans_skills and base.method != "hiro")
    keeps_length = not base.has_skills or length in (None, base.planner.skill_length)
    keeps_horizon = not looks_ahead or horizon in (None, base.planner.horizon)
    return on_another_task(
        base,
        base.task,
        TransferConfig(
            config["transfer"]["source"],
            freeze_policy=config["transfer"].get("freeze_policy", False),
            anchor=config["transfer"].get("anchor", 0.0),
        ),
        None if keeps_length else length,
        None if keeps_horizon else horizon,
    )


def _is_transfer(config: Mapping[str, Any]) -> bool:
    return bool(config.get("transfer", {}).get("source"))


def _is_measuring(name: str) -> bool:
    prefix, learned_from = MEASURING
    return name.startswith(prefix) and name.removeprefix(prefix) not in learned_from


def _text(value: Any) -> str:
    """As it is typed: the members of a tuple with spaces between them."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    # JSON may hold 1 for 1.0.
    return f"{value:g}" if isinstance(value, float) else str(value)
