"""A run's folder: what lies where, what the run is, and where it came from."""

import re
import secrets
import shutil
from dataclasses import replace
from pathlib import Path

from lsp.config import (
    Config,
    RuntimeConfig,
    TransferConfig,
    differences,
    from_dict,
    to_dict,
    validated,
)
from lsp.errors import UserError, warn
from lsp.runs.agents import check_files, find_run, is_agent, is_shipped, named, read_card
from lsp.runs.checkpoint import Checkpoint, load_at, load_newest
from lsp.runs.files import entries, read_json, write_json
from lsp.runs.lock import Lock
from lsp.runs.packed import read_agent
from lsp.runs.provenance import provenance
from lsp.runs.signature import seal, sealed
from lsp.runs.spaces import Spaces

_FIRST = {"lock", "config.json.tmp"}
"""What a run leaves that is killed before it has settings."""


class RunFolder:
    """Paths inside a run's folder.

    config.json and its seal, run.json (provenance), spaces.json (what its agent observes and does),
    source.json and source_episodes/ (of a transfer), metrics.jsonl, tensorboard/, tracking.json
    (what --track calls it), episodes/, checkpoints/, curve.png, skills.png, open_loop.gif (from
    pixels), video.mp4, lock, not_finite.npz (what learning or acting made NaN of)

    It may be an agent's, which is read like a run that has stopped, and is not written to.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = Lock(path / "lock")
        self._id: str | None = None
        self._made = False

    @property
    def episodes(self) -> Path:
        return self.path / "episodes"

    @property
    def source_episodes(self) -> Path:
        return self.path / "source_episodes"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def curve(self) -> Path:
        return self.path / "curve.png"

    @property
    def skills(self) -> Path:
        return self.path / "skills.png"

    @property
    def held_skills(self) -> Path:
        return self._pictures / "held_skills"

    @property
    def open_loop(self) -> Path:
        return self.path / "open_loop.gif"

    @property
    def video(self) -> Path:
        return self._pictures / "video.mp4"

    @property
    def explored(self) -> Path:
        return self._pictures / "explored"

    @property
    def _pictures(self) -> Path:
        """Where pictures go that are asked for later. An agent's folder may be the package's, and
        stays what it is."""
        return Path("pictures") / self.path.resolve().name if self.is_agent else self.path

    @property
    def not_finite(self) -> Path:
        return self.path / "not_finite.npz"

    def read_config(self) -> Config:
        """The run's settings. Raises UserError if this is no run's folder, or they are damaged."""
        if self.is_agent:
            check_files(self.path)
        path = self.path / "config.json"
        if not path.is_file():
            raise UserError(f"{self.path} is not a run: it has no readable config.json")
        try:
            return validated(from_dict(read_json(path)))
        except UserError as error:
            named = str(path) in str(error)
            raise UserError(str(error) if named else f"{path}: {error}") from error
        except RecursionError as error:
            raise UserError(f"{path} is damaged (it is nested too deep)") from error

    @property
    def is_agent(self) -> bool:
        """Whether it holds an agent, and no run."""
        return is_agent(self.path)

    def check_episodes(self, needed_for: str, instead: str) -> None:
        """Raises UserError where it is an agent's, which has no episodes, with what to do
        `instead`."""
        if self.is_agent:
            name = named(self.path)
            raise UserError(
                f"{name} is an agent without episodes, which {needed_for}: {instead}, or train "
                f"such a run yourself (lsp agents {name} shows how)"
            )

    def no_episodes(self) -> UserError:
        """What to say where learning needs some."""
        return UserError(
            f"{self.path} has no episodes to learn from: train it further, or restore "
            f"{self.episodes}"
        )

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is one, readable or not. Raises UserError where that cannot be seen."""
        return bool(entries(self.checkpoints, "step-*"))

    @property
    def reached(self) -> int:
        """Env steps of the newest checkpoint, readable or not; 0 where there is none."""
        names = (path.name for path in self.path.glob("checkpoints/step-*"))
        steps = (name.removeprefix("step-") for name in names)
        return max((int(each) for each in steps if each.isdecimal()), default=0)

    @property
    def is_own(self) -> bool:
        """Whether its settings are as this user's own training, or this package, wrote them."""
        return sealed(self.path / "config.json") or is_shipped(self.path)

    @property
    def id(self) -> str:
        """Which run this is, wherever its folder lies: random, in run.json, and in every checkpoint
        and episode. Where run.json is lost its newest checkpoint says it; a new run gets one."""
        if self._id is None:
            self._id = self._noted_id() or secrets.token_hex(8)
        return self._id

    def _noted_id(self) -> str | None:
        if self.is_agent:
            return read_card(self.path).run
        try:
            noted = read_json(self.path / "run.json").get("id")
        except UserError:
            newest = load_newest(self.checkpoints)
            noted = None if newest is None else newest.facts.get("run")
        return noted if isinstance(noted, str) and re.fullmatch("[0-9a-f]{16}", noted) else None

    def newest_checkpoint(self) -> Checkpoint | None:
        """The newest that verifies, or None where none was ever written.

        Raises UserError where it is of another run, and where all are damaged.
        """
        checkpoint = read_agent(self.path) if self.is_agent else load_newest(self.checkpoints)
        return None if checkpoint is None else self._own(checkpoint)

    def checkpoint_at(self, env_steps: int) -> Checkpoint:
        """That after so many env steps.

        Raises UserError where it is not kept, damaged or of another run.
        """
        if not self.is_agent:
            return self._own(load_at(self.checkpoints, env_steps))
        only = read_agent(self.path)
        if only.env_steps != env_steps:
            raise UserError(
                f"{named(self.path)} is an agent of {only.env_steps} env steps, and of no others: "
                "leave out the checkpoint"
            )
        return only

    def _own(self, checkpoint: Checkpoint) -> Checkpoint:
        if (found := checkpoint.facts.get("run")) != self.id:
            raise UserError(
                f"{self.checkpoints}/step-{checkpoint.env_steps:09d} is of another run "
                f"({found!r:.20}, not {self.id!r}): remove it"
            )
        return checkpoint

    def read_spaces(self) -> Spaces | None:
        """What its agent observes and does; None where that was not noted, or cannot be read."""
        try:
            noted = Spaces(**read_json(self.path / "spaces.json"))
        except (UserError, TypeError):
            return None
        return noted if isinstance(noted.observations, dict) else None

    def check_spaces(self, spaces: Spaces) -> None:
        """Raises UserError where its agent observed or did something else before."""
        before = self.read_spaces()
        if before is not None and not before.fits(spaces):
            raise UserError(
                f"{self.path} has learned from {before}, and this task has {spaces}: give it the "
                "task that it was trained on, or choose another --logdir"
            )

    def write_spaces(self, spaces: Spaces) -> None:
        """Note what its agent observes and does. Raises OSError."""
        if self.read_spaces() != spaces:
            write_json(self.path / "spaces.json", spaces._asdict())

    def write_source(self, folder: Path, config: Config, env_steps: int) -> None:
        """Note what a transfer started from: another run, its settings, and how far it was. That
        run may go on later, or away. Raises OSError."""
        keys = ("task", "method", "preset", "seed")
        source = {key: getattr(config, key) for key in keys}
        source |= {"env_steps": env_steps, "folder": str(folder.resolve())}
        source["run"] = RunFolder(folder).id
        if is_agent(folder):
            source |= {"agent": folder.resolve().name, "weights": read_card(folder).sums.weights}
        write_json(self.path / "source.json", source)

    def started_from(self, source: str | Path | None) -> bool:
        """Whether that is what this run's settings name as its start, however it is spelled, and
        wherever it was spelled from."""
        before = self.read_config().transfer.source
        if before is None or source is None:
            return before is source
        return _located(source) in (_located(before), self._began_in)

    @property
    def _began_in(self) -> Path | None:
        """The folder that a transfer took over from, wherever it was called from."""
        try:
            return Path(read_json(self.path / "source.json")["folder"])
        except (UserError, KeyError, TypeError):  # not begun yet, or before it was noted
            return None

    def open(self, config: Config, runtime: RuntimeConfig, force: bool = False) -> None:
        """Make the folder for a new run, or check that it holds this very run; nobody else can
        open it until it is closed. With `force` a run with other settings is only warned of, but
        what it began from cannot change.

        Raises UserError if it holds another one, or an agent, is in use, or cannot be written.
        """
        if self.is_agent:
            name = named(self.path)
            raise UserError(
                f"{name} is an agent, without the optimisers and episodes that training resumes "
                f"from: start from its weights with lsp transfer {name} --task TASK"
            )
        try:
            if (self.path / "config.json").exists():
                self._lock.acquire()
                self._check_same(config, force)
                return
            if self.path.is_dir() and {path.name for path in self.path.iterdir()} - _FIRST:
                raise UserError(f"{self.path} is not empty and not a run: choose another --logdir")
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            self._made = True
            self.record(config, runtime)
        except OSError as error:
            raise UserError(
                f"cannot write to {self.path} ({error.strerror}): choose another --logdir"
            ) from error

    def record(self, config: Config, runtime: RuntimeConfig) -> None:
        """Write down what the run is. Raises OSError."""
        write_json(self.path / "config.json", to_dict(config))
        seal(self.path / "config.json")
        write_json(self.path / "run.json", {"id": self.id} | provenance(config, runtime))

    def discard(self) -> None:
        """Remove it, if it was made here: a run that could not begin leaves nothing behind."""
        if self._made:
            shutil.rmtree(self.path, ignore_errors=True)

    @property
    def is_locked(self) -> bool:
        """Whether nobody else can open it: somebody may have removed the lock."""
        return self._lock.is_held

    def lock_again(self, saved_at: int) -> bool:
        """Lock it once more where its lock was removed; whether that is done, and nobody else has
        trained in it since the checkpoint at `saved_at` env steps."""
        try:
            self._lock.release()
            self._lock.acquire()
            newest = entries(self.checkpoints, "step-*")[-1:]
        except (UserError, OSError):
            return False
        return [path.name for path in newest] == [f"step-{saved_at:09d}"]

    def close(self) -> None:
        """Let others open it."""
        self._lock.release()

    def _check_same(self, config: Config, force: bool) -> None:
        try:
            before = self.read_config()
        except UserError as error:
            if not force:
                raise UserError(f"{error}: --force resumes with this command's settings") from error
            warn(f"{self.path} resumes with this command's settings ({error})")
            return
        if self.started_from(config.transfer.source):  # however it is spelled
            before = replace(
                before, transfer=replace(before.transfer, source=config.transfer.source)
            )
        if self.has_checkpoint and _beginning(before) != _beginning(config):
            raise UserError(
                f"{self.path} began from {_said(before)}, not from {_said(config)}: "
                "choose another --logdir"
            )
        changed = differences(before, config)
        if not changed:
            return
        if not force:
            raise UserError(
                f"{self.path} holds another run ({'; '.join(changed)}): repeat its settings, "
                "choose another --logdir, or resume with these by --force"
            )
        warn(f"{self.path} resumes with other settings ({'; '.join(changed)})")


def _located(source: str | Path) -> Path:
    """Where what a transfer starts from lies, or lay."""
    try:
        return find_run(source).resolve()
    except UserError:
        return Path(source).resolve()


def _beginning(config: Config) -> TransferConfig:
    """What a run is begun with, once: all that is said of its transfer but how it learns."""
    return replace(config.transfer.resolved(), freeze_policy=False)


def _said(config: Config) -> str:
    begun = _beginning(config)
    if begun.source is None:
        return "nothing"
    parts = [str(_located(begun.source))]
    parts += [f"relabelled ({begun.updates} updates)"] if begun.relabel else []
    parts += [f"without its {' and '.join(begun.reset)}"] if begun.reset else []
    parts += [f"with an anchor of {begun.anchor:g}"] if begun.anchor else []
    held = {name: getattr(begun, name) for name in ("anchor_steps", "anchor_rate", "new_share")}
    parts += [f"{name.replace('_', '-')} {value:g}" for name, value in held.items() if value]
    parts += ["its replay kept"] if begun.keep_replay else []
    return ", ".join(parts)
