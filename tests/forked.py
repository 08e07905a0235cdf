"""Programs in processes of their own, without the seconds that each takes to import torch.

A server imports all of it once, and forks. That they start from nothing is tested elsewhere.
"""

import atexit
import io
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["lsp.api", "lsp.cli.main", "lsp.report.plots"])


def command() -> None:
    """`python -m lsp`."""
    from lsp.cli.main import main

    main()


def command_on_terminal() -> None:
    """The same, on a terminal of its own: what it was given to speak to."""
    os.login_tty(os.dup(1))
    command()


def sweep_worker() -> None:
    """`python -m lsp.experiments.sweep.worker`; its parent is the server."""
    from lsp.experiments.sweep.worker import main

    sys.argv[1:] = [str(os.getppid())]
    main()


class Forked:
    """A program that runs, much as `subprocess.Popen` has it; what it says is added to a file."""

    def __init__(
        self,
        program: Callable[[], None],
        arguments: list[str],
        said: Path,
        folder: Path,
        variables: Mapping[str, str],
        given: str = "",
    ) -> None:
        begin = program, arguments, said.absolute(), folder, dict(variables), given
        self._process = SERVER.Process(target=_run, args=begin)
        self._process.start()
        atexit.register(self.kill)  # of a test that failed: it would train for ever
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        assert self.returncode is not None, "it did not end"
        return self.returncode

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _run(
    program: Callable[[], None],
    arguments: list[str],
    said: Path,
    folder: Path,
    variables: Mapping[str, str],
    given: str,
) -> None:
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    with said.open("ab", buffering=0) as out:
        for end in (1, 2):
            os.dup2(out.fileno(), end)
    if os.isatty(1):
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.argv, sys.stdin = ["lsp", *arguments], io.StringIO(given)
    program()
