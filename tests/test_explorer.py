"""The explorer without a browser: what is steered, imagined, predicted and planned."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from builders import make_networks
from steered import SECONDS, SHAPES, TIME_LIMIT, Point, knowing_networks

from lsp.envs import make_env
from lsp.envs.quadruped import Measurements
from lsp.errors import UserError
from lsp.explorer.ground import Pose, pose_of, way
from lsp.explorer.imagined import TURN, left_to_go, nearness
from lsp.explorer.planning import planned_with, planning_of
from lsp.explorer.session import AHEAD, EVERY, Session


@pytest.fixture
def session() -> Any:
    return Session(knowing_networks(), Point)


def test_points_come_back_from_the_body_to_the_world() -> None:
    pose = Pose(1.0, 2.0, np.pi / 2)
    np.testing.assert_allclose(
        pose.to_world(np.array([3.0, 1.0])), [0, 5], atol=1e-9
    )  # ahead is along y
    np.testing.assert_allclose(pose.to_body(np.array([0.0, 5.0])), [3, 1])


def circle(speed: float, turning: float, steps: int) -> Any:
    """What is observed on a circle to the left, and where that is, by hand."""
    angle = turning * SECONDS * np.arange(steps + 1)
    radius = speed / turning
    points = radius * np.stack([np.sin(angle), 1 - np.cos(angle)], -1)
    seen = {
        "torso_velocity": np.tile([speed, 0, 0], (steps + 1, 1)),
        "imu": np.tile([0, 0, 0, 0, 0, turning], (steps + 1, 1)),
    }
    return seen, points, angle


def test_a_circle_is_told_by_speed_and_gyroscope() -> None:
    seen, points, angle = circle(1.0, 0.8, 60)
    told = {key: seen[key][:, None] for key in ("torso_velocity", "imu")}
    found, heading = way(told, SECONDS)
    np.testing.assert_allclose(found[:, 0], points, atol=0.02)
    np.testing.assert_allclose(heading[:, 0], angle, atol=0.01)


def test_the_ways_of_the_simulated_quadruped_are_told_by_what_it_observes() -> None:
    task, rng = "quadruped_upright_walk", np.random.default_rng(1)
    env = make_env(task)
    observation, info = env.reset(seed=1)
    poses, seen = [pose_of(task, info)], [observation]
    speed, phase = rng.uniform(0.5, 2, 12), rng.uniform(0, 6, 12)
    for step in range(50):
        action = 0.4 * np.sin(2 * np.pi * speed * step * 0.04 + phase).astype(np.float32)
        observation, _, _, _, info = env.step(action)
        poses.append(pose_of(task, info))
        seen.append(observation)
    first, last = poses[0], poses[-1]
    assert first is not None
    assert last is not None
    assert (
        min(each["torso_upright"][0] for each in seen) > 0.8
    )  # speeds are of the torso's own axes
    told = {key: np.stack([each[key] for each in seen]) for key in ("torso_velocity", "imu")}
    points, heading = way(told, 0.04)
    moved = np.hypot(last.x - first.x, last.y - first.y)
    missed = np.linalg.norm(first.to_world(points[-1]) - np.array([last.x, last.y]))
    assert moved > 0.3
    assert missed < 0.1  # it wobbles, and speeds are known every 40 ms
    assert abs(first.heading + heading[-1] - last.heading) < 0.1  # it is tilted, too


def test_only_quadrupeds_are_on_the_ground() -> None:
    states = np.zeros((2, 60))
    states[1, :7] = 1, 2, 0.5, np.cos(0.3), 0, 0, np.sin(0.3)
    info = {"sim_state": states, "env_steps": 2}
    assert pose_of("quadruped_reach", info) == pytest.approx((1, 2, 0.6))
    assert Measurements(states[1]).heading == pytest.approx(0.6)
    assert pose_of("cheetah_run", info) is None
    assert pose_of("quadruped_reach", {"env_steps": 0}) is None


def test_a_held_skill_does_what_it_says(session: Any) -> None:
    session.hold(np.array([0.5, -0.2, 0], float))
    moments = [session.step() for _ in range(10)]
    assert moments[-1].pose[:2] == pytest.approx((0.5, -0.2))
    assert moments[-1].source == "held"
    assert moments[-1].returned == pytest.approx(5.0)
    session.hold(np.array([-0.5, 0, 0], float))
    assert session.step().pose[0] == pytest.approx(0.45)


def test_a_skill_of_another_size_is_refused(session: Any) -> None:
    for skill in ([0.5], [0, 0, np.nan]):
        with pytest.raises(UserError, match="3 finite numbers"):
            session.hold(np.array(skill))


def test_random_skills_are_drawn_now_and_then(session: Any) -> None:
    session.choose("random")
    skills = np.stack([session.step().skill for _ in range(3 * EVERY)])
    changes = np.flatnonzero(np.abs(np.diff(skills, axis=0)).max(-1) > 0) + 1
    assert list(changes) == [EVERY, 2 * EVERY]


def test_a_fan_is_where_the_robot_then_goes(session: Any) -> None:
    session.hold(np.array([0.3, 0.4, 0], float))
    session.step()
    session.fan_every = 1
    fan = session.step().fan
    assert fan.ways.shape == (9, AHEAD + 1, 2)
    np.testing.assert_allclose(fan.ways[:, 0], np.tile([0.03, 0.04], (9, 1)), atol=1e-3)
    for skill, line in zip(fan.imagined.skills, fan.ways):
        speed = np.clip(skill[:2], -1, 1)
        np.testing.assert_allclose(line[-1], [0.03, 0.04] + AHEAD * SECONDS * speed, atol=0.15)


def test_the_way_ahead_is_imagined_when_a_skill_is_new(session: Any) -> None:
    session.hold(np.array([1, 0, 0], float))
    news = [session.step().ahead is not None for _ in range(EVERY + 1)]
    assert news == [True] + [False] * (EVERY - 1) + [True]
    session.hold(np.array([0, 1, 0], float))
    assert session.step().ahead is not None


def test_an_episode_that_ends_is_followed_by_another(session: Any) -> None:
    session.hold(np.array([1, 0, 0], float))
    moments = [session.step() for _ in range(TIME_LIMIT + 1)]
    assert [m.step for m in moments[-2:]] == [TIME_LIMIT, 1]
    assert [m.ended for m in moments[-2:]] == [True, False]
    assert moments[-1].returned == pytest.approx(1)
    assert moments[-1].pose[0] == pytest.approx(SECONDS)


def test_what_is_left_to_go_counts_the_turn() -> None:
    ahead, behind = np.array([3.0, 0.0]), np.array([-3.0, 0.0])
    assert left_to_go(ahead) == pytest.approx(3)
    assert left_to_go(ahead, heading=-0.5) == pytest.approx(3 + 0.5 * TURN)
    assert left_to_go(behind) == pytest.approx(3 + np.pi * TURN)
    # Whoever looks to the left of west sees it a little to the right, not around the other side.
    assert left_to_go(behind, heading=np.pi + 0.2) == pytest.approx(3 + 0.2 * TURN)
    assert left_to_go(np.array([-0.4, 0.0])) == pytest.approx(0.4)  # it is there


@pytest.mark.parametrize("place", [(1.5, 1.0), (-1.0, 1.5)])
def test_a_place_is_reached_with_nothing_trained(session: Any, place: Any) -> None:
    for _ in range(3):
        session.step()
    session.go_to(*place)
    for _ in range(40):
        moment = session.step()
    assert np.hypot(moment.pose[0] - place[0], moment.pose[1] - place[1]) < 0.6
    # Near it each step pays 1, and the model, which is right, says so.
    assert moment.reward == pytest.approx(1, abs=0.05)
    assert moment.foretold == pytest.approx(moment.returned, rel=0.05)


def test_a_typed_reward_is_planned_for_and_paid(session: Any) -> None:
    session.want("torso_upright - torso_velocity[0]")
    for _ in range(2 * EVERY):
        moment = session.step()
    assert moment.pose[0] < -0.5
    # The first plan begins at rest; from then on it pays 1 and the speed backwards.
    assert moment.returned == pytest.approx(2 * EVERY - moment.pose[0] / SECONDS, rel=1e-3)
    assert moment.foretold == pytest.approx(moment.returned, rel=0.05)
    assert session.wanted.name == "torso_upright - torso_velocity[0]"


def test_what_is_wanted_can_be_given_up(session: Any) -> None:
    before = session.networks.config
    session.want("-norm(torso_velocity)")
    session.step()
    assert session.networks.config.planner.horizon == AHEAD
    session.want_task()
    assert session.networks.config is before
    session.hold(np.array([1, 0, 0], float))
    assert session.step().reward == pytest.approx(1)


def test_a_wrong_reward_changes_nothing(session: Any) -> None:
    session.want("torso_upright")
    for text in ("height", "1/0", "log(-torso_upright)"):
        with pytest.raises(UserError):
            session.want(text)
    assert session.wanted.name == "torso_upright"
    assert session.step().reward == pytest.approx(1)


def test_memory_is_kept_when_something_else_is_wanted(session: Any) -> None:
    for _ in range(5):
        session.step()
    latent = session.agent.latent
    session.want("torso_upright")
    torch.testing.assert_close(session.agent.latent, latent)
    assert session.agent.steps[0] > 0  # which is no first step of an episode


def test_a_body_that_is_on_no_ground_goes_nowhere() -> None:
    networks = make_networks(shapes=SHAPES)
    session = Session(networks, Point)  # of a task that is no quadruped's
    assert not session.has_ground
    session.fan_every = 1
    fan = session.step().fan
    assert fan is not None
    assert fan.ways is None
    with pytest.raises(UserError, match="no way over the ground"):
        session.go_to(1.0, 1.0)
    session.want("-norm(goal[1:])")
    assert np.isfinite(session.step().foretold)


def test_methods_without_skills_are_refused() -> None:
    with pytest.raises(UserError, match="dreamer has no skills"):
        Session(make_networks("dreamer", SHAPES), Point)


def test_nearness_is_what_reaching_pays() -> None:
    np.testing.assert_allclose(nearness(np.array([0.2, 4.5, 8.5]), 1.0), [1, 0.5, 0])
    assert nearness(0.0, -1.0) == 0


def planned(**changes: Any) -> Any:
    config = knowing_networks().config
    return planned_with(config, replace(planning_of(config), **changes)).planner


def test_the_best_plans_stay_the_same_share() -> None:
    usual = knowing_networks().config.planner
    shares = {count: planned(num_candidates=count).num_elites for count in (1, 8, 16, 200)}
    part = usual.num_elites / usual.num_candidates
    assert shares == {count: max(1, round(part * count)) for count in shares}
    assert planned(refit="mppi").num_elites == usual.num_elites


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"horizon": 0}, "horizon .* at least 1"),
        ({"skill_length": -1}, "skill_length .* at least 1"),
        ({"num_candidates": 0}, "num_candidates .* at least 1"),
        ({"num_candidates": 201}, "num_candidates must be at most 200 here, not 201"),
        ({"horizon": 10**9}, "horizon must be at most 200 here"),
        ({"horizon": 20, "replan_every": 21}, "at most the 20 agent steps"),
    ],
)
def test_a_planning_that_does_not_fit_is_one_line(changes: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        planned(**changes)
    assert "\n" not in str(raised.value)


def test_other_lengths_begin_plans_from_the_prior() -> None:
    networks = knowing_networks()
    skills = replace(networks.config.skills, proposal="learned")
    config = replace(networks.config, skills=skills)
    usual = planning_of(config)
    same = planned_with(config, replace(usual, num_candidates=8))
    assert same.skills.proposal == "learned"
    assert planned_with(config, replace(usual, horizon=20)).skills.proposal == "normal"


def test_methods_that_plan_nothing_say_so() -> None:
    networks = knowing_networks("random_skills")
    session = Session(networks, Point)
    with pytest.raises(UserError, match="random_skills plans nothing"):
        session.plan_with(replace(session.planning, refit="mppi"))
    session.want("-torso_velocity[0]")
    session.plan_with(replace(session.planning, refit="mppi"))
    for _ in range(10):
        pose = session.step().pose
    assert pose is not None
    assert pose.x < 0


def test_what_counts_is_how_far_an_agent_plans_ahead() -> None:
    networks: Any = knowing_networks()
    far = replace(networks.config.planner, acting_horizon=30)
    networks.config = replace(networks.config, planner=far)
    session = Session(networks, Point)
    usual = session.planning
    assert (usual.skill_length, usual.horizon, usual.replan_every) == (30, 30, 10)
    session.plan_with(replace(usual, num_candidates=8))
    session.step()
    planner = session.agent.config.planner
    assert (planner.skill_length, planner.horizon, planner.num_candidates) == (30, 30, 8)
    session.plan_with(replace(usual, horizon=20, skill_length=10))
    assert session.agent.config.planner.horizon == 20
