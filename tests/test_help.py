"""Help is short first, whole on demand, and the one that a mistake's message names."""

import re
import shlex
from typing import Any

import pytest

import lsp
from lsp.cli.main import main

FLAG = re.compile(r"^[│ ] {1,2}(--[\w.-]*\w)", flags=re.MULTILINE)


def shown(command: str, capsys: Any) -> str:
    """What a command prints that ends well."""
    with pytest.raises(SystemExit) as stopped:
        main(shlex.split(command))
    assert not stopped.value.code
    said: str = capsys.readouterr().out
    return said


def complaint(command: str, capsys: Any) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(shlex.split(command))
    assert stopped.value.code == 2
    said: str = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_the_flags_that_matter_come_first_and_alone(capsys: Any) -> None:
    said = shown("train --help", capsys)
    flags = FLAG.findall(said)
    assert flags[:5] == ["--task", "--method", "--preset", "--steps", "--logdir"]
    assert len(flags) == 20
    assert "gymnasium:Hopper-v5" in said
    assert "lsp train --help-all" in said


def test_all_of_them_are_shown_on_demand(capsys: Any) -> None:
    short = set(FLAG.findall(shown("train --help", capsys)))
    whole = set(FLAG.findall(shown("train --help-all", capsys)))
    assert short < whole
    assert len(whole) > 100
    assert {"--value.learning-rate", "--planner.lambda_"} <= whole


@pytest.mark.parametrize("command", ["sweep", "bench"])
def test_others_that_take_every_setting_have_both(command: str, capsys: Any) -> None:
    short = FLAG.findall(shown(f"{command} -h", capsys))
    assert len(short) < 25 < len(FLAG.findall(shown(f"{command} --help-all", capsys)))
    assert ("--seeds" in short, "--seed" in short) == (command == "sweep", command == "bench")


def test_defaults_are_those_of_the_preset_and_method(capsys: Any) -> None:
    said = shown("train --preset debug --method dreamer --help", capsys)
    assert re.search(r"--skills\.dim INT[^(]*\(A\.3\)[^(]*\(default: 0\)", said)


def test_help_of_any_other_command_is_whole(capsys: Any) -> None:
    assert shown("eval --help-all", capsys) == shown("eval --help", capsys)


def test_without_a_command_all_are_listed(capsys: Any) -> None:
    assert shown("", capsys) == shown("--help", capsys)


def test_the_version_is_said(capsys: Any) -> None:
    assert shown("--version", capsys).startswith(f"lsp {lsp.__version__}, commit ")


@pytest.mark.parametrize(
    ("command", "meant", "to_read"),
    [
        ("train --stpes 3", "perhaps you meant --steps (see", "lsp train --help-all"),
        ("train --horizon 3", "--planner.horizon", "lsp train --help-all"),
        ("sweep --sed 3", "--seeds", "lsp sweep --help-all"),
        ("train --steps many", "invalid literal", "lsp train --help-all"),
        ("eval --epsiodes 3", "", "lsp eval --help"),
        ("trian", "perhaps you meant train", "lsp --help"),
        ("--foo", "Unrecognized options: --foo (", "lsp --help"),
    ],
)
def test_a_mistake_names_what_was_meant_and_the_help_to_read(
    command: str, meant: str, to_read: str, capsys: Any
) -> None:
    said = complaint(command, capsys)
    assert meant in said
    assert said.endswith(f"(see {to_read})\n")
    assert "applied to" not in said


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shells_can_complete(shell: str, capsys: Any) -> None:
    script = shown(f"--tyro-print-completion {shell}", capsys)
    assert "--planner.skill-length" in script
