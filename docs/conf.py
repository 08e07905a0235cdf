"""The site of the documentation, which `make docs` builds."""

import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

import lsp

project = "LSP: latent skill planning"
author = "the latent-skill-planning contributors"
release = lsp.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = project
html_copy_source = False
highlight_language = "text"
default_role = "code"  # `name` in a docstring is code, as in Markdown
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True

PAGES = Path(__file__).parent
# Where the repository's other files are: on GitHub where Actions builds the site, else here.
repository = PAGES.parent.as_uri()
if "GITHUB_REPOSITORY" in os.environ:
    on_github = "{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}/blob/{GITHUB_SHA}"
    repository = on_github.format_map(os.environ)
myst_url_schemes = {"http": None, "https": None, "repository": f"{repository}/{{{{path}}}}"}


def link_the_repository(text: str, page: str) -> str:
    """Links that lead out of the documentation lead into the repository."""

    def outside(link: re.Match[str]) -> str:
        target = Path(os.path.normpath((PAGES / page).parent / link[1]))
        if target.is_relative_to(PAGES):
            return link[0]
        return f"](repository:{target.relative_to(PAGES.parent).as_posix()}"

    return re.sub(r"\]\((\.\./[^)#\s]+)", outside, text)


def menu(front: str) -> str:
    """The site's menu: the pages that the front page lists, section by section."""
    parts = []
    for section in front.split("\n## ")[1:]:
        pages = re.findall(r"\]\(([a-z_/]+)\.md\)", section)
        head = [":hidden:", f":caption: {section.splitlines()[0]}", ""]
        parts += ["```{toctree}", *head, *dict.fromkeys(pages), "```", ""]
    return "\n".join(parts)


def read(app: Sphinx, page: str, source: list[str]) -> None:
    """Prepare a page's text."""
    text = source[0]
    if page == "index":
        text += "\n" + menu(text)
    source[0] = link_the_repository(text, page)


def read_docstring(
    app: Sphinx, what: str, name: str, thing: object, options: Any, lines: list[str]
) -> None:
    """Google's sections become fields; a field's docstring has none, but colons that look so."""
    if what != "attribute":
        settings = Config(napoleon_use_ivar=True)
        lines[:] = GoogleDocstring(lines, settings, app, what, name, thing, options).lines()


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", read_docstring)
