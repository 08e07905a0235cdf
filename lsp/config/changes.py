"""Settings by the names that they have on the command line: `planner.horizon`."""

import dataclasses
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from lsp.config.config import Config
from lsp.config.serialization import from_dict, to_dict
from lsp.errors import UserError


def changed(config: Config, settings: Mapping[str, Any]) -> Config:
    """`config` with some settings changed.

    Args:
        config: the settings to start from; they stay as they are.
        settings: new values by name, such as `{"seed": 1, "planner.horizon": 20}`. Dashes may stand
            for underscores, and a whole section may be given: `{"planner": PlannerConfig(...)}`.

    Raises:
        UserError: there is no such setting, or a value is of another type.
    """
    values = to_dict(config)
    for name, value in settings.items():
        section, _, field = name.replace("-", "_").rpartition(".")
        place = values.get(section) if section else values
        if not isinstance(place, dict) or field not in place:
            raise UserError(_unknown(name, config))
        place[field] = to_dict(value) if dataclasses.is_dataclass(value) else value
    parsed: Config = from_dict(values, where="settings")
    return parsed


def setting_names(config: Config) -> list[str]:
    """All of them, as `changed` takes them: `["task", ..., "model.deter", ...]`."""
    names = []
    for name, value in to_dict(config).items():
        names += [f"{name}.{field}" for field in value] if isinstance(value, dict) else [name]
    return names


def _unknown(name: str, config: Config) -> str:
    known = setting_names(config)
    wanted = name.replace("-", "_")
    near = get_close_matches(wanted, known, n=1) or [
        each for each in known if each.rpartition(".")[2] == wanted
    ]
    hint = f": did you mean {near[0]}?" if near else ": lsp train --help-all lists them"
    return f"there is no setting {name!r}{hint}"
