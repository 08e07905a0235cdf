"""Skills held from one start: what they do, how far apart they end, and the pictures of it."""

import csv
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lsp
from lsp.envs import make_env, rendering_problem
from lsp.envs.custom import make_user_env
from lsp.errors import UserError
from lsp.experiments.skills import report
from lsp.experiments.skills.above import photograph
from lsp.experiments.skills.held import Held, hold, skill_grid
from lsp.runs.spaces import spaces_of
from lsp.training.build import build_networks

QUADRUPED = "quadruped_upright_walk"


def networks_for(make: Any, task: str, method: str = "lsp") -> Any:
    """Fresh ones, which is enough to see what a skill changes."""
    return build_networks(spaces_of(make()), lsp.make_config(method, "debug", task=task), "cpu")


def on_ground(ends: Any) -> Held:
    ends = np.asarray(ends, float)
    return Held(np.zeros((len(ends), 3), np.float32), ends, "m", None, None)


def test_skills_start_alike_and_are_held() -> None:
    networks = networks_for(lambda: make_env(QUADRUPED), QUADRUPED)
    held = hold(networks, lambda: make_env(QUADRUPED), skill_grid(3, 4), steps=3, repeats=2)
    assert held.states is not None
    assert held.states.shape == (4, 2, 4, 60)
    assert (held.states[:, :, 0] == held.states[0, 0, 0]).all()
    assert held.unit == "m"
    assert held.between_skills() > 0
    assert held.between_repeats() > 0


def test_distances_are_means_over_pairs() -> None:
    # Means of repeats at (0, 0), (3, 0) and (0, 4), so 3, 4 and 5 apart; repeats 2, 0 and 4.
    held = on_ground([[[-1, 0], [1, 0]], [[3, 0], [3, 0]], [[0, 2], [0, 6]]])
    assert held.between_skills() == pytest.approx(4)
    assert held.between_repeats() == pytest.approx(2)
    header, *rows = report.distance_rows(held)
    assert [row[2:] for row in rows] == [
        ("3.500", "2.000", "m"),
        ("4.000", "0.000", "m"),
        ("4.500", "4.000", "m"),
    ]
    assert len(header) == len(rows[0])


def test_readings_are_compared_in_their_own_spread() -> None:
    """A reading in thousands counts no more than one in tenths."""

    class Far(make_own_reach()):  # type: ignore[misc]
        def observe(self) -> Any:
            seen: dict[str, Any] = super().observe()
            return seen | {"position": seen["position"] * 1000}

    ends = []
    for kind in (make_own_reach(), Far):
        make = partial(make_user_env, kind)
        held = hold(networks_for(make, "own"), make, skill_grid(3, 4), 3)
        assert held.unit == "std"
        ends.append(held.ends.std((0, 1)))
    for spread in ends:
        assert set(np.round(spread, 6)) <= {0.0, 1.0}


def make_own_reach() -> Any:
    from own_tasks import Reach

    return Reach


def test_an_episode_that_ends_stays_where_it_ended() -> None:
    class Short(make_own_reach()):  # type: ignore[misc]
        def step(self, action: Any) -> Any:
            seen, reward, _, _, info = super().step(action)
            assert self.time < 3, "stepped after the end"
            return seen, reward, self.time == 2, False, info

    networks = networks_for(lambda: make_user_env(Short), "own")
    held = hold(networks, lambda: make_user_env(Short), skill_grid(3, 4), steps=5, film=True)
    assert held.frames is not None
    assert held.frames.shape[:2] == (4, 6)
    assert (held.frames[:, 2:] == held.frames[:, 2:3]).all()


def test_skills_form_a_square() -> None:
    assert len(np.unique(skill_grid(3, 9), axis=0)) == 9
    assert len(np.unique(skill_grid(1, 9), axis=0)) == 9
    assert (skill_grid(3, 9)[4] == 0).all()
    for count in (0, 1, 8, -4):
        with pytest.raises(UserError, match="form a square"):
            skill_grid(3, count)


def test_methods_without_skills_and_impossible_numbers_are_refused() -> None:
    def make() -> Any:
        return make_user_env(make_own_reach())

    with pytest.raises(UserError, match="dreamer has no skills"):
        hold(networks_for(make, "own", "dreamer"), make, np.zeros((4, 3), np.float32), 3)
    networks = networks_for(make, "own")
    for steps, repeats in ((0, 1), (3, 0), (3, 101)):
        with pytest.raises(UserError, match="at least one time and step"):
            hold(networks, make, skill_grid(3, 4), steps, repeats)


@pytest.mark.skipif(rendering_problem() is not None, reason=str(rendering_problem()))
def test_the_robot_is_seen_where_its_skills_end(monkeypatch: Any) -> None:
    monkeypatch.setattr("lsp.experiments.skills.above._PIXELS", 240)
    states = np.zeros((2, 2, 60))
    states[..., 2:4] = 0.6, 1  # above the ground, upright
    states[0, -1, :2], states[1, -1, :2] = (2, 0), (0, -2)  # metres to the right, and down
    colors = np.array([[1.0, 0, 0, 1], [0, 1, 0, 1]])
    picture = photograph(QUADRUPED, states, colors, np.zeros(2), 4.0).astype(int)
    scale = len(picture) / 8
    for channel, (x, y) in ((0, (2, 0)), (1, (0, -2))):
        others = picture.sum(-1) - picture[..., channel]
        rows, columns = np.nonzero(picture[..., channel] - others > 60)
        assert np.abs(columns.mean() - (4 + x) * scale) < 0.15 * scale
        assert np.abs(rows.mean() - (4 - y) * scale) < 0.15 * scale


@pytest.mark.long
def test_a_users_run_is_shown_with_films_or_by_its_table_alone(tmp_path: Path) -> None:
    config = lsp.make_config("lsp", "debug", task="tests.own_tasks:Reach")
    lsp.train(config, tmp_path / "run", 300)
    shown = lsp.show_skills(tmp_path / "run", hold_steps=3, grid=4, repeats=2)
    assert shown.no_pictures is None
    names = ["distances.csv", "skills.png", *(f"skill-{i}.mp4" for i in range(1, 5))]
    assert [path.name for path in shown.files] == names
    assert all(path.parent == tmp_path / "run" / "held_skills" for path in shown.files)

    class Blind(make_own_reach()):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.render_mode = None

    blind = lsp.show_skills(
        *(tmp_path / "run", tmp_path / "blind"), hold_steps=3, grid=4, repeats=1, env=Blind
    )
    assert [path.name for path in blind.files] == ["distances.csv"]
    assert "render_mode" in str(blind.no_pictures)
    with (tmp_path / "blind" / "distances.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["between_repeats"] for row in rows] == [""] * 4
