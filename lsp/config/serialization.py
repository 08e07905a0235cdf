"""Settings as they are written to JSON and read again, and compared."""

import dataclasses
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lsp.config.config import Config
from lsp.config.planner_settings import ActionsConfig
from lsp.errors import UserError

ADDED: dict[str, Any] = {
    "images": None,
    "actions": dataclasses.asdict(ActionsConfig()),
    "policy.stop_input_gradient": False,
    "policy.entropy": 0.0,
    "optimizer.average_rate": 0.0,
    "skills.proposal": "normal",
    "skills.proposal_min_std": 0.2,
    "skills.reads": (),
    "skills.estimator": "backward",
    "planner.acting_iterations": None,
    "planner.acting_horizon": None,
    "planner.replan_every": None,
    "planner.refit": "cem",
    "planner.temperature": 0.02,
    "planner.step_size": 0.3,
    "planner.min_std": 0.05,
    "transfer.anchor_rate": 0.0,
    "transfer.new_share": 0.0,
}
"""Settings that older runs lack, each with the value that does what they did."""


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain dict, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(values: Any, kind: type = Config, where: str = "config") -> Any:
    """The inverse of `to_dict`, of older runs too. Raises UserError naming any field it does not
    know or lacks, or whose value is of another type."""
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected settings by name, not {values!r:.40}")
    hints, section = get_type_hints(kind), where.removeprefix("config").removeprefix(".")
    paths = {name: f"{section}.{name}".removeprefix(".") for name in hints}
    values = {name: ADDED[path] for name, path in paths.items() if path in ADDED} | values
    unknown, missing = set(values) - set(hints), set(hints) - set(values)
    if unknown or missing:
        # What no setting can be called is quoted: it may hold a line break.
        names = ", ".join(n if n.isidentifier() else repr(n) for n in sorted(unknown | missing))
        raise UserError(f"{where}: unknown or missing settings: {names}")
    parsed = {}
    for name, hint in hints.items():
        value = values[name]
        if dataclasses.is_dataclass(hint):
            value = from_dict(value, hint, f"{where}.{name}")  # type: ignore[arg-type]
        parsed[name] = _converted(value, hint)
        if not _fits(parsed[name], hint):
            raise UserError(f"{where}: {name} cannot be {value!r:.40}")
    return kind(**parsed)


def _converted(value: Any, hint: Any) -> Any:
    """JSON has no tuples, and 1.0 may be written as 1."""
    if isinstance(value, list):
        inner = get_args(hint)
        return tuple(_converted(each, inner[0] if inner else None) for each in value)
    whole = type(value) is int and abs(value) < 2**53
    return float(value) if whole and hint in (float, float | None) else value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON is of the type that a field has."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Literal:
        return isinstance(value, str) and value in inner
    if kind in (UnionType, Union):  # the second where a Literal may be None
        return any(_fits(value, each) for each in inner)
    if kind is tuple:
        open_ended = inner[-1] is Ellipsis
        each = [inner[0]] * len(value) if open_ended and isinstance(value, tuple) else inner
        fits = isinstance(value, tuple) and len(value) == len(each)
        return fits and all(_fits(*pair) for pair in zip(value, each))
    return type(value) is hint


def differences(one: Config, other: Config) -> list[str]:
    """`planner.horizon: 10 → 20` for every setting in which the two differ, once resolved."""
    flat_one, flat_other = (flattened(to_dict(config.resolved())) for config in (one, other))
    return [
        f"{name}: {flat_one[name]} → {flat_other[name]}"
        for name in flat_one
        if flat_one[name] != flat_other[name]
    ]


def flattened(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by one name each: `{"planner.horizon": 10}`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
