"""The page without a browser: its server, what its controls do, and what is drawn.

Needs the extra `explorer`.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builders import make_networks
from own_tasks import Reach
from steered import Point, knowing_networks

import lsp
from lsp.envs import make_env
from lsp.explorer.session import Session
from lsp.runs.spaces import spaces_of
from lsp.training.build import build_networks

pytest.importorskip("viser")
pytest.importorskip("mjviser")

from pages import node, opened, quadruped, turn

from lsp.explorer.views import Frames, Numbers, Scene


@pytest.fixture
def toy(tmp_path: Any) -> Any:
    yield from opened(Session(knowing_networks(), Point), tmp_path)


@pytest.fixture
def robot(tmp_path: Any) -> Any:
    yield from opened(quadruped(), tmp_path)


def test_it_is_served_on_this_machine_alone(toy: Any) -> None:
    assert toy.address.startswith("http://127.0.0.1:")


def test_nothing_moves_while_nobody_watches_or_it_is_paused(toy: Any) -> None:
    toy.player.watched = False
    assert not toy.player.turn()
    toy.player.watched = True
    toy._move("pause")
    assert not toy.player.turn()
    toy._move("go")
    turn(toy, 1)
    toy._move("reset")
    turn(toy, 1)
    assert toy._session.steps == 1


def test_controls_change_what_the_robot_does(toy: Any) -> None:
    toy._hold(np.array([1.0, 0, 0]))
    turn(toy, 5)
    assert toy._session.pose[0] == pytest.approx(0.5)
    toy._choose("random")
    turn(toy, 1)
    assert toy._session.source == "random"
    drawn = toy._session.held
    toy._choose("hold")
    turn(toy, 1)
    np.testing.assert_allclose(toy._session.held, drawn)
    assert toy._session.source == "held"


def test_a_hand_on_a_slider_holds_and_the_page_itself_does_not(toy: Any) -> None:
    turn(toy, 1)
    assert toy._session.source == "planned"
    toy._sliders[0].value = 0.5  # as the page does, to show the skill in force
    turn(toy, 1)
    assert toy._session.source == "planned"
    toy._slid(client=object())
    turn(toy, 1)
    assert toy._session.source == "held"
    assert toy._session.held[0] == pytest.approx(0.5)


def test_the_pad_moves_the_first_two_numbers(toy: Any) -> None:
    toy._sliders[2].value = 0.7
    toy._dot.position = (0.25, -0.5, 0)
    toy._dragged()
    turn(toy, 1)
    np.testing.assert_allclose(toy._session.held, [0.5, -1, 0.7], atol=1e-6)


def test_a_wrong_reward_is_explained_beside_its_box(toy: Any) -> None:
    turn(toy, 1)
    toy._want("the_height")
    turn(toy, 1)
    assert "'the\\_height' is not observed" in toy._wish_line.content
    toy._want("-torso_velocity[0]")
    turn(toy, 3)
    assert toy._wish_line.content == ""
    assert toy._session.wanted.name == "-torso_velocity[0]"
    toy._want(None)
    turn(toy, 1)
    assert toy._session.wanted.own is None


def test_a_reward_that_cannot_be_paid_later_is_given_up(toy: Any) -> None:
    # 0 while the robot stands, and infinite as soon as it moves.
    toy._want("exp(1e9 * norm(torso_velocity)) - 1")
    for _ in range(3):
        toy.player.turn()
    assert "finite" in toy._line.content
    assert toy._session.wanted.own is None
    turn(toy, 2)


def test_a_simulator_that_fails_pauses_the_page_and_says_why(toy: Any, monkeypatch: Any) -> None:
    def fail(action: Any) -> Any:
        raise RuntimeError("unstable")

    with monkeypatch.context() as patch:
        patch.setattr(toy._session.env, "step", fail)
        assert not toy.player.turn()
    assert "unstable" in toy._line.content
    assert toy.player.paused
    toy._move("reset")
    turn(toy, 1)


def test_a_command_that_fails_leaves_the_next_ones(toy: Any, monkeypatch: Any) -> None:
    def fail(seed: Any = None) -> Any:
        raise RuntimeError("stuck")

    monkeypatch.setattr(toy._session, "reset", fail)
    toy._move("reset")
    toy._choose("random")
    turn(toy, 1)
    assert toy._session.source == "random"
    assert toy._line.content == ""  # of the last one
    toy._move("reset")
    turn(toy, 1)
    assert "stuck" in toy._line.content


def test_the_robot_is_in_a_scene_with_what_is_imagined(robot: Any) -> None:
    assert isinstance(robot.view, Scene)
    robot._fan(True)
    turn(robot, 12)
    assert node(robot, "fan").points.shape == (9 * 50, 2, 3)
    assert node(robot, "ahead").points.shape == (50, 2, 3)
    assert node(robot, "trail") is not None
    assert node(robot, "end_9") is not None
    assert "return" in robot._status.content
    robot._fan(False)
    assert node(robot, "fan") is None
    assert node(robot, "end_9") is None


def test_a_planar_body_is_in_a_scene_without_lines(tmp_path: Any) -> None:
    def make() -> Any:
        return make_env("cheetah_run")

    networks = build_networks(spaces_of(make()), lsp.make_config("lsp", "debug"), "cpu")
    for page in opened(Session(networks, make, task="cheetah_run"), tmp_path):
        page._fan(True)
        turn(page, 2)
        assert isinstance(page.view, Scene)
        assert node(page, "fan") is None


def test_a_click_on_the_ground_is_where_to_go(robot: Any) -> None:
    turn(robot, 2)
    x, y = robot._session.pose[:2]
    # Straight down, 1.5 m ahead of where the robot is drawn: in the middle.
    robot._clicked((1.5, 0.0, 3.0), (0.0, 0.0, -1.0))
    turn(robot, 1)
    assert robot._session.wanted.place == pytest.approx((x + 1.5, y), abs=0.1)
    assert node(robot, "goal") is not None
    robot._clicked((0.0, 0.0, 3.0), (0.0, 0.0, 1.0))  # into the sky
    turn(robot, 1)
    assert robot._session.wanted.place == pytest.approx((x + 1.5, y), abs=0.1)
    robot._want(None)
    turn(robot, 1)
    assert node(robot, "goal") is None


def of_reach(make: Any) -> Session:
    networks = build_networks(spaces_of(make()), lsp.make_config("lsp", "debug", task="own"), "cpu")
    return Session(networks, make)


def test_frames_stand_for_a_scene_where_mujoco_does_not_simulate(tmp_path: Any) -> None:
    for page in opened(of_reach(lambda: make_env(Reach)), tmp_path):
        assert isinstance(page.view, Frames)
        before = page.view._image.image.copy()
        turn(page, 5)
        assert (page.view._image.image != before).any()


def test_numbers_are_shown_where_nothing_can_be_rendered(toy: Any, tmp_path: Any) -> None:
    class Broken(Reach):
        def render(self) -> Any:
            raise RuntimeError("no display")

    assert isinstance(toy.view, Numbers)
    for page in opened(of_reach(lambda: make_env(Broken)), tmp_path):
        assert isinstance(page.view, Numbers)
        assert "no display" in page._status.content
        turn(page, 10)
        assert "**skill**" in page._status.content


def test_two_tabs_see_one_session_and_it_rests_when_both_are_closed(
    toy: Any, monkeypatch: Any
) -> None:
    watching: dict[int, Any] = {}
    monkeypatch.setattr(toy.server, "get_clients", lambda: watching)
    for tabs, moves in (([1], True), ([1, 2], True), ([2], True), ([], False)):
        watching.clear()
        watching.update({tab: SimpleNamespace() for tab in tabs})
        toy._count()
        assert toy.player.turn() is moves


def test_an_agent_of_one_number_has_a_slider_and_no_pad(tmp_path: Any) -> None:
    shapes: Any = {"torso_velocity": (3,), "goal": (3,), "torso_upright": (1,), "imu": (6,)}
    networks = make_networks(shapes=shapes, skills={"dim": 1})
    for page in opened(Session(networks, Point), tmp_path):
        turn(page, 11)
        assert len(page._sliders) == 1
