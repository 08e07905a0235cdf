"""The explorer in a real browser: `chromium` on the PATH, driven by Playwright.

Without a graphics card a frame takes most of a second, so the page is small and limits are long.
"""

import io
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lsp.envs import rendering_problem
from lsp.explorer.film import write_film

pytest.importorskip("viser")
pytest.importorskip("mjviser")
pytest.importorskip("playwright")

from pages import QUADRUPED, node, opened, quadruped
from playwright.sync_api import sync_playwright

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH"),
    # imageio leaves the pipes to ffmpeg to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

FAMILY = (QUADRUPED, "quadruped_reach")
LIMIT = 120  # seconds, of anything
FLAGS = ("--no-sandbox", "--enable-unsafe-swiftshader", "--use-angle=swiftshader")


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """That nobody watches yet."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    for page in opened(quadruped(), tmp_path / "films", FAMILY):
        page.player.watched = False
        yield page


@contextmanager
def launched() -> Iterator[Any]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def browsed(page: Any, browse: Callable[[Any], None]) -> None:
    """Step in this thread, which renders, while another one has a browser."""

    def run() -> None:
        with launched() as browser:
            browse(browser)

    with ThreadPoolExecutor(1) as pool:
        browsing = pool.submit(run)
        browsing.add_done_callback(lambda done: page.player.stop())
        page.run()
        browsing.result()


def shown(browser: Any, address: str, errors: list[str]) -> Any:
    tab = browser.new_page(viewport={"width": 640, "height": 480})
    tab.set_default_timeout(1000 * LIMIT)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    tab.goto(address)
    return tab


def wait(tab: Any, holds: Callable[[], Any]) -> None:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < LIMIT
        tab.wait_for_timeout(200)


def test_the_page_steers_the_robot(page: Any) -> None:
    browsed(page, lambda browser: steer(page, browser))


def steer(page: Any, browser: Any) -> None:
    session, errors = page._session, list[str]()
    tab = shown(browser, page.address, errors)
    wait(tab, lambda: session.steps > 3)
    wait(tab, lambda: colours(tab) > 100)

    tab.locator("[role=slider]").first.focus()
    tab.keyboard.press("End")
    wait(tab, lambda: session.source == "held" and session.agent.skill[0, 0] == 2)

    box = tab.locator("input[value='-norm(action)']")
    box.fill("torso_upright.__class__")
    tab.get_by_role("button", name="this").click()
    tab.wait_for_selector("text=is not allowed")
    tab.locator("input[value='torso_upright.__class__']").fill("torso_upright")
    tab.get_by_role("button", name="this").click()
    wait(tab, lambda: session.wanted.name == "torso_upright" and session.source == "planned")

    tab.mouse.click(100, 300)  # on the ground, beside the panel
    wait(tab, lambda: session.wanted.place is not None)
    wait(tab, lambda: node(page, "goal") and node(page, "ahead"))

    other = shown(browser, page.address, errors)
    wait(other, lambda: len(page.server.get_clients()) == 2)
    other.get_by_role("button", name="random").click()
    tab.wait_for_selector("text=(random)")
    tab.get_by_role("button", name="plan", exact=True).click()
    other.wait_for_selector("text=(planned)")
    other.close()
    tab.close()
    wait(browser.new_page(), lambda: not page.player.watched)
    assert errors == []


def colours(tab: Any) -> int:
    """How many there are on the ground beside the panel, where the robot is and its shadow."""
    picture = Image.open(io.BytesIO(tab.screenshot(clip={"x": 0, "y": 240, "width": 320,
                                                         "height": 240})))  # fmt: skip
    return len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0))


def test_what_is_changed_and_kept_on_the_page(page: Any, tmp_path: Path) -> None:
    browsed(page, lambda browser: change_and_keep(page, browser, tmp_path))


def change_and_keep(page: Any, browser: Any, tmp_path: Path) -> None:
    session, errors = page._session, list[str]()
    tab = shown(browser, page.address, errors)
    wait(tab, lambda: session.steps > 3)

    tab.get_by_text("Planner", exact=True).first.click()
    number = tab.get_by_label("Steps between plans")
    number.fill("77")
    tab.get_by_role("button", name="Plan with these").click()
    tab.wait_for_selector("text=must be at most")
    number.fill("5")
    tab.get_by_role("button", name="Plan with these").click()
    wait(tab, lambda: session.planning.replan_every == 5)
    wait(tab, lambda: not tab.get_by_text("must be at most").count())

    tab.locator("input[value='my skill']").fill("mine")
    tab.get_by_role("button", name="Save the skill in force").click()
    wait(tab, lambda: list((tmp_path / "data").rglob("*.json")))
    tab.get_by_role("button", name="Hold the saved one").click()
    wait(tab, lambda: session.source == "held")

    tab.get_by_role("combobox", name="Task").click()
    tab.get_by_role("option", name="quadruped_reach").click()
    wait(tab, lambda: session.task == "quadruped_reach" and session.steps > 3)
    wait(tab, lambda: colours(tab) > 100)

    if rendering_problem() is None:
        tab.get_by_text("Film", exact=True).first.click()
        tab.get_by_role("button", name="record").click()
        tab.wait_for_selector("text=recording: ")
        tab.get_by_role("button", name="stop").click()
        tab.wait_for_selector("text=film: ")
        assert [path.name for path in (tmp_path / "films").iterdir()] == ["quadruped_reach-1.mp4"]
    tab.close()
    assert errors == []


def test_an_exported_page_plays(tmp_path: Path) -> None:
    session = quadruped()
    path = write_film(session, tmp_path / "page.html", "toy", 20)
    session.close()
    with launched() as browser:
        play(path, browser)


def play(path: Path, browser: Any) -> None:
    errors, loaded = list[str](), list[str]()
    tab = shown(browser, "about:blank", errors)
    tab.on("request", lambda request: loaded.append(request.url))
    tab.goto(path.as_uri())
    first = tab.inner_text("#said")
    tab.get_by_role("button", name="skill 3").click()
    wait(tab, lambda: tab.inner_text("#said") not in (first, ""))
    assert "skill 1.50 1.50 0.00" in tab.inner_text("#said")
    assert loaded == [path.as_uri()]
    assert errors == []
