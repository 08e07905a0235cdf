"""Agents: what a run has learned as a small folder to share, without what only training needs.

Some are shipped with the package, and known by name. A folder holds config.json, spaces.json,
weights.safetensors and card.json, which says what the agent is and has the sums of the others.
"""

import difflib
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from lsp.config import from_dict
from lsp.errors import UserError, warn
from lsp.runs.files import expanded, opened, read_json

SHIPPED = Path(__file__).parents[1] / "pretrained"
CARD, CONFIG, SPACES, WEIGHTS = "card.json", "config.json", "spaces.json", "weights.safetensors"
SCHEMA = 1


@dataclass(frozen=True)
class Sums:
    """SHA-256 of an agent's files."""

    config: str
    spaces: str
    weights: str


@dataclass(frozen=True)
class Card:
    """What an agent is, and what it earned when it was packed.

    Attributes:
        schema: of the folder.
        about: in its author's words.
        licence: in its author's words; None where none is named.
        run: id of the run that it was packed from.
        source: what that run had started from, where it was a transfer.
        env_steps: that it was trained for, its source's left out.
        precision: of the weights: half or full.
        episodes: of the evaluation; they are those of every run's evaluations.
        eval_return: mean, of the weights as they are packed.
        eval_std: over episodes.
        success: share of episodes that reached the goal; None for tasks without one.
        full_return: mean in the same episodes, before the weights were packed.
        curve: env steps and mean return of each evaluation while it was trained.
        prior_return: mean under skills from N(0, I); None of methods without skills.
        command: that trained the run.
        commit: of the package that trained it.
        date: on which it was packed, as YYYY-MM-DD.
        sums: of the other files.
    """

    schema: int
    about: str
    licence: str | None
    task: str
    reward: str | None
    method: str
    preset: str
    obs: str
    seed: int
    run: str
    source: str | None
    env_steps: int
    precision: str
    episodes: int
    eval_return: float
    eval_std: float
    success: float | None
    full_return: float
    curve: tuple[tuple[int, float], ...]
    prior_return: float | None
    command: str | None
    commit: str | None
    date: str
    sums: Sums


def names() -> list[str]:
    """The agents that are shipped with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CARD}"))


def agents() -> dict[str, Card]:
    """The agents that are shipped with the package, by name, for `load`, `evaluate` and `transfer`.

    One whose card is damaged is left out, with a warning.
    """
    found = {}
    for name in names():
        try:
            found[name] = read_card(SHIPPED / name)
        except UserError as error:
            warn(str(error))
    return found


def find_run(given: str | Path) -> Path:
    """The folder of the run or agent that a user names: by its path, or an agent by its name.

    A path counts before a name. A folder that holds neither is returned too: who reads it says what
    is wrong with it.

    Raises:
        UserError: there is no such folder, nor an agent of that name.
    """
    path = expanded(given)
    if (path / CONFIG).is_file():
        return path
    if str(path) in names():
        return SHIPPED / path
    if path.exists():
        return path
    raise UserError(f"{path} is not a run: there is no such folder{_meant(path)}")


def _meant(path: Path) -> str:
    """What else is said of a path that leads nowhere."""
    known = names()
    close = difflib.get_close_matches(path.name, known, n=2)
    if close:
        return f"; did you mean the agent {' or '.join(close)}?"
    if known and len(path.parts) == 1:
        return f", and no agent of that name: there are {', '.join(known)} (lsp agents)"
    return ""


def is_agent(folder: Path) -> bool:
    """Whether a folder holds an agent, in whatever state."""
    return (folder / CARD).exists()


def is_shipped(folder: Path) -> bool:
    """Whether a folder is one of the package's own."""
    return folder.resolve().parent == SHIPPED.resolve()


def named(folder: Path) -> str:
    """An agent as a user would name it."""
    return folder.name if is_shipped(folder) else str(folder)


def read_card(folder: Path) -> Card:
    """An agent's card. Raises UserError where it is damaged, or of another version."""
    path = folder / CARD
    values = read_json(path)
    if type(schema := values.get("schema")) is int and schema != SCHEMA:
        raise UserError(
            f"{folder} is an agent of schema {schema}, this version of lsp reads {SCHEMA}: use the "
            "version that packed it"
        )
    try:
        card: Card = from_dict(values, Card, "card")
    except UserError as error:
        raise UserError(f"{path} is damaged ({error}): {_again(folder)}") from error
    if not re.fullmatch("[0-9a-f]{16}", card.run) or card.env_steps < 0:
        raise UserError(f"{path} is damaged: {_again(folder)}")
    return card


def check_files(folder: Path) -> Card:
    """An agent's card, if its other files are as it says. Raises UserError naming one that is
    not."""
    card = read_card(folder)
    found = sums_of(folder)
    for name, key in ((CONFIG, "config"), (SPACES, "spaces"), (WEIGHTS, "weights")):
        if getattr(found, key) != getattr(card.sums, key):
            raise UserError(f"{folder / name} is missing or damaged: {_again(folder)}")
    return card


def sums_of(folder: Path) -> Sums:
    """Of an agent's files as they are; empty where one is missing. Raises UserError where one is no
    file, and OSError where it cannot be read."""
    return Sums(*(_sum(folder / name) for name in (CONFIG, SPACES, WEIGHTS)))


def _sum(path: Path) -> str:
    try:
        with opened(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def _again(folder: Path) -> str:
    """Where another copy is."""
    return "install the package again" if is_shipped(folder) else "copy the agent again"


def megabytes(folder: Path) -> float:
    """What an agent's folder takes."""
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6
