"""The parser's complaints, which are boxes of many lines, as one line."""

import difflib
import re
from collections.abc import Sequence
from itertools import dropwhile, takewhile

from lsp.cli.short_help import ALL

WITH_ALL_SETTINGS = ("train", "sweep", "bench")


def in_one_line(complaint: str, arguments: Sequence[str]) -> str:
    """What is wrong, what was meant perhaps, and which help to read."""
    lines = [line.strip("│ ") for line in complaint.splitlines()[1:]]  # the first is its title
    box = list(dropwhile(_is_border, lines))
    said = " ".join(takewhile(lambda line: not _is_border(line), box))
    plain = re.sub(r"\[/?bold\]", "", said)  # markup that the parser leaves in a quotation
    plain = re.sub(r" \(applied to [\w ]+\)| +Arguments are applied to .*", "", plain)
    command = arguments[0] if arguments else ""
    meant = _meant(box, arguments) or _meant_command(box, command)
    perhaps = f"; perhaps you meant {' or '.join(meant)}" if meant else ""
    return f"{plain}{perhaps} (see {_help(command, complaint)})"


def _is_border(line: str) -> bool:
    """Of the box, or a line across it; of hyphens where the output has no better letters."""
    return line.startswith("╰") or not line.strip("─-")


def _meant(box: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """The flags of this command that the parser suggests, two at most: the likeliest first, those
    that lack nothing but their section before them."""
    found: dict[str, str] = {}
    flag = ""
    for line in box:
        if line.startswith("--") and not _is_border(line):
            flag = line.split()[0].rstrip(",")
            found.setdefault(flag, "")
        elif flag:
            found[flag] += f" {line} "
    if not any("Perhaps you meant" in line for line in box):
        return []
    suited = [flag for flag, about in found.items() if _is_of(about, arguments[0])]
    return sorted(suited, key=lambda flag: f"--{flag.rpartition('.')[2]}" not in arguments)[:2]


def _meant_command(box: Sequence[str], command: str) -> list[str]:
    _, listed, there = " ".join(box).partition("Available subcommands: ")
    return difflib.get_close_matches(command, re.findall(r"\w+", there), n=1) if listed else []


def _is_of(about: str, command: str) -> bool:
    named = re.findall(r"in lsp (\w+) --help", about)
    return not named or command in named


def _help(command: str, complaint: str) -> str:
    if command in WITH_ALL_SETTINGS:
        return f"lsp {command} {ALL}"
    unknown = not command.isidentifier() or "Available subcommands" in complaint
    return "lsp --help" if unknown else f"lsp {command} --help"
