"""The page that `lsp explore --export` writes, as an animated picture.

Usage: animate.py PAGE PICTURE.webp [--takes 0 4 9]. Takes are the skills of the page, and the last
one plans. Needs Playwright, Pillow and a Chromium.
"""

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

EVERY = 4  # agent steps from one picture to the next
WIDTH = 560


def pictures(page: Page, takes: list[int]) -> Iterator[Image.Image]:
    """What the page shows of the ground, take by take."""
    page.evaluate("play(false)")
    for take in takes or range(page.evaluate("film.takes.length")):
        page.evaluate(f"choose({take})")
        steps = page.evaluate("film.takes[chosen].returns.length")
        for step in range(0, steps + 1, EVERY):
            page.evaluate(f"step = {step}; draw()")
            yield Image.open(io.BytesIO(page.locator("#ground").screenshot())).convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--takes", type=int, nargs="*", default=[])
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    asked = parser.parse_args()
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=asked.chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH + 32, "height": 900})
        page.goto(asked.page.resolve().as_uri())
        milliseconds = round(1000 * EVERY * page.evaluate("film.seconds"))
        first, *others = pictures(page, asked.takes)
        browser.close()
    first.save(
        asked.picture,
        save_all=True,
        append_images=others,
        duration=milliseconds,
        loop=0,
        quality=60,
    )


if __name__ == "__main__":
    main()
