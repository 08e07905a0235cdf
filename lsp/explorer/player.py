"""Steps a session as fast as asked, in one thread; others tell it what to do next."""

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from lsp.errors import UserError, said
from lsp.explorer.session import Moment, Session

_IDLE = 0.05  # seconds between looks at what is to be done, while nothing moves

Command = Callable[[Session], None]
Answer = Callable[[str], None]
"""Called with one line that says why a command failed, or with nothing where it did not."""


class Player:
    """Runs a session while somebody watches.

    Attributes:
        speed: simulated seconds in a second, as far as this machine keeps up.
        paused: nothing moves, and commands are still carried out.
        watched: whether anybody looks on; without, nothing moves either.

    Args:
        session: is used in the thread that calls `run` only.
        show: called with each moment.
        complain: called with one line where a step fails.
    """

    def __init__(
        self,
        session: Session,
        show: Callable[[Moment], None],
        complain: Callable[[str], None],
    ) -> None:
        self.session, self._show, self._complain = session, show, complain
        self.speed, self.paused, self.watched = 1.0, False, True
        self._commands: SimpleQueue[tuple[Command, Answer]] = SimpleQueue()
        self._stop = threading.Event()

    def tell(self, command: Command, answer: Answer) -> None:
        """Carry out a command before the next step, and then answer; any thread may tell."""
        self._commands.put((command, answer))

    def turn(self) -> bool:
        """Carry out what was told, and take a step unless paused; whether one was taken."""
        self._obey()
        if self.paused or not self.watched:
            return False
        try:
            return self._step()
        except Exception as error:  # of a simulator, say; the page must not stand still unexplained
            self._complain(f"{said(error)}: paused; reset begins another episode")
            self.paused = True
            return False

    def _step(self) -> bool:
        try:
            moment = self.session.step()
        except UserError as error:
            # A reward that cannot be paid here would fail at every step from now on.
            self.session.want_task()
            self._complain(f"{error}; back to the task's reward")
            return False
        self._show(moment)
        return True

    def _obey(self) -> None:
        """Carry out what was told, in order; what fails is answered, and the rest is done."""
        while True:
            try:
                command, answer = self._commands.get_nowait()
            except Empty:
                return
            try:
                command(self.session)
                problem = ""
            except UserError as error:
                problem = str(error)
            except Exception as error:  # of a simulator that is reset, say
                problem = said(error)
            answer(problem)

    def run(self) -> None:
        """Take turns until `stop`."""
        due = time.monotonic()
        while not self._stop.is_set():
            moved = self.turn()
            due = max(
                due + (self.session.seconds / self.speed if moved else _IDLE), time.monotonic()
            )
            self._stop.wait(due - time.monotonic())

    def stop(self) -> None:
        """Let `run` return after its present turn."""
        self._stop.set()
