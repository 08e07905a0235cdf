"""Lists of settings on the command line of a sweep: every combination as a command line of its own.

A comma separates the alternatives, and spaces the members of a tuple, as ever:
`--planner.horizon 5,10 --policy.layers 400 400,64 64`.
"""

import re
from collections.abc import Sequence
from itertools import product
from typing import Any, get_type_hints

from lsp.config import Config, make_config, setting_names
from lsp.errors import UserError

_APART = {"task", "method", "seed", "preset"}
"""What a sweep crosses by itself, and what decides how it is computed."""
_SWITCH = {"true": True, "false": False}


def combinations(arguments: Sequence[str]) -> list[list[str]]:
    """The command lines that a sweep's own one stands for, each setting with one value.

    Raises:
        UserError: a list has an empty place, or a switch other alternatives than true and false.
    """
    parts = [_alternatives(flag, values) for flag, values in _flags(arguments)]
    return [[word for part in chosen for word in part] for chosen in product(*parts)]


def _flags(arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Each flag with the words after it; the first may be the command without one."""
    found: list[tuple[str, list[str]]] = [("", [])]
    for word in arguments:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            found.append((flag, [value] if equals else []))
        else:
            found[-1][1].append(word)
    return found


def _alternatives(flag: str, values: list[str]) -> list[list[str]]:
    """The words of a flag once for each of its alternatives."""
    name = flag.removeprefix("--").replace("-", "_")
    switch = _is_switch(name)
    if name not in _settings() or not values or not (switch or _has_comma(values)):
        words = [re.sub(r"\\,", ",", x) if name in _settings() else x for x in values]
        return [[*([flag] if flag else []), *words]]
    texts = [x.replace("\\,", ",").split() for x in re.split(r"(?<!\\),", " ".join(values))]
    if not all(texts):
        raise UserError(f"{flag} {' '.join(values)}: a list has no empty places")
    return [_switched(flag, text) if switch else [flag, *text] for text in texts]


def _has_comma(values: Sequence[str]) -> bool:
    return any(re.search(r"(?<!\\),", value) for value in values)


def _switched(flag: str, text: list[str]) -> list[str]:
    on = _SWITCH.get(text[0].lower()) if len(text) == 1 else None
    if on is None:
        raise UserError(f"{flag} is on or off: give true,false, not {' '.join(text)}")
    prefix, dot, name = flag.removeprefix("--").rpartition(".")
    return [f"--{prefix}{dot}{'' if on else 'no-'}{name}"]


def _settings() -> set[str]:
    return set(setting_names(make_config())) - _APART


def _is_switch(name: str) -> bool:
    kind: Any = Config
    for part in name.split("."):
        kind = get_type_hints(kind).get(part) if hasattr(kind, "__annotations__") else None
    return kind is bool
