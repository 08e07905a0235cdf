"""The explorer in a real browser: `chromium` on the PATH, driven by Playwright.

Without a graphics card a frame takes most of a second, so the page is small and limits are long.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import lsp
from lsp.envs import make_env
from lsp.explorer.film import write_film
from lsp.explorer.session import Session
from lsp.runs.spaces import spaces_of
from lsp.training.build import build_networks

pytest.importorskip("viser")
pytest.importorskip("mjviser")
pytest.importorskip("playwright")

from playwright.sync_api import sync_playwright

from lsp.explorer.page import Page

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH"),
]

TASK = "quadruped_upright_walk"
LIMIT = 120  # seconds, of anything
FLAGS = ("--no-sandbox", "--enable-unsafe-swiftshader", "--use-angle=swiftshader")


@pytest.fixture
def session() -> Any:
    config = lsp.make_config("lsp", "debug", task=TASK)
    networks = build_networks(spaces_of(make_env(TASK)), config, "cpu")
    session = Session(networks, lambda: make_env(TASK))
    yield session
    session.close()


@pytest.fixture
def browser() -> Iterator[Any]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def opened(browser: Any, address: str, errors: list[str]) -> Any:
    tab = browser.new_page(viewport={"width": 640, "height": 480})
    tab.set_default_timeout(1000 * LIMIT)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    tab.goto(address)
    return tab


def wait(tab: Any, holds: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < LIMIT
        tab.wait_for_timeout(200)


def test_the_page_steers_the_robot(session: Any, browser: Any) -> None:
    page, errors = Page(session, port=18500), list[str]()
    page.start()
    try:
        steer(page, session, browser, errors)
    finally:
        page.close()
    assert errors == []


def steer(page: Any, session: Any, browser: Any, errors: list[str]) -> None:
    tab = opened(browser, page.address, errors)
    wait(tab, lambda: session.steps > 3)

    tab.locator("[role=slider]").first.focus()
    tab.keyboard.press("ArrowRight")
    wait(tab, lambda: session.source == "held")

    box = tab.locator("input[value='-norm(action)']")
    box.fill("torso_upright.__class__")
    tab.get_by_role("button", name="this").click()
    tab.wait_for_selector("text=is not allowed")
    tab.locator("input[value='torso_upright.__class__']").fill("torso_upright")
    tab.get_by_role("button", name="this").click()
    wait(tab, lambda: session.wanted.name == "torso_upright" and session.source == "planned")

    tab.mouse.click(100, 300)  # on the ground, beside the panel
    wait(tab, lambda: session.wanted.place is not None)
    wait(tab, lambda: page.server.scene.get_handle_by_name("/fixed_bodies/explorer/ahead"))

    other = opened(browser, page.address, errors)
    wait(other, lambda: len(page.server.get_clients()) == 2)
    other.close()
    tab.close()
    wait(browser.new_page(), lambda: not page.player.watched)


def test_an_exported_page_plays(session: Any, browser: Any, tmp_path: Path) -> None:
    path, errors, loaded = write_film(session, tmp_path / "page.html", "toy", 20), list[str](), []
    tab = opened(browser, "about:blank", errors)
    tab.on("request", lambda request: loaded.append(request.url))
    tab.goto(path.as_uri())
    first = tab.inner_text("#said")
    tab.get_by_role("button", name="skill 3").click()
    wait(tab, lambda: tab.inner_text("#said") not in (first, ""))
    assert "skill 1.50 1.50 0.00" in tab.inner_text("#said")
    assert loaded == [path.as_uri()]
    assert errors == []
