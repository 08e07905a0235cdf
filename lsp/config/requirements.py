"""Which versions of other packages are required, and what is installed in their place."""

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

PACKAGE = "latent-skill-planning"


@cache
def required() -> dict[str, Requirement]:
    """By the name of the package; none where this one runs without being installed."""
    try:
        lines = requires(PACKAGE) or []
    except PackageNotFoundError:
        return {}
    needed = [Requirement(line) for line in lines if "extra ==" not in line]
    return {_plain(each.name): each for each in needed}


def unmet(package: str) -> str | None:
    """`>=3.17,<4 is required` where another version is installed, or none."""
    needed = required().get(_plain(package))
    if needed is None:
        return None
    try:
        fits = needed.specifier.contains(version(package), prereleases=True)
    except PackageNotFoundError:
        fits = False
    return None if fits else f"{needed.specifier or 'any version'} is required"


def mismatch(*packages: str) -> str:
    """For people: which of them have other versions than required; empty where none has."""
    found = {name: unmet(name) for name in packages}
    problems = [f"{name} {_installed(name)}, where {why}" for name, why in found.items() if why]
    if not problems:
        return ""
    return f"installed is {' and '.join(problems)}; lsp doctor compares all of them"


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not at all"


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
