"""What a run is, and the folder that its settings name: sweeps and figures share their runs."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from lsp.config import (
    Config,
    TransferConfig,
    differences,
    from_dict,
    make_config,
    to_dict,
    validated,
)
from lsp.errors import UserError
from lsp.report.settings import own_settings
from lsp.tasks import plain_name

MOST_SEEDS = 10_000
_LONGEST = 120  # of what a name says of settings; a file system takes 255 in all
_PAPER = make_config(preset="paper")
_PLAIN = replace(_PAPER, preset="fast", policy=replace(_PAPER.policy, stop_input_gradient=False))
"""What a run's name counts its settings from: `paper` as it was when runs were first named."""


@dataclass(frozen=True)
class PlannedRun:
    """One training: its settings and length. A transfer names the run that it starts from, and
    has no `transfer.source` of its own."""

    config: Config
    steps: int
    source: "PlannedRun | None" = None

    @cached_property
    def name(self) -> str:
        """Of its folder: readable, and one for one with the settings, of which it says those that
        are not its method's own. The length is no part of it, but that of the source is."""
        return "-".join([self._kind, *self._own_settings, self._key])

    @property
    def _former_name(self) -> str:
        """Of folders from before names said what differs."""
        return f"{self._kind}-{self._key}"

    @property
    def _kind(self) -> str:
        config = self.config
        task = plain_name(config.task) + ("-pixels" if config.obs == "pixels" else "")
        return f"{task}-{config.method}-{config.preset}-s{config.seed}"

    @cached_property
    def _key(self) -> str:
        text = ""
        if self.source is not None:
            text = f"{self.source._former_name} after {self.source.steps}"
        text += "\n".join(differences(_PLAIN, self.config))
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def _own_settings(self) -> list[str]:
        """`planner.horizon_5-policy.layers_64x64`, as far as names go; of a transfer, whose source
        the key stands for, nothing."""
        if self.source is not None:
            return []
        alone = replace(self.config, transfer=TransferConfig()).resolved()
        own = own_settings(to_dict(alone)).items()
        text = "-".join(f"{name}_{value.replace(' ', 'x')}" for name, value in own)
        return [re.sub(r"[^\w.,=-]", "-", text)[:_LONGEST]] if text else []

    def folder(self, storage: Path) -> Path:
        named, former = storage / self.name, storage / self._former_name
        return former if former.is_dir() and not named.is_dir() else named

    def log(self, storage: Path) -> Path:
        """What its process says."""
        return storage / "logs" / f"{self.name}.log"

    def settings(self, storage: Path) -> Config:
        """The run's settings, with the folder of its source."""
        if self.source is None:
            return self.config
        source = str(self.source.folder(storage).resolve())
        return replace(self.config, transfer=replace(self.config.transfer, source=source))

    def reached(self, storage: Path) -> int:
        """Env steps of the newest checkpoint; 0 where there is none."""
        from lsp.runs.folder import RunFolder

        return RunFolder(self.folder(storage)).reached

    def finished(self, storage: Path) -> bool:
        return self.reached(storage) >= self.steps

    def check_source(self, storage: Path) -> None:
        """Raises UserError where the source has not the length that this run is to start from, or
        what it ended with is damaged."""
        from lsp.runs.folder import RunFolder

        if self.source is None or self.reached(storage) > 0:
            return
        reached, wanted = self.source.reached(storage), self.source.steps
        if not wanted <= reached < wanted + self.config.action_repeat * self.config.num_envs:
            raise UserError(
                f"{self.source.folder(storage)} was trained for {reached:,} env steps, and "
                f"{self.name} starts from {wanted:,}: choose another --storage"
            )
        folder = RunFolder(self.source.folder(storage))
        newest = folder.newest_checkpoint()
        if newest is None or newest.env_steps < reached:
            raise UserError(
                f"{folder.checkpoints}: the newest is damaged, and {self.name} starts from it: "
                "remove it, then the same command trains that part again"
            )

    def command(self, storage: Path) -> list[str]:
        """The arguments of `lsp` that do this run alone."""
        settings = self.settings(storage)
        base = make_config(settings.method, settings.preset)
        chosen = ["train", "--preset", settings.preset, "--method", settings.method]
        length = ["--steps", str(self.steps), "--logdir", str(self.folder(storage))]
        return [*chosen, *_flags(base, settings), *length]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        source = None if self.source is None else self.source.to_dict()
        return {"config": to_dict(self.config), "steps": self.steps, "source": source}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "PlannedRun":
        """The inverse of `to_dict`."""
        source = None if values["source"] is None else PlannedRun.from_dict(values["source"])
        return PlannedRun(from_dict(values["config"]), values["steps"], source)


def grid(
    configs: Iterable[Config], tasks: Iterable[str], seeds: Sequence[int], steps: int
) -> list[PlannedRun]:
    """Every task with every settings and seed. Raises UserError if a setting makes no sense."""
    if steps < 0:
        raise UserError(f"steps must be at least 0, not {steps}")
    runs = [
        PlannedRun(validated(replace(config, task=task, seed=seed)), steps)
        for config in map(_with_absolute_source, configs)
        for task in tasks
        for seed in seeds
    ]
    return unique(sorted(runs, key=lambda run: run.config.seed))


def _with_absolute_source(config: Config) -> Config:
    """The folder that a transfer starts from is part of a run's name, however it is spelled. Raises
    UserError if it is no run's."""
    from lsp.runs.agents import find_run
    from lsp.runs.folder import RunFolder

    if config.transfer.source is None:
        return config
    path = find_run(config.transfer.source).resolve()
    RunFolder(path).read_config()
    return replace(config, transfer=replace(config.transfer, source=str(path)))


def unique(runs: Iterable[PlannedRun]) -> list[PlannedRun]:
    """Each run once, for the longest of its lengths, sources included and before what needs
    them."""
    found: dict[str, PlannedRun] = {}
    for run in runs:
        for each in _with_sources(run):
            known = found.get(each.name)
            if known is None or known.steps < each.steps:
                found[each.name] = each
    return list(found.values())


def _with_sources(run: PlannedRun) -> Iterator[PlannedRun]:
    if run.source is not None:
        yield from _with_sources(run.source)
    yield run


def parse_seeds(text: str) -> list[int]:
    """`0-4` or `0,3,7` or both. Raises UserError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None:
            raise UserError(f"--seeds {text}: write 0-4, or 0,3,7")
        first, last = int(match[1]), int(match[2] or match[1])
        if not 0 <= last - first < MOST_SEEDS:
            raise UserError(f"--seeds {text}: {part.strip()} is none, or more than {MOST_SEEDS:,}")
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))


def _flags(base: Any, changed: Any, prefix: str = "") -> list[str]:
    """Command line flags that turn the settings `base` into `changed`."""
    flags, hints = [], get_type_hints(type(base))
    for each in fields(base):
        before, now = getattr(base, each.name), getattr(changed, each.name)
        if is_dataclass(before):
            flags += _flags(before, now, f"{prefix}{each.name}.")
        elif before != now:
            flags += _flag(prefix, each.name, now, hints[each.name])
    return flags


def _flag(prefix: str, name: str, value: Any, hint: Any) -> list[str]:
    if hint is bool:
        return [f"--{prefix}{'' if value else 'no-'}{name.replace('_', '-')}"]
    values = value if isinstance(value, tuple) else (value,)
    return [f"--{prefix}{name}", *map(str, values)]


class Outcome(NamedTuple):
    """How a set of runs ended: why some failed, by name, and whether someone stopped them."""

    failed: dict[str, str]
    stopped: bool
