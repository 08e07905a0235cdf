"""Short episodes share files, and are resumed, damaged and counted as any others."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_replay import assert_same_samples, make_episode, make_episodes
from unchecked import unchecked

from lsp.errors import RunWarning, UserError
from lsp.training.episode_files import ROWS, SHORT, Episode, episode_files, numbers
from lsp.training.replay import Replay

LENGTHS = [3, 4, 2, SHORT, 5, 3, SHORT + 3, 2]


def filled(folder: Path, lengths: list[int], capacity: int | None = None) -> Replay:
    replay = Replay(folder, capacity, "id")
    for episode in make_episodes(lengths):
        replay.add(episode)
    replay.store()
    return replay


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def lengths_of(replay: Replay) -> list[int]:
    return [len(episode["reward"]) for episode in replay.episodes()]


def test_short_episodes_share_a_file_with_those_around_them(tmp_path: Path) -> None:
    filled(tmp_path, LENGTHS)
    assert names(tmp_path) == [
        "episode-000000-000003.npz",
        "episode-000004-000006.npz",
        "episode-000007.npz",
    ]


def test_a_file_has_few_hundred_rows(tmp_path: Path) -> None:
    filled(tmp_path, [4] * 300)
    files = episode_files(tmp_path)
    assert [len(numbers(path)) for path in files] == [ROWS // 4, ROWS // 4, 300 - ROWS // 2]


def test_episodes_come_back_one_by_one_as_they_were(tmp_path: Path) -> None:
    replay = filled(tmp_path, LENGTHS)
    for way in (replay.episodes(), Replay.stream(tmp_path, len(LENGTHS), "id")):
        for stored, added in zip(way, make_episodes(LENGTHS), strict=True):
            assert stored.keys() == added.keys()
            for key in added:
                assert stored[key].dtype == added[key].dtype
                np.testing.assert_array_equal(stored[key], added[key])


def test_episodes_that_wait_are_episodes(tmp_path: Path) -> None:
    replay = Replay(tmp_path, None, "id")
    for episode in make_episodes([3, 4]):
        replay.add(episode)
    assert names(tmp_path) == []
    assert lengths_of(replay) == [3, 4]


@pytest.mark.parametrize("kept", [0, 2, 4, 8])
@pytest.mark.parametrize("capacity", [None, 40])
def test_a_replay_resumed_at_a_checkpoint_is_the_unbroken_one(
    tmp_path: Path, capacity: int | None, kept: int
) -> None:
    """`store` is what a checkpoint does; what came after it is replaced."""
    episodes = make_episodes(LENGTHS)
    unbroken = Replay(tmp_path / "one", capacity, "id")
    broken = Replay(tmp_path / "other", capacity, "id")
    for number, episode in enumerate(episodes):
        if number == kept:
            broken.store()
        unbroken.add(episode)
        broken.add(episode)
    unbroken.store()
    broken.store()
    resumed = Replay.load(tmp_path / "other", capacity, kept, "id")
    assert resumed.num_episodes == kept
    for episode in episodes[kept:]:
        resumed.add(episode)
    resumed.store()
    assert lengths_of(resumed) == LENGTHS
    assert resumed.num_env_steps == unbroken.num_env_steps
    assert_same_samples(unbroken, resumed, length=1)
    again = Replay.load(tmp_path / "other", capacity, len(LENGTHS), "id")
    assert_same_samples(unbroken, again, length=1)
    assert not again.lost


def test_episodes_that_a_checkpoint_does_not_count_are_replaced(tmp_path: Path) -> None:
    filled(tmp_path, [3, 4])
    replay = Replay.load(tmp_path, None, 2, "id")
    for episode in make_episodes([5, 6]):
        replay.add(episode)
    replay.store()
    assert names(tmp_path) == ["episode-000000-000001.npz", "episode-000002-000003.npz"]
    replay = Replay.load(tmp_path, None, 2, "id")
    replay.add(make_episode(50, 7))
    replay.store()
    assert names(tmp_path) == ["episode-000000-000001.npz", "episode-000002.npz"]


def rewrite(path: Path, **arrays: Any) -> None:
    with np.load(path) as stored:
        content = dict(stored)
    np.savez(path, **content | arrays)


SPOILERS: list[Any] = [
    lambda path: path.write_bytes(path.read_bytes()[:400]),
    lambda path: path.write_bytes(b""),
    lambda path: path.unlink(),
    lambda path: rewrite(path, is_first=np.zeros(25, bool)),
    lambda path: rewrite(path, is_first=np.ones(25, bool)),
    lambda path: rewrite(path, reward=np.zeros(3, np.float32)),
    lambda path: rewrite(path, is_first=np.zeros((), bool)),
    lambda path: path.rename(path.with_name("episode-000000-000002.npz")),
    lambda path: path.rename(path.with_name("episode-000000-000099.npz")),
    lambda path: path.rename(path.with_name("episode-000000-999999999999.npz")),
]


@pytest.mark.parametrize("spoil", SPOILERS)
def test_a_damaged_file_loses_its_episodes_and_no_others(tmp_path: Path, spoil: Any) -> None:
    filled(tmp_path, LENGTHS)
    spoil(tmp_path / "episode-000000-000003.npz")
    with pytest.warns(RunWarning, match="4 of 8 episodes are left out"):
        replay = Replay.load(tmp_path, None, 8, "id")
    assert replay.lost == {0, 1, 2, 3}
    assert replay.num_episodes == 8
    assert lengths_of(replay) == LENGTHS[4:]
    replay.add(make_episode(90, 20))
    with_one_more = Replay.load(tmp_path, None, 9, "id") if _told(tmp_path) else None
    if with_one_more is None:
        with pytest.warns(RunWarning, match="4 of 9"):
            with_one_more = Replay.load(tmp_path, None, 9, "id")
    assert with_one_more.lost == {0, 1, 2, 3}
    assert lengths_of(with_one_more) == [*LENGTHS[4:], 20]


def _told(folder: Path) -> bool:
    """Whether the damaged file lies aside, and is told of no more."""
    aside = episode_files(folder / "damaged")
    return {number for path in aside for number in numbers(path)} >= {0, 1, 2, 3}


def test_most_episodes_gone_is_refused(tmp_path: Path) -> None:
    filled(tmp_path, [3] * 40)
    (tmp_path / "episode-000000-000039.npz").unlink()
    with pytest.raises(UserError, match="holds 0 of 40 episodes"):
        Replay.load(tmp_path, None, 40, "id")


def test_episodes_with_other_arrays_have_other_files(tmp_path: Path) -> None:
    """Of an environment that knows its state only sometimes."""
    replay = Replay(tmp_path, None, "id")
    plain: Episode = make_episode(0, 3)
    plain.pop("sim_state", None)
    state = {"sim_state": np.zeros((3, 1, 4))}
    for episode in (plain, plain, plain | state, plain | state, plain):
        replay.add(episode)
    replay.store()
    expected = ["episode-000000-000001.npz", "episode-000002-000003.npz", "episode-000004.npz"]
    assert names(tmp_path) == expected


def test_ten_thousand_short_episodes_are_resumed_in_seconds(tmp_path: Path) -> None:
    with unchecked():
        replay = Replay(tmp_path, None, "id")
        episode = make_episode(0, 4)
        for _ in range(10_000):
            replay.add(episode)
        replay.store()
        assert len(names(tmp_path)) < 100
        began = time.process_time()
        assert Replay.load(tmp_path, None, 10_000, "id").num_episodes == 10_000
        assert time.process_time() - began < 5
