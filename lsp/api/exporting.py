"""Packing a run as an agent: a small folder to share, evaluated before it is one."""

import os
import shlex
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import date
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

from torch import Tensor

from lsp.api.evaluating import check_count, evaluate, load_networks, spaces_in
from lsp.config import Config, TransferConfig, named_code, to_dict
from lsp.envs.lookup import Task
from lsp.envs.rewards import RewardFunction
from lsp.errors import UserError
from lsp.runs.agents import CARD, CONFIG, SCHEMA, SPACES, Card, find_run, sums_of
from lsp.runs.files import expanded, read_json, write_json
from lsp.runs.folder import RunFolder
from lsp.runs.metrics import read_metrics
from lsp.runs.packed import write_weights
from lsp.runs.signature import seal
from lsp.training.build import AnyNetworks
from lsp.training.evaluation import Evaluation

NOISE = 2.0  # so many standard errors of the difference are no loss
TOLERATED = 0.01  # of the return: where episodes hardly differ, noise is next to nothing


def export(
    run: str | Path,
    out: str | Path,
    episodes: int = 100,
    *,
    about: str = "",
    licence: str | None = None,
    full_precision: bool = False,
    device: str = "cpu",
    env: Task | None = None,
    reward: RewardFunction | None = None,
    trust: bool = False,
) -> Card:
    """Pack a run's newest checkpoint as an agent: a small folder without optimisers and episodes.

    The run and the agent are evaluated in the same episodes, and the agent with skills from N(0, I)
    too. Matrices are stored in half precision; where that loses more than 1 % of the return and
    two standard errors of the difference, nothing is written.

    Args:
        run: the run's folder.
        out: the agent's folder; its name is the agent's.
        episodes: of each evaluation, at least 2.
        about: what the agent does, for its card.
        licence: under which you share it, for its card.
        full_precision: store all weights in full precision, which takes twice the space.
        device: `cpu` or `cuda`.
        env: the task, where it was passed to `train` from Python.
        reward: the reward, where it was passed to `train` from Python.
        trust: as for `load`.

    Returns:
        The agent's card, as `lsp.agents` has it.

    Raises:
        UserError: where `evaluate` raises it; `run` is an agent; `out` is not empty or cannot be
            written; or half precision loses too much.
    """
    source, target = RunFolder(find_run(run)), expanded(out)
    _check(source, target, episodes)
    ask = partial(evaluate, episodes=episodes, device=device, env=env, reward=reward)
    before = ask(source.path, trust=trust)
    weights = _acting(load_networks(source.path, device, env, trust))
    with _made(target) as folder:
        _write_settings(folder, source, env)
        write_weights(folder, weights, half=not full_precision)
        card = _card(source, folder, before, full_precision)
        card = replace(card, about=about, licence=licence)
        write_json(folder / CARD, asdict(card))  # from here on it is an agent
        card = _evaluated(card, folder, before, partial(ask, trust=True))
        write_json(folder / CARD, asdict(card))
    return card


def _acting(networks: AnyNetworks) -> dict[str, Tensor]:
    """The weights of networks without what a transfer was held to, unless that acts."""
    weights, acts = networks.state_dict(), networks.config.fixes_behavior
    return {name: x for name, x in weights.items() if acts or not name.startswith("anchor.")}


def _write_settings(folder: Path, source: RunFolder, env: Task | None) -> None:
    """A run's settings but for where it began, and what it observes and does.

    Where the source's own policy acts that is told, with the source's id in place of its folder.
    """
    config = source.read_config()
    began = TransferConfig()
    if config.fixes_behavior:
        began = TransferConfig(
            read_json(source.path / "source.json")["run"],
            freeze_policy=True,
            anchor=config.transfer.anchor,
        )
    config = replace(config, transfer=began)
    write_json(folder / CONFIG, to_dict(config))
    if named_code(config):
        seal(folder / CONFIG)
    write_json(folder / SPACES, spaces_in(source, env)._asdict())


def _check(source: RunFolder, target: Path, episodes: int) -> None:
    if source.is_agent:
        raise UserError(f"{source.path} is an agent already: copy its folder")
    check_count("episodes", episodes, 2)  # to know their noise
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is not empty: choose another --out, or remove it")


@contextmanager
def _made(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` when the block ends, and is gone where it fails.

    Raises UserError where it cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="tmp-", dir=target.parent) as scratch:
            folder = Path(scratch) / target.name
            folder.mkdir()
            yield folder
            os.rename(folder, target)
    except OSError as error:
        raise UserError(
            f"cannot write to {target} ({error.strerror}): choose another --out"
        ) from error


def _card(source: RunFolder, folder: Path, before: Evaluation, full_precision: bool) -> Card:
    """What is known of an agent before it is evaluated; returns are the run's."""
    config, info = source.read_config(), read_json(source.path / "run.json")
    assert before.checkpoint is not None
    reached = _shortened(float(before.returns.mean()))
    return Card(
        schema=SCHEMA,
        about="",
        licence=None,
        task=config.task,
        reward=config.reward,
        method=config.method,
        preset=config.preset,
        obs=config.obs,
        seed=config.seed,
        run=source.id,
        source=_began_from(source, config),
        env_steps=before.checkpoint,
        precision="full" if full_precision else "half",
        episodes=len(before.returns),
        eval_return=reached,
        eval_std=0.0,
        success=None,
        full_return=reached,
        curve=_curve(source),
        prior_return=None,
        command=_portable(info.get("command")),
        commit=_commit(info),
        date=date.today().isoformat(),
        sums=sums_of(folder),
    )


def _evaluated(
    card: Card, folder: Path, before: Evaluation, ask: Callable[..., Evaluation]
) -> Card:
    """A card with what the agent earned. Raises UserError where it lost too much."""
    after, config = ask(folder), RunFolder(folder).read_config()
    _check_loss(before, after)
    has_prior = config.has_skills and config.method != "hiro"
    prior = ask(folder, skills="prior").returns.mean() if has_prior else None
    return replace(
        card,
        eval_return=_shortened(float(after.returns.mean())),
        eval_std=_shortened(float(after.returns.std())),
        success=None if after.success is None else float(after.success.mean()),
        prior_return=None if prior is None else _shortened(float(prior)),
    )


def _check_loss(before: Evaluation, after: Evaluation) -> None:
    """Raises UserError where an agent earns less than its run, beyond the noise."""
    if before.failed or after.failed:
        raise UserError("episodes failed, and cannot be compared: nothing is exported")
    lost = before.returns - after.returns
    noise = NOISE * float(lost.std(ddof=1)) / sqrt(len(lost))
    allowed = max(noise, TOLERATED * abs(float(before.returns.mean())))
    if lost.mean() > allowed:
        raise UserError(
            f"half precision loses {lost.mean():.4g} of a return of {before.returns.mean():.4g} "
            f"over {len(lost)} episodes, more than {allowed:.4g}: --full-precision keeps it"
        )


def _began_from(source: RunFolder, config: Config) -> str | None:
    """What a transfer started from, without where that lay."""
    if config.transfer.source is None:
        return None
    noted = read_json(source.path / "source.json")
    keys = ("method", "task", "seed", "env_steps")
    return "{} on {}, seed {}, {} env steps".format(*(noted.get(key) for key in keys))


def _portable(command: Any) -> str | None:
    """A run's command without folders of the machine that trained it."""
    if not isinstance(command, str):
        return None
    try:
        words = iter(shlex.split(command))
    except ValueError:
        return None
    kept = []
    for word in words:
        if word == "--logdir":
            next(words, None)
        elif not word.startswith("--logdir="):
            flag, equals, value = word.rpartition("=")
            kept.append(flag + equals + (Path(value).name if Path(value).is_absolute() else value))
    return shlex.join(kept)


def _curve(source: RunFolder) -> tuple[tuple[int, float], ...]:
    """A run's evaluations up to its newest checkpoint."""
    lines = read_metrics(source.path)
    evaluated = [line for line in lines if line["kind"] == "eval" and "eval/return" in line]
    return tuple((line["env_steps"], _shortened(line["eval/return"])) for line in evaluated)


def _commit(info: dict[str, Any]) -> str | None:
    commit = info.get("commit")
    if not isinstance(commit, str):
        return None
    return f"{commit}, with changes" if info.get("dirty") else commit


def _shortened(number: float) -> float:
    """To six digits."""
    return float(f"{number:.6g}")
