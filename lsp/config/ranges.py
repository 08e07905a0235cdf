"""Complaints about settings that lie outside of a range."""


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
