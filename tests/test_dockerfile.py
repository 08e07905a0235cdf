"""The Dockerfile fits the repository: no docker is needed to see what it would lack."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
PROJECT: Any = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def arguments(instruction: str) -> list[list[str]]:
    """Of each line of that instruction."""
    return [shlex.split(found) for found in re.findall(rf"^{instruction} (.*)$", TEXT, re.M)]


def copied() -> set[str]:
    return {name for *names, _ in arguments("COPY") for name in names}


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ignored[0] == "*"
    assert {name.removeprefix("!") for name in ignored if name.startswith("!")} == copied()
    assert [name for name in copied() if not (ROOT / name).exists()] == []


def test_all_that_building_reads_is_copied() -> None:
    assert {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], "lsp"} <= copied()


def test_what_is_installed_is_declared() -> None:
    apt, pip = arguments("RUN")
    extras = re.findall(r"\.\[(.*)\]", " ".join(pip))
    assert set(extras[0].split(",")) <= set(PROJECT["optional-dependencies"])
    assert pip[pip.index("-c") + 1] in copied()
    packages = set(apt[apt.index("--no-install-recommends") + 1 : apt.index("&&", 3)])
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    used = re.search(r"--no-install-recommends (.*)", workflow)
    assert used is not None
    assert packages == set(used[1].split())


def test_its_python_and_its_command_are_the_projects() -> None:
    ((base,),) = arguments("FROM")
    version = re.fullmatch(r"python:3\.(\d+)-slim", base)
    assert version is not None
    least, below = re.findall(r"3\.(\d+)", PROJECT["requires-python"])
    assert int(least) <= int(version[1]) < int(below)
    ((command,),) = arguments("ENTRYPOINT")
    assert command.strip("[]") in PROJECT["scripts"]
