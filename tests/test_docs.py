"""Links and names of pages resolve: in the documentation, in comments and in messages."""

import re
import shlex
from collections import Counter
from dataclasses import fields, is_dataclass
from inspect import ismodule
from pathlib import Path
from typing import get_type_hints

import pytest

import lsp
from lsp.cli.main import _parse
from lsp.config import Config, make_config

ROOT = Path(__file__).parents[1]
SITES = r"[a-z]+:"
FENCED = re.compile(r"^( *)```.*?^\1```", flags=re.DOTALL | re.MULTILINE)


def pages() -> list[Path]:
    front = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    folders = [ROOT / name for name in ("docs", "results", "benchmarks", "examples")]
    return front + [page for folder in folders for page in folder.rglob("*.md")]


def links(page: Path) -> list[str]:
    """Targets of a page's links and pictures, but for those of other sites and those in code."""
    text = re.sub(r"`[^`\n]*`", "", FENCED.sub("", page.read_text()))
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    return [target for target in found if not re.match(SITES, target)]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub, and the site by the same rule, give to a page's headings."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(
        r"^#{1,6} +(.+?)\s*$", FENCED.sub("", page.read_text()), re.MULTILINE
    ):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def leads_somewhere(page: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    there = page.parent / path if path else page
    return there.exists() and (not anchor or anchor in anchors(there))


def broken(page: Path) -> list[str]:
    return [target for target in links(page) if not leads_somewhere(page, target)]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    assert broken(page) == []


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    there = "# One `two`, χ [three](x)\n\n```\n# no heading\n```\n\n## A\n## A\n"
    (tmp_path / "there.md").write_text(there)
    page = tmp_path / "page.md"
    page.write_text("""# Here
[1](there.md) [2](there.md#one-two-χ-three) ![3](none.png) [4](there.md#no-heading)
[5](#here) [6](there.md#a-1) [7](https://a.org/b) `[8](none)` <img src="none.gif">""")
    assert broken(page) == ["none.png", "there.md#no-heading", "none.gif"]


def named_files(text: str) -> list[str]:
    return re.findall(r"\b(?:docs|results|examples)/[\w./-]*\.(?:md|png|csv|py|ipynb)\b", text)


def test_files_that_comments_and_messages_name_exist() -> None:
    folders = ("lsp", "benchmarks", "tests", "docs", "examples")
    code = [ROOT / "Makefile", *(file for name in folders for file in (ROOT / name).rglob("*.py"))]
    named = [(file, name) for file in code for name in named_files(file.read_text())]
    assert ("settings.py", "docs/paper/deviations.md") in {
        (file.name, name) for file, name in named
    }
    assert [(file, name) for file, name in named if not (ROOT / name).exists()] == []


def documented(page: str) -> set[str]:
    """The names that a page of the reference has generated from docstrings."""
    text = (ROOT / "docs" / "reference" / page).read_text()
    return set(re.findall(r"^\.\. auto\w+:: ([\w.]+)$", text, flags=re.MULTILINE))


def test_every_public_name_is_in_the_reference() -> None:
    public = {name: getattr(lsp, name) for name in lsp.__all__}
    names = {x.__name__ if ismodule(x) else f"lsp.{name}" for name, x in public.items()}
    assert names - documented("api.md") - documented("settings.md") == set()


def test_every_section_of_the_settings_is_in_the_reference() -> None:
    kinds = [get_type_hints(Config)[field.name] for field in fields(Config)]
    sections = {"Config", "RuntimeConfig"}
    sections |= {kind.__name__ for kind in kinds if isinstance(kind, type) and is_dataclass(kind)}
    assert len(sections) > 10
    assert sections - {name.split(".")[-1] for name in documented("settings.md")} == set()


def test_every_page_is_on_the_front_page() -> None:
    docs = ROOT / "docs"
    listed = set(re.findall(r"\]\(([\w/]+\.md)\)", (docs / "index.md").read_text()))
    assert {str(page.relative_to(docs)) for page in docs.rglob("*.md")} == listed | {"index.md"}


def commands(page: Path) -> list[str]:
    """The calls of `lsp` in a page's code blocks, but for those that only show the help."""
    blocks = [block.group() for block in FENCED.finditer(page.read_text())]
    lines = [line.removeprefix(".venv/bin/") for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("lsp ") and "--help" not in line]


# Those of the README are run, in test_readme.py; those of results/*/commands.md were.
WITH_COMMANDS = [page for page in (ROOT / "docs").rglob("*.md") if commands(page)]


@pytest.mark.long
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_understood(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsp.training.transfer.source_settings", lambda *_: make_config())
    for command in commands(page):
        _parse(shlex.split(command, comments=True)[1:])  # exits where a flag is unknown
