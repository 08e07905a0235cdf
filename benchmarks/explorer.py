"""What an agent step of the explorer takes, its page included, and how soon its server answers.

Usage: explorer.py RUN [--steps 500] [--threads 1]. RUN is a run or an agent on a quadruped. Steps
are taken as fast as it goes, plans among them, while another thread asks for the page. Nobody
watches: a browser's own work is not measured. Prints milliseconds: of a step, of the processor in
it, and of an answer.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import numpy as np

from lsp.backends.torch_setup import prepare_torch
from lsp.config import RuntimeConfig
from lsp.explorer.opening import open_session
from lsp.explorer.page import Page
from lsp.explorer.recording import Recorder
from lsp.explorer.saved import SavedSkills
from lsp.explorer.session import EVERY, Session

ASKED = 0.05  # seconds between two requests
WISHES: dict[str, Callable[[Session], None]] = {
    "the task": Session.want_task,
    "go there": lambda session: session.go_to(4.0, 2.0),
    "a typed reward": lambda session: session.want("torso_upright * -torso_velocity[0]"),
}


class Asking:
    """Asks a server for its page, again and again, in a thread."""

    def __init__(self, address: str) -> None:
        self.took, self._end, self._address = list[float](), threading.Event(), address
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> "Asking":
        self._thread.start()
        return self

    def _ask(self) -> None:
        while not self._end.wait(ASKED):
            began = time.perf_counter()
            urlopen(self._address, timeout=60).read(100)
            self.took.append(1000 * (time.perf_counter() - began))

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()


def measured(page: Page, steps: int) -> tuple[list[float], list[float]]:
    """Milliseconds of steps, and of the processor in them, all threads together."""
    took, worked = [], []
    for _ in range(steps):
        began, used = time.perf_counter(), time.process_time()
        page.player.turn()
        took.append(1000 * (time.perf_counter() - began))
        worked.append(1000 * (time.process_time() - used))
    return took, worked


def report(name: str, page: Page, steps: int) -> None:
    measured(page, 2 * EVERY)  # warms up
    with Asking(page.address) as asking:
        took, worked = measured(page, steps)
    highest = np.percentile(took, 95)
    print(
        f"{name:24s} {np.mean(took):8.1f} {np.median(took):8.1f} {highest:8.1f} {max(took):8.1f} "
        f"{np.mean(worked):10.1f} {np.mean(asking.took):10.1f} {max(asking.took):8.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    prepare_torch(RuntimeConfig(threads=arguments.threads))
    session = open_session(arguments.run)
    with tempfile.TemporaryDirectory() as films:
        page = Page(session, SavedSkills("0" * 16, len(session.held)), Recorder(Path(films)))
        page.player.watched = True
        print(f"a step is {1000 * session.seconds:.0f} ms of simulated time")
        print(f"{'':24s}     mean   median     95 %      max  processor     answer      max")
        for fan in (None, EVERY):
            session.fan_every = fan
            for name, wish in WISHES.items():
                wish(session)
                session.choose("planned")
                report(name if fan is None else f"{name}, fan", page, arguments.steps)
        page.close()
    session.close()


if __name__ == "__main__":
    main()
