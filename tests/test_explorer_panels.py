"""What may be changed and kept on the page: planner, task, skills under names, films.

Needs the extra `explorer`.
"""

import gc
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import imageio.v3 as imageio
import numpy as np
import pytest
from own_tasks import Reach
from steered import Point, knowing_networks

import lsp
from lsp.envs import make_env, rendering_problem
from lsp.errors import UserError
from lsp.explorer.opening import family_of
from lsp.explorer.recording import Recorder
from lsp.explorer.saved import MOST, SavedSkills
from lsp.explorer.session import Session
from lsp.runs.spaces import spaces_of
from lsp.training.build import build_networks

pytest.importorskip("viser")
pytest.importorskip("mjviser")

from pages import QUADRUPED, RUN, node, opened, quadruped, turn

from lsp.explorer.views import Scene

# imageio leaves the pipes to ffmpeg to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

FAMILY = (QUADRUPED, "quadruped_reach")
HAND: Any = object()


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Here, where these pipes are expected, and not in whatever test comes next."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own data folder."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "latent-skill-planning"


@pytest.fixture
def toy(tmp_path: Path) -> Any:
    yield from opened(Session(knowing_networks(), Point), tmp_path / "films")


@pytest.fixture
def robot(tmp_path: Path) -> Any:
    yield from opened(quadruped(), tmp_path / "films", FAMILY)


def test_planner_settings_count_from_the_next_plan_on(toy: Any) -> None:
    turn(toy, 2)
    toy.planner.refit.value = "gradient"
    toy.planner.numbers["num_candidates"].value = 32
    toy.planner.numbers["replan_every"].value = 5
    toy.planner.use()
    turn(toy, 1)
    planner = toy._session.agent.config.planner
    assert (planner.refit, planner.num_candidates, planner.replan_every) == ("gradient", 32, 5)
    assert toy._session.agent.planned[0]
    assert toy.planner.line.content == ""
    planned = []
    for _ in range(10):
        turn(toy, 1)
        planned.append(bool(toy._session.agent.planned[0]))
    assert planned == 2 * [False, False, False, False, True]


def test_settings_that_do_not_fit_are_explained_and_left_for_correction(toy: Any) -> None:
    turn(toy, 1)
    before = toy._session.planning
    toy.planner.numbers["replan_every"].value = 77
    toy.planner.use()
    turn(toy, 1)
    assert "replan\\_every must be at most the 10 agent steps" in toy.planner.line.content
    assert toy._session.planning == before
    assert toy.planner.numbers["replan_every"].value == 77
    toy.planner.numbers["skill_length"].value = 100
    toy.planner.use()
    turn(toy, 1)
    assert toy.planner.line.content == ""
    assert toy._session.planning.replan_every == 77


def test_the_task_and_what_is_typed_keep_settings_of_their_own(toy: Any) -> None:
    toy.planner.numbers["num_candidates"].value = 20
    toy.planner.use()
    turn(toy, 1)
    toy._want("torso_upright")
    turn(toy, 1)
    numbers = toy.planner.numbers
    assert [box.value for box in numbers.values()] == [50, 50, 32, 10]
    numbers["horizon"].value = 30
    toy.planner.refit.value = "gradient"
    toy.planner.use()
    turn(toy, 1)
    assert "have no gradient" in toy.planner.line.content
    toy.planner.refit.value = "mppi"
    toy.planner.use()
    turn(toy, 1)
    toy._want(None)
    turn(toy, 1)
    assert (toy.planner.refit.value, numbers["num_candidates"].value) == ("cem", 20)
    toy._want("-torso_velocity[0]")
    turn(toy, 10)
    assert (toy._session.planning.refit, toy._session.planning.horizon) == ("mppi", 30)
    assert toy._session.pose.x < 0  # MPPI finds it as well


def test_the_robot_goes_on_in_another_task_of_its_family(robot: Any) -> None:
    turn(robot, 2)
    networks, trail = robot._session.networks, robot._session.pose
    robot.task.task.value = "quadruped_reach"
    turn(robot, 1)
    assert robot._session.task == QUADRUPED  # it was no hand that chose
    robot._move("pause")
    robot.task.chosen(HAND)
    assert not robot.player.turn()
    session = robot._session
    assert (session.task, session.steps) == ("quadruped_reach", 0)
    assert session.networks is networks
    assert session.pose != trail
    assert isinstance(robot.view, Scene)
    assert robot.view._data is session.env.unwrapped.simulator[1]
    assert node(robot, "goal").position[:2] == pytest.approx(session.goal, abs=1e-5)
    robot._move("go")
    turn(robot, 10)
    assert session.returned == pytest.approx(measured(session, 10), rel=0.3)
    said = robot._status.content
    assert "quadruped\\_reach, planned for quadruped\\_upright\\_walk" in said
    robot.task.task.value = QUADRUPED
    robot.task.chosen(HAND)
    turn(robot, 1)
    assert node(robot, "goal") is None


def measured(session: Session, steps: int) -> float:
    """What quadruped_reach pays for standing upright here, by its definition."""
    assert session.goal is not None
    assert session.pose is not None
    away = np.hypot(session.goal[0] - session.pose.x, session.goal[1] - session.pose.y) - 0.5
    return float(steps * session.trained.action_repeat * (1 - away / 8))


def test_a_task_that_does_not_fit_is_explained(robot: Any) -> None:
    turn(robot, 1)
    robot.task.task.options = (*FAMILY, "quadruped_walk")
    robot.task.task.value = "quadruped_walk"
    robot.task.chosen(HAND)
    turn(robot, 1)
    assert "quadruped\\_walk has" in robot.task.line.content
    assert robot.task.task.value == QUADRUPED
    assert robot._session.steps == 2


def test_no_name_of_a_task_imports_anything(robot: Any) -> None:
    for task in ("own_tasks:Reach", "gymnasium:os:x-v0", "nonsense"):
        with pytest.raises(UserError, match="no task of dm_control's"):
            robot._session.switch(task)


@pytest.mark.long
def test_the_family_has_the_same_body_and_observations(robot: Any) -> None:
    assert family_of(robot._session) == [
        "quadruped_getup_reach",
        "quadruped_getup_walk",
        "quadruped_reach",
        "quadruped_upright_walk",
    ]
    networks = build_networks(
        spaces_of(make_env(Reach)), lsp.make_config("lsp", "debug", task="own"), "cpu"
    )
    assert family_of(Session(networks, lambda: make_env(Reach))) == []


def test_a_saved_skill_is_held_again_on_another_day(toy: Any, data: Path, tmp_path: Path) -> None:
    toy._hold(np.array([0.25, -0.5, 0]))
    toy.saved.name.value = "  to the   right "
    toy.saved.save()
    turn(toy, 1)
    assert toy.saved.line.content == ""
    assert toy.saved.names.options == ("to the right",)
    assert json.loads((data / "skills" / f"{RUN}.json").read_text()) == {
        "to the right": [0.25, -0.5, 0]
    }
    for again in opened(Session(knowing_networks(), Point), tmp_path):
        turn(again, 1)
        assert again.saved.names.options == ("to the right",)
        again.saved.hold()
        turn(again, 1)
        assert again._session.source == "held"
        np.testing.assert_allclose(again._session.held, [0.25, -0.5, 0])


def test_a_planned_skill_is_saved_too(toy: Any) -> None:
    turn(toy, 1)
    toy.saved.name.value = "planned"
    toy.saved.save()
    turn(toy, 1)
    found = SavedSkills(RUN, 3).find("planned")
    np.testing.assert_array_equal(found, toy._session.agent.skill[0].numpy())
    assert np.abs(found).max() > 0


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"a": [1, 2]}', '{"a": [1, 2, NaN]}', '{"a": [1, 2, true]}',
     '{"": [1, 2, 3]}', '{"a": 1}', '{"a": [1, 2, 1e400]}', '{"a\\n": [1, 2, 3]}', "\0"],
)  # fmt: skip
def test_damaged_skills_are_one_line_and_stay_as_they_are(text: str, toy: Any, data: Path) -> None:
    path = data / "skills" / f"{RUN}.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    turn(toy, 1)
    assert "is damaged" in toy.saved.line.content
    assert "\n" not in toy.saved.line.content
    toy.saved.name.value = "mine"
    toy.saved.save()
    turn(toy, 1)
    assert "is damaged" in toy.saved.line.content
    assert path.read_text() == text
    path.unlink()
    toy.saved.save()
    turn(toy, 1)
    assert toy.saved.line.content == ""
    assert list(SavedSkills(RUN, 3).read()) == ["mine"]


def test_names_and_their_number_are_bounded(data: Path) -> None:
    saved = SavedSkills(RUN, 1)
    for name in ("", "   ", "a" * 41, "a\0b"):
        with pytest.raises(UserError, match="1 to 40 letters"):
            saved.save(name, np.zeros(1))
    for number in range(MOST):
        saved.save(str(number), np.zeros(1))
    saved.save("7", np.ones(1))
    with pytest.raises(UserError, match="100 skills already"):
        saved.save("one more", np.zeros(1))
    assert saved.find("7") == [1]
    with pytest.raises(UserError, match="'one more' is not in"):
        saved.find("one more")
    (data / "skills" / f"{RUN}.json").unlink()
    (data / "skills").rmdir()
    (data / "skills").write_text("no folder")
    with pytest.raises(UserError, match="cannot be written"):
        saved.save("a", np.zeros(1))


class Filmed(Reach):
    """Whose pictures are of one grey, which grows lighter."""

    shown = 0

    def render(self) -> Any:
        self.shown += 10
        return np.full((32, 48, 3), self.shown, np.uint8)


def filmed(session: Any, films: Path) -> Any:
    """A page that has made a film of four frames."""
    for page in opened(session, films):
        turn(page, 1)
        page.film.choose("record")
        turn(page, 3)
        assert "recording: " in page.film.line.content
        assert not list(films.glob("*-1.mp4"))  # before it is whole
        page.film.choose("stop")
        turn(page, 2)
        yield page


def of_own(env: Any) -> Session:
    config = lsp.make_config("lsp", "debug", task="own")
    return Session(build_networks(spaces_of(make_env(env)), config, "cpu"), lambda: make_env(env))


def test_a_film_has_every_step_and_its_place_is_said(tmp_path: Path) -> None:
    films = tmp_path / "films"
    for page in filmed(of_own(Filmed), films):
        (path,) = films.iterdir()
        assert path.name == "own-1.mp4"
        plain = page.film.line.content.replace("\\", "")
        assert plain == f"**film: {path}**"
        frames = imageio.imread(path)
        assert frames.shape == (4, 32, 48, 3)
        assert (np.diff(frames.mean((1, 2, 3))) > 5).all()
        page.film.choose("record")
        turn(page, 1)
    assert sorted(path.name for path in films.iterdir()) == ["own-1.mp4", "own-2.mp4"]


@pytest.mark.skipif(rendering_problem() is not None, reason=str(rendering_problem()))
def test_the_simulated_robot_is_filmed(tmp_path: Path) -> None:
    for _ in filmed(quadruped(), tmp_path / "films"):
        frames = imageio.imread(tmp_path / "films" / f"{QUADRUPED}-1.mp4")
        assert frames.shape == (4, 256, 256, 3)
        assert frames.std() > 10


def test_without_opengl_one_line_says_why_there_is_no_film(
    robot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lsp.envs.dmc.rendering_problem", lambda: "Cannot render (no OpenGL).")
    robot.film.choose("record")
    turn(robot, 2)
    assert "Cannot render" in robot.film.line.content
    assert "\n" not in robot.film.line.content
    assert not (tmp_path / "films").exists()


class Breaks(Filmed):
    """Which shows four pictures."""

    def render(self) -> Any:
        if self.shown >= 40:
            raise RuntimeError("the lamp is broken")
        return super().render()


def film(recorder: Recorder, env: Any, frames: int) -> None:
    for _ in range(frames):
        recorder.add(env)


def test_a_film_that_cannot_go_on_is_kept_as_far_as_it_is(tmp_path: Path) -> None:
    env, recorder = make_env(Breaks), Recorder(tmp_path)
    env.reset()
    recorder.start(env, "a", 0.1)
    with pytest.raises(UserError, match="the lamp is broken"):
        film(recorder, env, 9)
    assert not recorder.is_on
    assert len(imageio.imread(tmp_path / "a-1.mp4")) == 4
    recorder.stop()


def test_a_page_whose_pictures_fail_pauses_and_says_why(tmp_path: Path) -> None:
    for page in opened(of_own(Breaks), tmp_path / "films"):
        page.film.choose("record")
        for _ in range(6):
            page.player.turn()
        assert page.player.paused
        assert "the lamp is broken" in page._line.content
    assert [path.name for path in (tmp_path / "films").iterdir()] == ["own-1.mp4"]


def test_a_film_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "films").write_text("no folder")
    env = make_env(Filmed)
    env.reset()
    with pytest.raises(UserError, match="cannot be written"):
        Recorder(tmp_path / "films").start(env, "a", 0.1)


def test_a_film_whose_writer_dies_is_explained_and_leaves_nothing(tmp_path: Path) -> None:
    env = make_env(Filmed)
    env.reset()
    recorder = Recorder(tmp_path)
    recorder.start(env, "a", 0.1)
    me = str(os.getpid())
    found = subprocess.run(
        ["ps", "-wwo", "pid=,args=", "--ppid", me], capture_output=True, text=True
    )
    (writer,) = (line.split()[0] for line in found.stdout.splitlines() if str(tmp_path) in line)
    os.kill(int(writer), signal.SIGKILL)
    with pytest.raises(UserError, match="cannot be written") as raised:
        film(recorder, env, 1000)
    assert "\n" not in str(raised.value)
    assert not recorder.is_on
    assert list(tmp_path.iterdir()) == []


def test_the_server_answers_while_a_plan_takes_long(
    toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    planning, finish = threading.Event(), threading.Event()

    def plan_long(*arguments: Any) -> Any:
        planning.set()
        assert finish.wait(60)
        raise UserError("the plan was given up")

    monkeypatch.setattr("lsp.algorithm.agent.plan_skills", plan_long)
    stepping = threading.Thread(target=toy.run)
    stepping.start()
    try:
        assert planning.wait(60)
        began = time.monotonic()
        assert b"<html" in urlopen(toy.address, timeout=10).read(1000)
        toy._hold(np.ones(3))
        toy.film.choose("stop")
        assert time.monotonic() - began < 5
        assert toy._session.source == "planned"
    finally:
        toy.player.stop()
        finish.set()
        stepping.join()


@pytest.mark.skipif(rendering_problem() is not None, reason=str(rendering_problem()))
def test_an_agent_that_sees_pixels_is_explored_too(tmp_path: Path) -> None:
    def make() -> Any:
        return make_env("walker_walk", obs="pixels")

    config = lsp.make_config("lsp", "debug", obs="pixels")
    session = Session(build_networks(spaces_of(make()), config, "cpu"), make)
    for page in opened(session, tmp_path):
        page.film.choose("record")
        turn(page, 2)
        assert isinstance(page.view, Scene)
        assert page._line.content == ""
    assert len(imageio.imread(tmp_path / "walker_walk-1.mp4")) == 3
