"""The command that shows a run's skills to somebody who steers them: `lsp explore`."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from lsp.config import RuntimeConfig
from lsp.errors import UserError


@dataclass(frozen=True)
class Explore:
    """Steer a trained agent's skills in the browser, beside what it imagines: hold a skill, look at
    a fan of nine, click where to go, type a reward. Needs the extra `explorer`."""

    run: Positional[Path]
    """The run's folder, or an agent (`lsp agents`)."""
    export: Path | None = None
    """Write one page here that shows its skills without a server, and end."""
    steps: int = 100
    """With --export: agent steps of each skill's film."""
    task: str | None = None
    """Another task, which observes and does the same things."""
    seed: int = 0
    """Of the first episode."""
    host: str = "127.0.0.1"
    """Where to serve: this machine alone; 0.0.0.0 lets everybody who reaches it steer."""
    port: int = 8080
    """The first free one from here on."""
    device: str = "cpu"
    """`cpu` or `cuda`."""
    threads: int = 1
    """CPU threads. A plan takes milliseconds on one, and others are for the browser."""
    trust: bool = False
    """Run the code that the run's settings name: a task or reward of your own."""

    def main(self) -> None:
        from lsp.backends.torch_setup import prepare_torch
        from lsp.explorer.opening import check_installed, open_session

        if self.export is None:
            check_installed()
        self._check_address()
        prepare_torch(RuntimeConfig(device=self.device, threads=self.threads))
        session = open_session(self.run, self.task, self.device, self.seed, self.trust)
        try:
            if self.export is None:
                self._serve(session)
            else:
                self._write(session, self.export)
        finally:
            session.close()

    def _check_address(self) -> None:
        """Raises UserError where nothing can be served, which the server would try for long."""
        import socket

        if not 0 < self.port < 2**16:
            raise UserError(f"--port {self.port}: ports are 1 to 65535")
        try:
            family = socket.getaddrinfo(self.host, 0)[0][0]
            socket.create_server((self.host, 0), family=family).close()
        except (OSError, UnicodeError) as error:
            raise UserError(
                f"--host {self.host}: {error}: give an address of this machine"
            ) from None

    def _write(self, session: object, path: Path) -> None:
        from lsp.explorer.film import write_film
        from lsp.explorer.session import Session

        assert isinstance(session, Session)
        page = write_film(session, path, f"{self.run.name}: skills, imagined and real", self.steps)
        print(page)

    def _serve(self, session: object) -> None:
        from lsp.explorer.opening import family_of
        from lsp.explorer.page import Page
        from lsp.explorer.recording import Recorder
        from lsp.explorer.saved import SavedSkills
        from lsp.explorer.session import Session
        from lsp.runs.agents import find_run
        from lsp.runs.folder import RunFolder

        assert isinstance(session, Session)
        folder = RunFolder(find_run(self.run))
        kept = SavedSkills(folder.id, len(session.held)), Recorder(folder.explored)
        page = Page(session, *kept, family_of(session), self.host, self.port)
        print(f"Open {page.address} in a browser; Ctrl-C ends it.", flush=True)
        try:
            page.run()
        finally:
            page.close()
