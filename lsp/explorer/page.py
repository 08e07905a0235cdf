"""The page in the browser: the robot, what steers it, and what is imagined beside what came."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import viser

from lsp.experiments.skills.held import skill_grid
from lsp.explorer.panels import FilmPanel, Line, PlannerPanel, SavedPanel, TaskPanel, plain
from lsp.explorer.player import Answer, Command, Player
from lsp.explorer.recording import Recorder
from lsp.explorer.saved import SavedSkills
from lsp.explorer.session import EVERY, FAN, Fan, Moment, Session, Source
from lsp.explorer.views import COLORS, PLAN, TRAIL, Scene, make_view

FARTHEST = 2.0  # of a slider, in standard deviations of the prior
_SPEEDS = ("0.25", "0.5", "1", "2", "as fast as it goes")
_SHOWN = 500  # agent steps of the trail, and of the two lines of returns
_REDRAWN = 4  # agent steps after which the trail is drawn anew
_PAD = "/pad"


class Page:
    """One session, which all tabs see and steer.

    Args:
        session: is stepped by `run`.
        saved: skills of the run under names.
        recorder: of films.
        tasks: among which the session may be switched, its own among them.
        host, port: where to serve; the port is the next free one.
    """

    def __init__(
        self,
        session: Session,
        saved: SavedSkills,
        recorder: Recorder,
        tasks: Sequence[str] = (),
        host: str = "127.0.0.1",
        port: int = 8080,
    ) -> None:
        self.server = viser.ViserServer(host=host, port=port, label="lsp explore", verbose=False)
        self.server.gui.configure_theme(show_logo=False, show_share_button=False)
        self.player = Player(session, self.show, self.complain)
        self.player.watched = False
        self.view = make_view(self.server, session.env)
        self._session, self._env, self._recorder = session, session.env, recorder
        self._trail: deque[tuple[float, float]] = deque(maxlen=_SHOWN)
        self._returns: deque[tuple[float, float, float]] = deque(maxlen=_SHOWN)
        self._time = 0
        self._add_controls(saved, tasks)
        self.server.on_client_connect(lambda client: self._count())
        self.server.on_client_disconnect(lambda client: self._count())

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{self.server.get_host()}:{self.server.get_port()}"

    def run(self) -> None:
        """Step while somebody watches, until the player is told to stop.

        It is called in the thread that made the session: OpenGL renders in one thread alone. The
        server has others, and answers while this one plans.
        """
        self.player.run()

    def close(self) -> None:
        """Serve no more."""
        self.server.stop()
        self._recorder.stop()

    def show(self, moment: Moment) -> None:
        """What a step led to."""
        if moment.step == 1:
            self._trail.clear()
            self._draw_goal()
        self._time += 1
        self._returns.append((self._time * self._session.seconds, moment.returned, moment.foretold))
        with self.server.atomic():
            self.view.show()
            if isinstance(self.view, Scene):
                self._draw(self.view, moment)
            if moment.ahead is not None:
                self._follow(moment)
            if self._time % EVERY == 0:
                self._write(moment)
        self.film.add(self._session)

    def complain(self, line: str) -> None:
        """One line on top."""
        self._line.say(line)

    def _count(self) -> None:
        self.player.watched = bool(self.server.get_clients())

    def _add_controls(self, saved: SavedSkills, tasks: Sequence[str]) -> None:
        gui, session = self.server.gui, self._session
        self._status = gui.add_markdown(self.view.why or "Starting")
        self._line = Line(gui)
        chosen = gui.add_button_group("Skill", ("plan", "random", "hold"))
        moved = gui.add_button_group("Robot", ("pause", "go", "reset"))
        speed = gui.add_dropdown("Speed", _SPEEDS, initial_value="1")
        fan = gui.add_checkbox("Fan of nine skills", initial_value=False)
        chosen.on_click(lambda event: self._choose(event.target.value))
        moved.on_click(lambda event: self._move(event.target.value))
        speed.on_update(lambda event: self._speed(event.target.value))
        fan.on_update(lambda event: self._fan(event.target.value))
        self._add_skill()
        self.saved = SavedPanel(gui, saved, self._tell)
        self._add_wishes()
        self.task = TaskPanel(gui, session, self._tell, tasks) if len(tasks) > 1 else None
        self.planner = PlannerPanel(gui, session, self._tell)
        self.film = FilmPanel(gui, self._recorder, self._tell)
        zeros = np.zeros(2)
        series: Any = ({"label": "s"}, _line("came", "#111"), _line("predicted", "#d62728"))
        with gui.add_folder("Return"):
            self._plot = gui.add_uplot((zeros, zeros, zeros), series, aspect=2.0)

    def _add_skill(self) -> None:
        """Sliders, the pad over the first two of them, and the fan's nine."""
        gui, count = self.server.gui, len(self._session.held)
        with gui.add_folder("Skill by hand"):
            nine = gui.add_button_group("Of the fan", [str(i + 1) for i in range(FAN)])
            self._sliders = [
                gui.add_slider(f"z{i + 1}", -FARTHEST, FARTHEST, 0.05, 0.0) for i in range(count)
            ]
        nine.on_click(lambda event: self._hold(skill_grid(count, FAN)[int(event.target.value) - 1]))
        for slider in self._sliders:
            slider.on_update(lambda event: self._slid(event.client))
        if count >= 2:
            self._add_pad()

    def _add_pad(self) -> None:
        """A square beside the robot, which stays where it is while the scene follows the robot."""
        scene = self.server.scene
        side = FARTHEST  # half a metre is one standard deviation
        corner: Any = (0.0, 2.5, 0.0)  # to the left, which the panel does not hide
        scene.add_frame(_PAD, show_axes=False, position=corner)
        scene.add_box(f"{_PAD}/square", (70, 90, 110), (side, side, 0.01), opacity=0.5)
        scene.add_label(f"{_PAD}/name", "skill: z1, z2", position=(0.0, side / 2, 0.0))
        limits: Any = ((-side / 2, side / 2), (-side / 2, side / 2), (0.0, 0.0))
        self._dot = scene.add_transform_controls(
            f"{_PAD}/dot",
            scale=0.4,
            active_axes=(True, True, False),
            disable_rotations=True,
            translation_limits=limits,
            depth_test=False,
        )
        self._dot.on_update(lambda event: self._dragged())

    def _add_wishes(self) -> None:
        gui, names = self.server.gui, self._session.names
        with gui.add_folder("Reward"):
            known = ", ".join(f"{name} ({width})" for name, width in names.items())
            gui.add_markdown(f"Python over {plain(known)}")
            box = gui.add_text("Reward", initial_value="-norm(action)")
            wish = gui.add_button_group("Plan for", ("this", "the task"))
            self._wish_line = Line(gui)
        wish.on_click(lambda event: self._want(box.value if event.target.value == "this" else None))
        if isinstance(self.view, Scene) and self._session.has_ground:
            gui.add_markdown("Click on the ground: the robot plans to go there.")
            self.server.scene.on_click()(
                lambda event: self._clicked(event.ray_origin, event.ray_direction)
            )

    def _tell(self, command: Command, answer: Answer | None = None) -> None:
        def answered(problem: str) -> None:
            (answer or self.complain)(problem)
            self._catch_up()

        self.player.tell(command, answered)

    def _catch_up(self) -> None:
        """Show what a command has changed, even where nothing moves."""
        session = self._session
        with self.server.atomic():
            if session.env is not self._env:
                self._env = session.env
                self._change_scene()
            self._draw_goal()
            self.planner.follow(session)
            if self.task is not None:
                self.task.follow(session)

    def _change_scene(self) -> None:
        """What was drawn is of another task."""
        self._trail.clear()
        self.server.scene.reset()
        self.view = make_view(self.server, self._env)
        self.view.show()
        if len(self._sliders) >= 2:
            self._add_pad()

    def _draw_goal(self) -> None:
        if isinstance(self.view, Scene):
            self.view.draw_goal(self._session.goal)

    def _choose(self, button: str) -> None:
        sources: dict[str, Source] = {"plan": "planned", "random": "random", "hold": "held"}
        if button == "hold":
            self._tell(lambda session: session.hold(session.skill))
        else:
            self._tell(lambda session: session.choose(sources[button]))

    def _move(self, button: str) -> None:
        if button == "reset":
            self._tell(lambda session: session.reset())
        self.player.paused = button == "pause"

    def _speed(self, chosen: str) -> None:
        self.player.speed = float("inf") if chosen == _SPEEDS[-1] else float(chosen)

    def _fan(self, wanted: bool) -> None:
        self._tell(lambda session: setattr(session, "fan_every", EVERY if wanted else None))
        if not wanted and isinstance(self.view, Scene):
            self.view.draw("fan", None, COLORS)
            self.view.draw_ends(None)

    def _hold(self, skill: np.ndarray) -> None:
        self._tell(lambda session: session.hold(skill))

    def _slid(self, client: Any) -> None:
        """By a hand: where the page itself moves a slider there is no client."""
        if client is not None:
            self._hold(np.array([slider.value for slider in self._sliders], np.float32))

    def _dragged(self) -> None:
        skill = np.array([slider.value for slider in self._sliders], np.float32)
        skill[:2] = 2 * np.asarray(self._dot.position)[:2]
        self._hold(skill)

    def _want(self, text: str | None) -> None:
        def wish(session: Session) -> None:
            if text is None:
                session.want_task()
            else:
                session.want(text)
            session.choose("planned")

        self._tell(wish, self._wish_line.say)

    def _clicked(self, origin: Any, direction: Any) -> None:
        assert isinstance(self.view, Scene)
        place = self.view.place_under(origin, direction)
        if place is None:
            return

        def go(session: Session) -> None:
            session.go_to(*place)
            session.choose("planned")

        self._tell(go, self._wish_line.say)

    def _draw(self, scene: Scene, moment: Moment) -> None:
        """On the ground: where the robot went, and where it would go."""
        if moment.pose is not None:
            self._trail.append(moment.pose[:2])
        if self._time % _REDRAWN == 0 and self._trail:
            scene.draw("trail", np.array([self._trail]), np.array([TRAIL]))
        if moment.ahead is not None:
            scene.draw("ahead", moment.ahead.ways, np.array([PLAN]))
        if moment.fan is not None:
            self._draw_fan(scene, moment.fan)

    def _draw_fan(self, scene: Scene, fan: Fan) -> None:
        scene.draw("fan", fan.ways, COLORS)
        scene.draw_ends(fan)

    def _follow(self, moment: Moment) -> None:
        """Sliders and pad show the skill in force, unless a hand is on them."""
        if moment.source == "held":
            return
        for slider, value in zip(self._sliders, moment.skill):
            slider.value = float(np.clip(value, -FARTHEST, FARTHEST))
        if len(moment.skill) >= 2:
            x, y = np.clip(moment.skill[:2], -FARTHEST, FARTHEST) / 2
            self._dot.position = (float(x), float(y), 0.0)

    def _write(self, moment: Moment) -> None:
        skill = " ".join(f"{x:+.2f}" for x in moment.skill)
        why = f"\n\n{plain(self.view.why)}" if self.view.why else ""
        self._status.content = (
            f"**skill** {skill} ({moment.source}), **step** {moment.step}\n\n"
            f"**return** {moment.returned:.1f}, predicted {moment.foretold:.1f}: "
            f"{plain(self._session.paid_for)}{why}"
        )
        times, came, predicted = np.array(self._returns).T
        self._plot.data = (times, came, predicted)


def _line(label: str, color: str) -> dict[str, Any]:
    return {"label": label, "stroke": color, "width": 2}
