"""Pages of the explorer without a browser. Needs the extra `explorer`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lsp
from lsp.envs import make_env
from lsp.explorer.page import Page
from lsp.explorer.recording import Recorder
from lsp.explorer.saved import SavedSkills
from lsp.explorer.session import Session
from lsp.runs.spaces import spaces_of
from lsp.training.build import build_networks

QUADRUPED = "quadruped_upright_walk"
RUN = "0123456789abcdef"


def quadruped() -> Session:
    """With nothing learned."""
    config = lsp.make_config("lsp", "debug", task=QUADRUPED)
    networks = build_networks(spaces_of(make_env(QUADRUPED)), config, "cpu")
    return Session(networks, lambda: make_env(QUADRUPED))


def opened(session: Session, films: Path, tasks: Sequence[str] = ()) -> Iterator[Page]:
    """A page that somebody watches, and its end."""
    saved = SavedSkills(RUN, len(session.held))
    page = Page(session, saved, Recorder(films), tasks, port=18080)
    page.player.watched = True
    yield page
    page.close()
    session.close()


def turn(page: Any, times: int) -> None:
    for _ in range(times):
        assert page.player.turn()


def node(page: Any, name: str) -> Any:
    """Of the scene."""
    return page.server.scene.get_handle_by_name(f"/fixed_bodies/explorer/{name}")
