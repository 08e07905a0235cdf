"""Latent skill planning: train, evaluate and compare agents. With any command, `--debug` shows
where an error comes from."""

import argparse
import io
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import replace
from typing import Annotated, Any, NoReturn

import tyro
from tyro.conf import subcommand

from lsp.cli.agents import Agents, Export
from lsp.cli.check import Check
from lsp.cli.commands import Bench, Doctor, Train, Transfer
from lsp.cli.evaluate import Eval
from lsp.cli.experiments import Foresee, Reproduce, Skills, Sweep
from lsp.cli.explore import Explore
from lsp.cli.lists import combinations
from lsp.cli.mistakes import WITH_ALL_SETTINGS, in_one_line
from lsp.cli.output import (
    UNREAD,
    flush,
    forget_stdout,
    log_in_lines,
    print_error,
    replace_what_cannot_be_printed,
    warnings_in_one_line,
)
from lsp.cli.reports import Collect, Plot
from lsp.cli.short_help import ALL, print_short_help
from lsp.cli.tasks import Tasks
from lsp.config import Config, RuntimeConfig, default_runtime, make_config
from lsp.config.requirements import PACKAGE
from lsp.errors import UserError, is_out_of_memory, said
from lsp.runs.versions import commit, package_version

Command = (
    Train
    | Transfer
    | Eval
    | Check
    | Agents
    | Export
    | Skills
    | Foresee
    | Explore
    | Plot
    | Sweep
    | Reproduce
    | Collect
    | Bench
    | Tasks
    | Doctor
)


def _chosen_config(arguments: Sequence[str], method: str | None = None) -> Config:
    """The preset and method that the flags name, as defaults for all other flags; of several
    methods the first, or `method`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", default="fast", const="fast", nargs="?")
    parser.add_argument("--method", default="lsp", const="lsp", nargs="?")
    chosen, _ = parser.parse_known_args(arguments)
    if arguments[0] == "sweep":
        method = method or str(chosen.method).split(",")[0]
    return make_config(method or chosen.method, chosen.preset)


def _parse(arguments: Sequence[str]) -> Command:
    """The command that the arguments give; a sweep's settings once for each that it trains."""
    if arguments[:1] != ["sweep"] or "--help" in arguments:
        return _parse_one(arguments)
    every = combinations(arguments)
    sweep = _parse_one(every[0])
    assert isinstance(sweep, Sweep)
    methods = sweep.config.method.split(",")
    configs = tuple(_with_method(each, method) for each in every for method in methods)
    return replace(sweep, configs=configs)


def _parse_one(
    arguments: Sequence[str], method: str | None = None, transfer: Transfer | None = None
) -> Command:
    """`method` instead of the one that the flags name: for each of those of a sweep. `transfer` is
    where the flags of one start from, once it is known what it transfers."""
    configured = bool(arguments) and arguments[0] in ("train", "bench", "sweep")
    config = _chosen_config(arguments, method) if configured else make_config()
    runtime = default_runtime(config.preset)
    train = subcommand("train", default=Train(config, runtime=runtime), prefix_name=False)
    # A body with more readings and joints than the walker's.
    measured = Bench(replace(config, task="quadruped_walk"), runtime=runtime)
    bench = subcommand("bench", default=measured, prefix_name=False)
    scaled = Reproduce(runtime=_chosen_scale(arguments))
    reproduce = subcommand("reproduce", default=scaled, prefix_name=False)
    sweep = subcommand("sweep", default=Sweep(config, runtime=runtime), prefix_name=False)
    default: dict[str, Any] = {} if transfer is None else {"default": transfer}
    adapted = subcommand("transfer", prefix_name=False, **default)
    commands = (
        Annotated[Train, train]
        | Annotated[Transfer, adapted]
        | Annotated[Eval, subcommand("eval", prefix_name=False)]
        | Annotated[Check, subcommand("check", prefix_name=False)]
        | Annotated[Agents, subcommand("agents", prefix_name=False)]
        | Annotated[Export, subcommand("export", prefix_name=False)]
        | Annotated[Skills, subcommand("skills", prefix_name=False)]
        | Annotated[Foresee, subcommand("foresee", prefix_name=False)]
        | Annotated[Explore, subcommand("explore", prefix_name=False)]
        | Annotated[Plot, subcommand("plot", prefix_name=False)]
        | Annotated[Sweep, sweep]
        | Annotated[Reproduce, reproduce]
        | Annotated[Collect, subcommand("collect", prefix_name=False)]
        | Annotated[Bench, bench]
        | Annotated[Tasks, subcommand("tasks", prefix_name=False)]
        | Annotated[Doctor, subcommand("doctor", prefix_name=False)]
    )
    command: Command = tyro.cli(commands, prog="lsp", description=__doc__, args=arguments)
    if isinstance(command, Transfer) and transfer is None:
        return _parse_one(arguments, transfer=_as_its_source(command))
    return command


def _as_its_source(transfer: Transfer) -> Transfer:
    """Computed as its source's preset has it. Raises UserError if that is no run."""
    from lsp.training.transfer import source_settings

    preset = source_settings(transfer.run, transfer.folder).preset
    return replace(transfer, runtime=default_runtime(preset))


def _with_method(arguments: Sequence[str], method: str) -> Config:
    """The settings of one method of a sweep: the flags change its own."""
    parsed = _parse_one(arguments, method)
    assert isinstance(parsed, Sweep)
    return replace(parsed.config, method=method)


def _chosen_scale(arguments: Sequence[str]) -> RuntimeConfig:
    """How runs are computed at the scale that the flags name."""
    from lsp.experiments.figures.definitions import SCALES

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--scale", default="small", const="small", nargs="?")
    chosen, _ = parser.parse_known_args(arguments)
    scale = SCALES.get(chosen.scale)
    return RuntimeConfig() if scale is None else default_runtime(scale.preset)


def _parse_in_one_line(arguments: Sequence[str]) -> Command:
    """`_parse`, with the parser's boxed complaint turned into a UserError of one line."""
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            _print_help(arguments)
            return _parse(arguments)
    except SystemExit as error:
        if not error.code:
            raise
        raise UserError(in_one_line(complaint.getvalue(), arguments)) from None


def _print_help(arguments: Sequence[str]) -> None:
    """Print the version or the help that is asked for, and end; do nothing where none is."""
    asked = {"-h", "--help", ALL}.intersection(arguments)
    if not arguments or arguments[0] == ALL:
        _parse(["--help"])
    elif arguments[0] == "--version":
        print(f"lsp {package_version(PACKAGE) or 'not installed'}, commit {commit() or 'unknown'}")
        raise SystemExit(0)
    elif ALL in asked:
        _parse([each for each in arguments if each != ALL] + ["--help"])
    elif asked and arguments[0] in WITH_ALL_SETTINGS:
        preset_and_method = [each for each in arguments if each not in asked]
        print_short_help(arguments[0], _parse(preset_and_method))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; a user's mistake is one line on stderr and exit code 2.

    Anything else that goes wrong is one line and exit code 1. `--debug` shows the traceback too.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    try:
        replace_what_cannot_be_printed()
        with warnings_in_one_line(), log_in_lines():
            _carry_out([each for each in arguments if each != "--debug"])
    except BrokenPipeError:  # of a reader that has seen enough, such as head
        forget_stdout()
        raise SystemExit(UNREAD) from None
    except KeyboardInterrupt as error:
        _fail(error, "stopped", 130, debug)
    except UserError as error:
        _fail(error, str(error), 2, debug)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(error, f"{where}{error.strerror or said(error)}", 2, debug)
    except Exception as error:
        if is_out_of_memory(error):
            advice = "free some, or choose smaller settings"
            _fail(error, f"not enough memory ({said(error)}): {advice}", 2, debug)
        _fail(error, f"{said(error)} (an error of lsp: --debug shows where)", 1, debug)


def _carry_out(arguments: Sequence[str]) -> None:
    """Run a command, and find out now whether what it printed was read."""
    try:
        _parse_in_one_line(arguments).main()
    except SystemExit:
        flush()
        raise
    flush()


def _fail(error: BaseException, message: str, code: int, debug: bool) -> NoReturn:
    if debug:
        with suppress(OSError):
            traceback.print_exception(error)
    print_error(message)
    raise SystemExit(code) from None


if __name__ == "__main__":
    main()
