"""Folders of the page: how is planned, in which task, and what is kept."""

from collections.abc import Callable, Sequence
from typing import Any, get_args

import viser

from lsp.config import RefitKind
from lsp.errors import UserError
from lsp.explorer.planning import MOST, Planning
from lsp.explorer.player import Answer, Command
from lsp.explorer.recording import Recorder
from lsp.explorer.saved import SavedSkills
from lsp.explorer.session import Session
from lsp.tasks import plain_name

Tell = Callable[[Command, Answer], None]
"""Has a command carried out, and then the answer called with why it failed, or with nothing."""
_NONE = "none yet"


class Line:
    """One line beside what it is about, which says mostly nothing."""

    def __init__(self, gui: viser.GuiApi) -> None:
        self._text = gui.add_markdown("")

    @property
    def content(self) -> str:
        """What is said, as Markdown."""
        return str(self._text.content)

    def say(self, text: str) -> None:
        """Say this in place of what was said."""
        self._text.content = f"**{plain(text)}**" if text else ""


def plain(text: str) -> str:
    """A user's text inside Markdown, where it must not become a link or an element."""
    return "".join(f"\\{x}" if x in "\\`*_{}[]()<>#+-!|~$&" else x for x in text)


class PlannerPanel:
    """The planner's settings, which count from the next plan on."""

    def __init__(self, gui: viser.GuiApi, session: Session, tell: Tell) -> None:
        self._tell, self._shown = tell, session.planning
        names, now = get_args(RefitKind), session.planning
        most = max(MOST, *(getattr(now, field) for field in _NUMBERS))
        with gui.add_folder("Planner", expand_by_default=False):
            self.refit = gui.add_dropdown("Planner", names, initial_value=now.refit)
            self.numbers = {
                field: gui.add_number(label, getattr(now, field), min=1, max=most, step=1)
                for field, label in _NUMBERS.items()
            }
            use = gui.add_button("Plan with these")
            self.line = Line(gui)
        use.on_click(lambda event: self.use())

    def use(self) -> None:
        """Plan with what is chosen."""
        numbers = {field: box.value for field, box in self.numbers.items()}
        planning = Planning(refit=self.refit.value, **numbers)
        self._tell(lambda session: session.plan_with(planning), self.line.say)

    def follow(self, session: Session) -> None:
        """Show the settings in force, where they have become others."""
        now = session.planning
        if now == self._shown:  # what somebody has chosen, and not used yet, stays
            return
        self._shown, self.refit.value = now, now.refit
        for field, box in self.numbers.items():
            box.value = getattr(now, field)


_NUMBERS = {
    "skill_length": "K, steps of a skill",
    "horizon": "H, steps ahead",
    "num_candidates": "G, plans a round",
    "replan_every": "Steps between plans",
}


class TaskPanel:
    """The tasks of the body, to go on in another one."""

    def __init__(
        self, gui: viser.GuiApi, session: Session, tell: Tell, tasks: Sequence[str]
    ) -> None:
        self._tell = tell
        with gui.add_folder("Task"):
            self.task = gui.add_dropdown("Task", tuple(tasks), initial_value=session.task)
            self.line = Line(gui)
        self.task.on_update(lambda event: self.chosen(event.client))

    def chosen(self, client: Any) -> None:
        """By a hand: where the page itself shows a task there is no client."""
        if client is not None:
            task = self.task.value
            self._tell(lambda session: session.switch(task), self.line.say)

    def follow(self, session: Session) -> None:
        """Show the task that the robot is in."""
        self.task.value = session.task


class SavedPanel:
    """Skills under names, to be held again, now or another day."""

    def __init__(self, gui: viser.GuiApi, saved: SavedSkills, tell: Tell) -> None:
        self._saved, self._tell = saved, tell
        with gui.add_folder("Saved skills"):
            self.name = gui.add_text("Name", "my skill")
            save = gui.add_button("Save the skill in force")
            self.names = gui.add_dropdown("Saved", (_NONE,))
            hold = gui.add_button("Hold the saved one")
            self.line = Line(gui)
        save.on_click(lambda event: self.save())
        hold.on_click(lambda event: self.hold())
        tell(lambda session: self._list(), self.line.say)

    def save(self) -> None:
        """Keep the skill in force under the name that is typed."""
        name = self.name.value

        def keep(session: Session) -> None:
            kept = self._saved.save(name, session.skill)
            self._list()
            self.names.value = kept

        self._tell(keep, self.line.say)

    def hold(self) -> None:
        """Hold the skill whose name is chosen."""
        name = self.names.value
        if name != _NONE:
            self._tell(lambda session: session.hold(self._saved.find(name)), self.line.say)

    def _list(self) -> None:
        self.names.options = tuple(self._saved.read()) or (_NONE,)


class FilmPanel:
    """A film of what happens, as MP4."""

    def __init__(self, gui: viser.GuiApi, recorder: Recorder, tell: Tell) -> None:
        self._recorder, self._tell = recorder, tell
        with gui.add_folder("Film", expand_by_default=False):
            buttons = gui.add_button_group("Film", ("record", "stop"))
            self.line = Line(gui)
        buttons.on_click(lambda event: self.choose(event.target.value))

    def choose(self, button: str) -> None:
        """Begin a film, or end it."""

        def begin(session: Session) -> None:
            self._recorder.start(session.env, plain_name(session.task), session.seconds)

        started = button == "record"
        self._tell(begin if started else lambda session: self._recorder.stop(), self._answer)

    def add(self, session: Session) -> None:
        """A frame, while a film is made."""
        try:
            self._recorder.add(session.env)
        except UserError as error:
            self._answer(str(error))

    def _answer(self, problem: str) -> None:
        """Why there is no film, or else where it is."""
        doing = "recording" if self._recorder.is_on else "film"
        path = self._recorder.path
        self.line.say(problem or ("" if path is None else f"{doing}: {path.resolve()}"))
