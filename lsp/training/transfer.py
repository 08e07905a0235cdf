"""Starting from what another run has learned, on another task with the same body (section 4.3)."""

import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lsp.algorithm.amortized import blank_plans
from lsp.config import Config, TransferConfig, on_another_task
from lsp.errors import UserError
from lsp.models.networks import Networks
from lsp.runs.agents import find_run
from lsp.runs.folder import RunFolder
from lsp.runs.spaces import spaces_of
from lsp.training.build import AnyNetworks
from lsp.training.episode_files import Episode
from lsp.training.parts import EnvMaker, count_episodes, weights_of
from lsp.training.relabel import Relabel, reads_states, relabelled, rewards_of
from lsp.training.replay import Replay
from lsp.training.trainer import Trainer

_OWN = {
    "acting_horizon",
    "prior_weight",
    "plan_lambda",
    "min_std",
    "action_candidates",
    "final_episodes",
}
"""What `on_another_task` takes besides top-level settings."""


def transferred(
    source: Path,
    task: str,
    transfer: TransferConfig | None = None,
    skill_length: int | None = None,
    horizon: int | None = None,
    *,
    logdir: Path | None = None,
    **changes: Any,
) -> Config:
    """The settings of a run on `task`, in `logdir`, that starts from the run in `source`, or from
    the agent of that name.

    They are its own, with K and H changed where they are given; `changes` are the other settings of
    `on_another_task` and top-level fields, but none that decides what its weights are.

    Raises UserError if `source` is no run, or something cannot be changed.
    """
    _check_changes(source, transfer, changes)
    if logdir is not None and logdir.resolve() == source.resolve():
        raise UserError(f"{logdir} is the run to start from: choose another --logdir")
    transfer = replace(transfer or TransferConfig(), source=str(source))
    own = source_settings(source, logdir)
    return on_another_task(own, task, transfer, skill_length, horizon, **changes)


def _check_changes(source: Path, transfer: object, changes: dict[str, Any]) -> None:
    """Raises UserError for what a transfer cannot change, or nothing has."""
    for name in sorted({"method", "preset", "obs"} & set(changes)):
        raise UserError(f"a transfer keeps its source's {name}: leave it out")
    known = {each.name for each in fields(Config)} | _OWN
    for name in sorted(set(changes) - known):
        raise UserError(f"a transfer has no setting {name!r}")
    if transfer is None:
        return
    if not isinstance(transfer, TransferConfig):
        raise UserError(f"transfer must be a TransferConfig, not {type(transfer).__name__}")
    if transfer.source is not None and Path(transfer.source) != source:
        raise UserError(f"two sources: {source} and {transfer.source}")


def source_settings(source: Path, logdir: Path | None = None) -> Config:
    """Those of the run in `source`. Where it is gone, a transfer from it that is under way in
    `logdir` resumes with its own. Raises UserError where neither is there."""
    own = None if logdir is None else RunFolder(logdir)
    try:
        return RunFolder(find_run(source)).read_config()
    except UserError:
        if own is None or not own.has_checkpoint or not own.started_from(source):
            raise
        return own.read_config()


def check(config: Config, make_env: EnvMaker) -> None:
    """Raises UserError, with both spaces, where the source's task has others than this one; and
    where its replay is to be relabelled or kept and there is none, or it has another body, another
    action repeat or other goals."""
    folder = _source(config)
    if config.transfer.relabel or config.transfer.keep_replay:
        flag = "--relabel" if config.transfer.relabel else "--keep-replay"
        folder.check_episodes(f"{flag} needs", "leave that out")
    source, noted = folder.read_config(), folder.read_spaces()
    relabel, held = config.transfer.relabel, (source.action_repeat, config.action_repeat)
    if relabel and held[0] != held[1]:
        raise UserError(
            f"{config.transfer.source}: its actions were held for {held[0]} env steps, not "
            f"{held[1]}: keep its action_repeat, or do not relabel its replay"
        )
    if relabel and config.method == "hiro" and _goals(source) != _goals(config):
        raise UserError(
            f"{config.transfer.source}: its goals were {' for '.join(_goals(source))} agent steps, "
            f"not {' for '.join(_goals(config))}: keep them, or do not relabel its replay"
        )
    if noted is None:
        return  # the weights will tell
    env = make_env()
    spaces, by_states = spaces_of(env), reads_states(env)
    env.close()
    if not noted.fits(spaces):
        raise UserError(
            f"{folder.path}: nothing can be carried over from {source.task} to {config.task}, "
            f"which observe or do different things: {noted} against {spaces}"
        )
    if relabel and by_states and noted.body != spaces.body:
        raise UserError(
            f"{source.task} has another body than {config.task}, which cannot pay its states: do "
            "not relabel its replay"
        )


def _goals(config: Config) -> tuple[str, str]:
    """Of HIRO's manager, which the replay notes: of which kind, and held for how long."""
    return config.hiro.goals, str(config.planner.skill_length)


def begin(trainer: Trainer) -> None:
    """Carry over to a fresh trainer what `config.transfer` says: weights, and with `relabel` the
    replay, relabelled. From then on the policy acts, in the prefill too.

    Raises UserError if the source has no checkpoint, or its weights, episodes or states are none
    for this task.
    """
    config = trainer.config
    folder = _source(config)
    checkpoint = folder.newest_checkpoint()
    if checkpoint is None:
        raise UserError(f"{folder.path} has no checkpoint yet: train it first")
    source, weights = folder.read_config(), weights_of(checkpoint, folder)
    weights |= _anchor_weights(trainer.networks, weights, source)
    carry_over(trainer.networks, weights, folder.path)
    trainer.folder.write_source(folder.path, source, checkpoint.env_steps)
    count = count_episodes(checkpoint, folder)
    if config.transfer.relabel:
        _take_over_replay(trainer, folder, count)
    kept = _kept_replay(trainer, folder, count) if config.transfer.keep_replay else None
    trainer.start_from_source(kept)


def _kept_replay(trainer: Trainer, source: RunFolder, count: int) -> Replay:
    """The first `count` episodes of the source, copied into the run's folder, relabelled where the
    new task's rewards can be known."""
    rewards = _rewards_where_known(trainer, source)
    # A transfer that was killed while it began leaves some.
    shutil.rmtree(trainer.folder.source_episodes, ignore_errors=True)
    kept = Replay(trainer.folder.source_episodes, None, trainer.folder.id)
    for episode in _episodes(source, count, trainer.config):
        paid = rewards is not None and ("sim_state" in episode or not _by_states(trainer))
        if rewards is not None and paid:
            episode = relabelled(episode, rewards, source.path)
        kept.add(episode | {"is_paid": np.full(len(episode["reward"]), paid)})
    kept.store()
    _refuse_too_few(kept, trainer.config, source)
    return kept


def _rewards_where_known(trainer: Trainer, source: RunFolder) -> Relabel | None:
    """What the new task pays for the source's episodes; None where that cannot be known."""
    env, task = trainer.parts.env, trainer.config.task
    noted, spaces = source.read_spaces(), spaces_of(env)
    same_body = noted is not None and noted.body == spaces.body
    same_repeat = source.read_config().action_repeat == trainer.config.action_repeat
    if not same_repeat or (_by_states(trainer) and not same_body):
        return None
    try:
        return rewards_of(env, task)
    except UserError:  # neither observations nor states say what it pays
        return None


def _by_states(trainer: Trainer) -> bool:
    return reads_states(trainer.parts.env)


def _episodes(source: RunFolder, count: int, config: Config) -> Iterator[Episode]:
    """Those of the source, without its plans: they were made for its own reward, K and H."""
    if not source.episodes.is_dir():
        raise source.no_episodes()
    for episode in Replay.stream(source.episodes, count, source.id):
        yield episode | blank_plans(len(episode["reward"]), config)


def _refuse_too_few(replay: Replay, config: Config, source: RunFolder) -> None:
    rows, needed = len(replay), config.replay.length
    if rows < needed:
        raise UserError(
            f"{source.path} has {rows} agent steps of whole episodes, too few for sequences of "
            f"{needed}: train it further, or neither relabel nor keep its replay"
        )


def _take_over_replay(trainer: Trainer, source: RunFolder, count: int) -> None:
    """The first `count` episodes of the source, relabelled."""
    rewards = rewards_of(trainer.parts.env, trainer.config.task)
    for episode in _episodes(source, count, trainer.config):
        trainer.replay.add(relabelled(episode, rewards, source.path))
    _refuse_too_few(trainer.replay, trainer.config, source)


def carry_over(networks: AnyNetworks, weights: dict[str, torch.Tensor], source: Path) -> None:
    """Take over all weights but those of `config.transfer.reset`, which stay as they are.

    Raises UserError naming a weight that does not fit.
    """
    fresh = {name: x.clone() for name, x in networks.state_dict().items()}
    # ζ of the literal Algorithm 1 has a length that K and H decide.
    kept = {name for name in fresh if name.startswith("shared_")}
    kept |= _proposal_of_another_length(fresh, weights)
    if "reward" in networks.config.transfer.reset:
        kept |= {name for name in fresh if name.startswith("world_model.reward_head.")}
    taken = {name: weights.get(name) for name in fresh if name not in kept}
    for name, weight in taken.items():
        if weight is None or weight.shape != fresh[name].shape:
            shape = "missing" if weight is None else list(weight.shape)
            raise UserError(
                f"{source}: its weights are not those of this run's settings ({name} is {shape}, "
                f"not {list(fresh[name].shape)}): lsp transfer takes the source's own"
            )
    networks.load_state_dict(fresh | taken)
    if not isinstance(networks, Networks) or networks.config.plans_actions:
        return  # HIRO's critics start from what they were
    if "value" in networks.config.transfer.reset:
        _reset_value(networks, fresh)


def _proposal_of_another_length(
    fresh: dict[str, torch.Tensor], weights: dict[str, torch.Tensor]
) -> set[str]:
    """The weights of q(z | s), where K and H make plans of other lengths: it is learned anew."""
    names = {name for name in fresh if name.startswith("proposal.")}
    same = all(name in weights and weights[name].shape == fresh[name].shape for name in names)
    return set() if same else names


def _anchor_weights(
    networks: AnyNetworks, weights: dict[str, torch.Tensor], source: Config
) -> dict[str, torch.Tensor]:
    """Those of the anchor, which is what the source does: its model and policy as they are now.
    Where these do not act, its behaviour being fixed, its own anchor is carried over."""
    transfer = networks.config.transfer
    if not transfer.anchor or (source.fixes_behavior and not transfer.anchor_rate):
        return {}
    names = [n.removeprefix("anchor.") for n in networks.state_dict() if n.startswith("anchor.")]
    homes = {n: n if n.startswith("policy.") else f"world_model.{n}" for n in names}
    return {f"anchor.{n}": weights[home] for n, home in homes.items() if home in weights}


def _reset_value(networks: Networks, fresh: dict[str, torch.Tensor]) -> None:
    """The last layer of the value and of its slow copy."""
    last = f"net.{len(networks.value.net) - 1}"
    with torch.no_grad():
        for head, name in ((networks.value, "value"), (networks.slow_value, "slow_value")):
            for part in ("weight", "bias"):
                head.get_parameter(f"{last}.{part}").copy_(fresh[f"{name}.{last}.{part}"])


def _source(config: Config) -> RunFolder:
    assert config.transfer.source is not None
    return RunFolder(find_run(config.transfer.source))
