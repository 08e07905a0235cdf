"""From run folders to the CSV files that are committed: results/<task>/<method>.csv, and for
transfers results/<task>/transfer_from_<source>/<method>[-frozen][-relabel].csv; further endings
name what was reset, and a reward of your own. Where a run's settings differ from its method's, a
last column says how, for runs of several settings to stand side by side.

Beside the tables of a folder, `commands.md` holds the exact command of each run in them.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lsp.errors import UserError, shown
from lsp.report.settings import joined, own_settings
from lsp.runs.files import MOST_JSON, read_bytes, read_json, write_text
from lsp.runs.metrics import read_metrics
from lsp.tasks import plain_name

HEADER = (
    "obs",
    "preset",
    "seed",
    "env_steps",
    "eval_return",
    "eval_std",
    "success",
    "episodes",
    "prior_return",
    "wall_hours",
    "threads",
    "precision",
    "commit",
)
START = ("source_steps", "skill_length", "horizon")
"""What only the tables of transfers have."""
TRANSFER_HEADER = (*HEADER, *START)
SETTINGS = "settings"
"""A last column: `planner.horizon 20; policy.layers 64 64`. Only tables have it in which a run's
settings are not its method's own at its preset; in others they all are."""
TRANSFERS = "transfer_from_"
COMMANDS = "commands.md"
_COMMANDS_INTRO = (
    "# Commands\n\n"
    "The command behind each run in the tables of this folder, written by `lsp collect`.\n"
)

Row = dict[str, str]
_NUMBERS: tuple[tuple[tuple[str, ...], type, bool], ...] = (
    (("seed", "env_steps"), int, False),
    (START, int, True),
    (("eval_return", "eval_std", "success", "prior_return", "wall_hours"), float, True),
)
"""Columns that hold numbers, of which kind, and whether they may be empty."""


@dataclass(frozen=True)
class RecordedRun:
    """A run's folder, read.

    Attributes:
        config: the settings as nested dictionaries (config.json).
        info: how it was started: command, commit, threads, versions (run.json).
        metrics: the lines of metrics.jsonl.
        source: what a transfer started from (source.json); empty for others.
    """

    folder: Path
    config: dict[str, Any]
    info: dict[str, Any]
    metrics: list[dict[str, Any]]
    source: dict[str, Any]

    @property
    def task(self) -> str:
        """The task's name, such as "walker_walk"."""
        return str(self.config["task"])

    @property
    def method(self) -> str:
        """The method's name, such as "lsp"."""
        return str(self.config["method"])

    @property
    def table(self) -> Path:
        """Its table under all results."""
        return table_path(self.config, self.source.get("task"))

    @property
    def start(self) -> dict[str, str]:
        """The columns that only a transfer has."""
        return start(self.config, self.source["env_steps"]) if self.source else {}

    @property
    def settings(self) -> str:
        """The column of its settings; empty where they are the method's own."""
        return joined(own_settings(self.config))

    def lines(self, kind: str) -> list[dict[str, Any]]:
        """The metrics of one kind: "train", "episode" or "eval"."""
        return [line for line in self.metrics if line["kind"] == kind]


def start(config: Mapping[str, Any], source_steps: int) -> dict[str, str]:
    """The columns that only a transfer has, from its settings as nested dictionaries: K of methods
    with skills, H of those that plan."""
    planner, skills = config["planner"], config["skills"]["dim"]
    length = planner.get("skill_length") if skills else None
    plans = skills or planner.get("over") == "actions"
    horizon = planner.get("horizon") if plans else None
    return {key: _number(x, 0) for key, x in zip(START, (source_steps, length, horizon))}


def table_path(config: Mapping[str, Any], source: str | None = None) -> Path:
    """Of a run's table under all results, from its settings as nested dictionaries and the task of
    the run that it started from. The file's name says how it differs from the method's plain one:
    "lsp-frozen"; users' tasks and rewards have colons, dots and slashes."""
    folder, transfer = Path(plain_name(config["task"])), {}
    if source is not None:
        folder, transfer = folder / f"{TRANSFERS}{plain_name(source)}", config["transfer"]
    return folder / f"{config['method']}{variant(transfer, config.get('reward'))}.csv"


def variant(transfer: Mapping[str, Any], reward: str | None) -> str:
    """How a run differs from the method's plain one, for names of files: "-frozen-relabel"."""
    text = "-frozen" if transfer.get("freeze_policy") else ""
    text += "-relabel" if transfer.get("relabel") else ""
    text += "-kept" if transfer.get("keep_replay") else ""
    if anchor := transfer.get("anchor"):
        steps = transfer.get("anchor_steps")
        text += f"-anchor{anchor:g}" + (f"-over{steps}" if steps else "")
        text += f"-rate{rate:g}" if (rate := transfer.get("anchor_rate")) else ""
    text += f"-new{share:g}" if (share := transfer.get("new_share")) else ""
    reset = sorted(transfer.get("reset", ()))
    text += f"-{plain_name('-'.join(['reset', *map(str, reset)]))}" if reset else ""
    return text + (f"-paid-by-{plain_name(reward)}" if reward else "")


def read_run(folder: Path) -> RecordedRun:
    """Read a run's settings, origin and metrics.

    Raises:
        UserError: `folder` is not a run's, or one of its files is damaged.
    """
    config = _read_json(folder, "config.json", ("task", "method", "preset", "seed", "obs"))
    if not _is_printable(config):
        raise UserError(f"{folder}/config.json: a setting holds control characters")
    info = _read_json(folder, "run.json", ("command", "commit", "dirty", "threads"))
    for key in ("transfer", "planner", "skills"):
        if not isinstance(config.get(key, {}), dict):
            raise UserError(f"{folder}/config.json: {key} is no group of settings")
    for key in ("task", "method", "obs", "preset"):
        # They become file names and headings: a stranger's run must not choose where we write.
        # Made plain before it names a folder.
        users = key == "task" and ":" in str(config[key])
        if not users and not re.fullmatch(r"\w[\w-]*", str(config[key])):
            raise UserError(f"{folder}/config.json: {key} {config[key]!r} is not a plain name")
    return RecordedRun(folder, config, info, read_metrics(folder), _read_source(folder, config))


def _is_printable(value: Any) -> bool:
    """Whether labels and file names may be made of it."""
    if isinstance(value, dict):
        return _is_printable([*value, *value.values()])
    if isinstance(value, list):
        return all(map(_is_printable, value))
    return not isinstance(value, str) or value.isprintable()


def _read_source(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    if not config.get("transfer", {}).get("source"):
        return {}
    _read_json(folder, "config.json", ("planner", "skills"))
    source = _read_json(folder, "source.json", ("task", "env_steps"))
    if type(source["env_steps"]) is not int:
        raise UserError(f"{folder}/source.json: env_steps {source['env_steps']!r} is no number")
    return source


def collect(runs: Sequence[Path], out: Path) -> list[Path]:
    """Write the evaluations of `runs` into the tables under `out`; return the files written.

    A table's rows of the same observations, preset, seed, settings and precision of products (and
    start, of a transfer) are replaced by the run's, all others stay. Nothing is written unless
    every run can be read.

    Raises:
        UserError: a folder is not a run's, has no evaluation, or two runs claim the same rows.
    """
    read = [read_run(folder) for folder in runs]
    _refuse_duplicates(read)
    texts: dict[Path, str] = {}
    for run in read:
        table = out / run.table
        texts[table] = _with_rows(table, texts.get(table), run)
        commands = table.with_name(COMMANDS)
        texts[commands] = _with_command(commands, texts.get(commands), run)
    for path, text in texts.items():
        _write(path, text)
    return list(texts)


def read_table(path: Path) -> list[Row]:
    """The rows of a results table, as text; all of them have a column of settings.

    Raises:
        UserError: its header is neither `HEADER` nor `TRANSFER_HEADER`, with or without `SETTINGS`,
            or a row of it is cut short or holds no number where one belongs.
    """
    return _parse_table(path, _read_text(path))


def _read_json(folder: Path, name: str, required: Iterable[str]) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        raise UserError(f"{folder} has no {name}: name the folder of a run (its --logdir)")
    content = read_json(path)
    missing = [key for key in required if key not in content]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}: was it written by lsp train?")
    return content


def _refuse_duplicates(runs: list[RecordedRun]) -> None:
    seen: dict[tuple[str, ...], Path] = {}
    for run in runs:
        key = (str(run.table), _heading(run))
        if key in seen:
            raise UserError(
                f"{seen[key]} and {run.folder} are both {run.task}, {_heading(run)}: collect one"
            )
        seen[key] = run.folder


def _rows(run: RecordedRun) -> list[Row]:
    """One row an evaluation; of two at the same env step the later one counts."""
    evaluations = {line["env_steps"]: line for line in run.lines("eval")}
    if all(line.get("eval/return") is None for line in evaluations.values()):
        raise UserError(f"{run.folder} has no evaluation yet: train further")
    return [_row(run, line) for line in evaluations.values()]


def _row(run: RecordedRun, line: dict[str, Any]) -> Row:
    return {
        "obs": str(run.config["obs"]),
        "preset": str(run.config["preset"]),
        "seed": str(run.config["seed"]),
        "env_steps": str(line["env_steps"]),
        "eval_return": _number(line.get("eval/return"), 2),
        "eval_std": _number(line.get("eval/std"), 2),
        "success": _number(line.get("eval/success"), 3),
        "episodes": _number(line.get("eval/episodes"), 0),
        "prior_return": _number(line.get("eval/prior_return"), 2),
        "wall_hours": _number(line.get("wall_hours"), 4),
        "threads": str(run.info["threads"]),
        "precision": str(run.info.get("precision") or ""),
        "commit": _commit(run),
        SETTINGS: run.settings,
    } | run.start


def _number(value: float | int | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _commit(run: RecordedRun) -> str:
    commit = run.info["commit"] or ""
    return f"{commit}+dirty" if commit and run.info["dirty"] else commit


def _with_rows(path: Path, text: str | None, run: RecordedRun) -> str:
    """The table's text with the run's rows in place of those that it had there."""
    if text is None and path.is_file():
        text = _read_text(path)
    rows, old = _rows(run), _parse_table(path, text) if text is not None else []
    replaced = {_run_key(row) for row in rows}
    kept = [row for row in old if _run_key(row) not in replaced]
    ordered = sorted(kept + rows, key=_sort_key)
    table = io.StringIO()
    header = TRANSFER_HEADER if run.source else HEADER
    header = (*header, SETTINGS) if any(row[SETTINGS] for row in ordered) else header
    writer = csv.DictWriter(table, header, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(ordered)
    return table.getvalue()


def _read_text(path: Path) -> str:
    try:
        return read_bytes(path, MOST_JSON).decode()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not what lsp collect wrote: it is not UTF-8 text") from None


def _parse_table(path: Path, text: str) -> list[Row]:
    reader = csv.DictReader(io.StringIO(text))
    wanted = TRANSFER_HEADER if path.parent.name.startswith(TRANSFERS) else HEADER
    if tuple(reader.fieldnames or ()) not in (wanted, (*wanted, SETTINGS)):
        raise UserError(f"{path} is not a results table: its header must be {','.join(wanted)}")
    rows = list(reader)
    for row in rows:
        row.setdefault(SETTINGS, "")
        _check(row, f"{path}, {row.get('obs')} seed {row.get('seed')} at {row.get('env_steps')}")
    return rows


def _check(row: Row, where: str) -> None:
    if None in row or None in row.values():
        raise UserError(f"{where}: the row has more or fewer columns than the header")
    for columns, kind, optional in _NUMBERS:
        for text in (row[column] for column in columns if column in row):
            try:
                kind(text or "0" if optional else text)
            except ValueError:
                raise UserError(f"{where}: {text!r} is no number") from None


def _run_key(row: Row) -> tuple[str, ...]:
    start = (row.get(key, "") for key in START)
    return row["obs"], row["preset"], row["seed"], row[SETTINGS], row["precision"], *start


def _sort_key(row: Row) -> tuple[Any, ...]:
    start = (int(row.get(key) or 0) for key in START)
    run = row["obs"], row["preset"], row[SETTINGS], row["precision"], int(row["seed"])
    return *run, *start, int(row["env_steps"])


def _heading(run: RecordedRun) -> str:
    config = run.config
    heading = f"{run.table.stem}, {config['obs']}, {config['preset']}, seed {config['seed']}"
    settings = joined(own_settings(config), ", ")
    precision = str(run.info.get("precision") or "")
    apart = "".join(f", {each}" for each in (settings, precision) if each)
    if not run.source:
        return heading + apart
    steps, length, horizon = run.start.values()
    planned = (f", K {length}" if length else "") + (f", H {horizon}" if horizon else "")
    return f"{heading}, after {steps} env steps of {run.source['task']}{planned}{apart}"


def _with_command(path: Path, text: str | None, run: RecordedRun) -> str:
    """The commands' text with the run's section added, or replaced where it was there."""
    if text is None:
        text = _read_text(path) if path.is_file() else _COMMANDS_INTRO
    intro, *parts = re.split(r"^## ", text, flags=re.MULTILINE)
    sections = {heading: body for heading, _, body in (part.partition("\n") for part in parts)}
    sections[_heading(run)] = f"\n```\n{shown(str(run.info['command']))}\n```\n\n{_origin(run)}\n"
    ordered = sorted(sections, key=_natural)
    bodies = (f"## {heading}\n{sections[heading].rstrip()}\n" for heading in ordered)
    return "\n".join([intro.rstrip() + "\n", *bodies])


def _origin(run: RecordedRun) -> str:
    versions = run.info.get("versions", {})
    parts = [f"commit {_commit(run) or 'unknown'}", f"threads {run.info['threads']}"]
    parts += [str(run.info["device"])] if run.info.get("device") else []
    parts += [f"products in {run.info['precision']}"] if run.info.get("precision") else []
    parts += [f"{name} {versions[name]}" for name in sorted(versions)]
    return shown(", ".join(parts))


def _natural(heading: str) -> list[str | int]:
    """Sorts "seed 2" before "seed 10"."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", heading)]


def _write(path: Path, text: str) -> None:
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): choose another --out") from error
