"""Complaints about settings that lie outside of a range."""

from numbers import Integral

SEEDS = 2**32  # PyTorch would take more, numpy's older generators would not


def below(least: int, names: str, section: object, prefix: str = "") -> list[str]:
    """Complaints about those of the named settings that are less than `least`."""
    values = {name: getattr(section, name) for name in names.split()}
    return [
        f"{prefix}{name} must be at least {least}, not {value}"
        for name, value in values.items()
        if value is not None and not value >= least  # NaN neither
    ]


def no_share(names: str, section: object, prefix: str) -> list[str]:
    """Complaints about those of the named settings that are not between 0 and 1."""
    values = {name: getattr(section, name) for name in names.split()}
    return [
        f"{prefix}{name} must lie between 0 and 1, not {value}"
        for name, value in values.items()
        if value is not None and not 0 <= value <= 1
    ]


def no_seed(seed: int) -> list[str]:
    """The complaint about a number that no generator can be seeded with."""
    fits = isinstance(seed, Integral) and 0 <= seed < SEEDS
    return [] if fits else [f"seed must be at least 0 and below {SEEDS:,}, not {seed!r}"]


def no_count(name: str, value: int, least: int) -> list[str]:
    """The complaint about what is no whole number of at least `least`."""
    fits = isinstance(value, Integral) and not isinstance(value, bool) and value >= least
    return [] if fits else [f"{name} must be a whole number of at least {least}, not {value!r}"]
