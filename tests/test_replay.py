"""The replay against a plain list of all rows ever added."""

import errno
import warnings
from typing import Any

import numpy as np
import pytest

from lsp.errors import RunWarning, UserError
from lsp.training.replay import Replay

SAMPLED = {"obs/image", "obs/position", "action", "reward", "is_first", "is_terminal"}


def make_episode(start: Any, rows: Any, repeat: Any = 2) -> Any:
    """Rows that can be told apart: the position of row t is ``start + t``."""
    number = np.arange(start, start + rows)
    first = np.arange(rows) == 0
    return {
        "obs/position": np.stack([number, -number], axis=1).astype(np.float32),
        "obs/image": np.broadcast_to(number[:, None, None] % 256, (rows, 2, 3)).astype(np.uint8),
        "action": np.where(first, 0, number)[:, None].astype(np.float32),
        "reward": np.where(first, 0, number / 2).astype(np.float32),
        "is_first": first,
        "is_terminal": (np.arange(rows) == rows - 1) & (rows % 2 == 0),
        "env_steps": np.where(first, 0, repeat).astype(np.int32),
        "sim_state": np.ones((rows, repeat, 3)) * number[:, None, None] / 3,
    }


def make_episodes(lengths: Any) -> Any:
    starts = np.cumsum([0, *lengths[:-1]])
    return [make_episode(start, rows) for start, rows in zip(starts, lengths, strict=True)]


@pytest.fixture(autouse=True)
def a_file_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here; tests/test_short_episodes.py has files with several."""
    monkeypatch.setattr("lsp.training.replay.SHORT", 0)


def fill(replay: Any, lengths: Any) -> Any:
    for episode in make_episodes(lengths):
        replay.add(episode)
    return replay


def all_rows(lengths: Any) -> Any:
    episodes = make_episodes(lengths)
    return {key: np.concatenate([each[key] for each in episodes]) for key in SAMPLED}


def assert_same_samples(one: Any, other: Any, length: Any = 3) -> None:
    first = one.sample(32, length, np.random.default_rng(0))
    second = other.sample(32, length, np.random.default_rng(0))
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key])


@pytest.mark.parametrize(
    ("lengths", "room", "length"),
    [([5], None, 5), ([3, 1, 12, 4], None, 7), ([9, 12, 2, 8], 14, 5), ([4, 4], 12, 10)],
)
def test_chunks_are_rows_as_written_contiguous_and_among_the_newest(
    lengths: Any, room: Any, length: Any
) -> None:
    check_chunks(lengths, room, length, seed=0)


def check_chunks(lengths: Any, room: Any, length: Any, seed: Any) -> None:
    replay = fill(Replay(None, room), lengths)
    total = sum(lengths)
    held = min(total, room or total)
    assert len(replay) == held
    if held < length:
        with pytest.raises(UserError, match="too few"):
            replay.sample(4, length, np.random.default_rng(seed))
        return
    chunks = replay.sample(16, length, np.random.default_rng(seed))
    assert chunks.keys() == SAMPLED
    written = all_rows(lengths)
    for number, start in enumerate(chunks["obs/position"][:, 0, 0].astype(int)):
        assert total - held <= start <= total - length
        for key, rows in written.items():
            assert chunks[key].dtype == rows.dtype
            np.testing.assert_array_equal(chunks[key][number], rows[start : start + length])


def test_every_possible_start_is_equally_likely() -> None:
    lengths = [7, 9, 8, 6]
    replay = fill(Replay(None, 20), lengths)  # rows 10 … 29 are left
    chunks = replay.sample(40_000, 5, np.random.default_rng(0))
    starts, counts = np.unique(chunks["obs/position"][:, 0, 0], return_counts=True)
    np.testing.assert_array_equal(starts, np.arange(10, 26))
    # 2500 expected of each, standard deviation 48.
    assert np.abs(counts - 2500).max() < 250


@pytest.mark.parametrize("capacity", [None, 40])
def test_the_newest_rows_can_be_drawn_alone(capacity: Any) -> None:
    replay = fill(Replay(None, capacity), [20, 20, 20])
    drawn = replay.sample(500, 5, np.random.default_rng(0), newest=25)["obs/position"][..., 0]
    assert set(drawn[:, 0]) == set(range(35, 56))
    np.testing.assert_array_equal(drawn, drawn[:, :1] + np.arange(5))
    with pytest.raises(UserError, match="holds 3 rows"):
        replay.sample(1, 5, np.random.default_rng(0), newest=3)


def test_chunks_span_episode_ends_and_is_first_marks_them() -> None:
    replay = fill(Replay(None, None), [3, 4, 2])
    chunk = replay.sample(1, 9, np.random.default_rng(0))
    np.testing.assert_array_equal(np.flatnonzero(chunk["is_first"][0]), [0, 3, 7])
    np.testing.assert_array_equal(chunk["action"][0, :, 0], [0, 1, 2, 0, 4, 5, 6, 0, 8])
    np.testing.assert_array_equal(np.flatnonzero(chunk["is_terminal"][0]), [6, 8])


def test_samples_are_copies() -> None:
    replay = fill(Replay(None, None), [5])
    replay.sample(2, 5, np.random.default_rng(0))["reward"][:] = 99
    assert replay.sample(2, 5, np.random.default_rng(0))["reward"].max() < 99


def test_memory_without_a_limit_grows_and_keeps_everything() -> None:
    lengths = [1000] * 5
    replay = fill(Replay(None, None), lengths)
    chunk = replay.sample(1, 5000, np.random.default_rng(0))
    for key, rows in all_rows(lengths).items():
        np.testing.assert_array_equal(chunk[key][0], rows)


def test_counts_cover_everything_ever_added(tmp_path: Any) -> None:
    lengths = [5, 6, 7]
    replay = fill(Replay(tmp_path / "replay", 8), lengths)
    assert len(replay) == 8
    assert replay.num_episodes == 3
    assert replay.num_env_steps == 2 * (4 + 5 + 6)
    again = Replay.load(tmp_path / "replay", 8, 3)
    assert (len(again), again.num_episodes, again.num_env_steps) == (8, 3, 30)


@pytest.mark.parametrize("kept", [0, 1, 4])
@pytest.mark.parametrize("room", [None, 13])
def test_a_replay_resumed_anywhere_samples_as_the_unbroken_one(
    tmp_path: Any, room: Any, kept: Any
) -> None:
    check_resumed(tmp_path / "replay", [5, 12, 1, 7], room, kept)


def check_resumed(directory: Any, lengths: Any, room: Any, kept: Any) -> None:
    unbroken = fill(Replay(directory, room), lengths)
    resumed = Replay.load(directory, room, kept)
    assert resumed.num_episodes == kept
    assert len(resumed) == min(sum(lengths[:kept]), room or 10**6)
    for episode in make_episodes(lengths)[kept:]:
        resumed.add(episode)
    assert resumed.num_env_steps == unbroken.num_env_steps
    assert_same_samples(unbroken, resumed, length=1)
    assert_same_samples(unbroken, resumed, length=len(unbroken))
    assert_same_samples(resumed, Replay.load(directory, room, len(lengths)), length=1)


def test_files_hold_whole_episodes(tmp_path: Any) -> None:
    lengths = [5, 6, 7]
    replay = fill(Replay(tmp_path, 8), lengths)
    for stored, added in zip(replay.episodes(), make_episodes(lengths), strict=True):
        assert stored.keys() == added.keys()
        for key in added:
            assert stored[key].dtype == added[key].dtype
            np.testing.assert_array_equal(stored[key], added[key])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"episode-{index:06d}.npz" for index in range(3)]


def test_loading_changes_no_file_and_the_next_episode_removes_later_ones(tmp_path: Any) -> None:
    fill(Replay(tmp_path, None), [3, 4, 5, 6])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    replay = Replay.load(tmp_path, None, 2)
    assert len(replay) == 7
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    replay.add(make_episode(100, 9))
    assert len(list(tmp_path.iterdir())) == 3
    assert [len(episode["reward"]) for episode in replay.episodes()] == [3, 4, 9]


def test_a_new_replay_does_not_overwrite_an_old_one(tmp_path: Any) -> None:
    fill(Replay(tmp_path, None), [3])
    with pytest.raises(UserError, match="already holds episodes"):
        Replay(tmp_path, None)


SPOILERS = [
    lambda path: path.unlink(),
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"not an archive"),
    lambda path: path.write_bytes(path.read_bytes()[:500]),
    lambda path: np.savez(path, reward=np.zeros(3)),
    lambda path: np.savez(path, env_steps=np.zeros(3)),
    lambda path: np.savez(path, env_steps=np.zeros(())),
    lambda path: np.savez(path, env_steps=np.array(["a", "b"])),
    lambda path: np.savez(path, env_steps=np.array([{}, {}], dtype=object)),
    lambda path: np.savez_compressed(path, **make_episode(3, 4)),
    lambda path: np.savez(path, **make_episode(0, 4) | {"action": np.zeros((4, 5))}),
    lambda path: np.savez(path, **make_episode(0, 4) | {"action": np.array([["a"]] * 4)}),
]


@pytest.mark.parametrize("spoil", SPOILERS)
def test_a_damaged_episode_is_named_set_aside_and_learned_without(
    tmp_path: Any, spoil: Any
) -> None:
    fill(Replay(tmp_path, None), [3, 4, 5])
    path = tmp_path / "episode-000001.npz"
    spoil(path)
    before = {each: each.read_bytes() for each in tmp_path.glob("*")}
    with pytest.warns(RunWarning, match=r"1 of 3 episodes are left out: .*episode-000001\.npz"):
        replay = Replay.load(tmp_path, None, 3)
    with pytest.warns(RunWarning, match=r"1 of 3 episodes are left out: .*episode-000001\.npz"):
        streamed = list(Replay.stream(tmp_path, 3))
    assert [len(episode["reward"]) for episode in streamed] == [3, 5]
    assert {each: each.read_bytes() for each in tmp_path.glob("*")} == before
    assert (len(replay), replay.num_episodes, replay.lost) == (8, 3, {1})
    chunk = replay.sample(1, 8, np.random.default_rng(0))
    np.testing.assert_array_equal(chunk["obs/position"][0, :, 0], [0, 1, 2, 7, 8, 9, 10, 11])
    replay.add(make_episode(12, 2))
    assert not path.exists()
    assert (tmp_path / "damaged" / path.name).exists() == (path in before)
    assert [len(episode["reward"]) for episode in replay.episodes()] == [3, 5, 2]
    with warnings.catch_warnings():
        if path in before:
            warnings.simplefilter("error")  # it is known by now
            assert len(list(Replay.stream(tmp_path, 4))) == 3
        else:
            warnings.simplefilter("ignore")
        again = Replay.load(tmp_path, None, 4)
    assert (len(again), again.lost) == (10, {1})


def test_an_episode_that_took_the_number_of_a_lost_one_is_not_lost(tmp_path: Any) -> None:
    fill(Replay(tmp_path, None), [3, 4, 5])
    (tmp_path / "episode-000002.npz").write_bytes(b"")
    with pytest.warns(RunWarning):
        Replay.load(tmp_path, None, 3).add(make_episode(12, 2))
    Replay.load(tmp_path, None, 2).add(make_episode(20, 6))  # from an older checkpoint
    assert len(Replay.load(tmp_path, None, 3)) == 3 + 4 + 6


def test_a_replay_of_which_nothing_is_left_is_an_error(tmp_path: Any) -> None:
    fill(Replay(tmp_path, None), [3, 4])
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    none = r"none of 2 episodes in .*episode-000000\.npz is damaged"
    with pytest.raises(UserError, match=none):
        Replay.load(tmp_path, None, 2)
    (tmp_path / "damaged").mkdir()
    known = tmp_path / "episode-000001.npz"
    known.rename(tmp_path / "damaged" / known.name)
    with pytest.raises(UserError, match=none):
        list(Replay.stream(tmp_path, 2))


def test_an_episode_longer_than_the_capacity_is_refused_before_it_is_written(tmp_path: Any) -> None:
    replay = Replay(tmp_path, 4)
    with pytest.raises(UserError, match="capacity of 4 rows"):
        replay.add(make_episode(0, 5))
    assert list(tmp_path.iterdir()) == []
    assert len(replay) == 0


def test_double_precision_observations_become_single_and_images_stay_bytes() -> None:
    replay = Replay(None, None)
    episode = make_episode(0, 4)
    replay.add(episode | {"obs/position": episode["obs/position"].astype(np.float64)})
    chunk = replay.sample(1, 4, np.random.default_rng(0))
    assert chunk["obs/position"].dtype == np.float32
    assert chunk["obs/image"].dtype == np.uint8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": None}, "reward"),
        ({"obs/image": None, "obs/position": None}, "observations"),
        ({"reward": np.zeros(3)}, "same number of rows"),
        ({"is_first": np.ones(4, bool)}, "is_first"),
        ({"action": np.zeros((4, 2))}, "'action'"),
        ({"obs/image": None}, "'obs/image'"),
        ({"obs/other": np.zeros((4, 2))}, "'obs/other'"),
    ],
)
def test_a_malformed_episode_is_refused(tmp_path: Any, change: Any, message: Any) -> None:
    replay = fill(Replay(tmp_path, None), [4])
    episode = make_episode(4, 4) | change
    with pytest.raises(ValueError, match=message):
        replay.add({key: rows for key, rows in episode.items() if rows is not None})
    assert len(list(tmp_path.iterdir())) == 1
    assert len(replay) == 4


def test_episodes_need_a_directory() -> None:
    with pytest.raises(UserError, match="directory"):
        next(fill(Replay(None, None), [3]).episodes())


def test_episodes_wait_in_memory_while_the_disk_is_full(tmp_path: Any, monkeypatch: Any) -> None:
    replay = fill(Replay(tmp_path, None), [3])

    with monkeypatch.context() as patch:
        patch.setattr("lsp.training.episode_files.write_arrays", full_disk)
        with pytest.warns(RunWarning, match=r"episode-000001\.npz cannot be written \(No space"):
            replay.add(make_episode(3, 4))
        with pytest.warns(RunWarning, match="with 1 more"):
            replay.add(make_episode(7, 2))
        with pytest.raises(OSError, match="No space"):
            replay.store()
    assert [path.name for path in tmp_path.iterdir()] == ["episode-000000.npz"]
    assert (len(replay), replay.num_episodes) == (9, 3)
    assert_same_samples(replay, fill(Replay(None, None), [3, 4, 2]))
    replay.store()
    assert [len(episode["reward"]) for episode in replay.episodes()] == [3, 4, 2]
    assert_same_samples(replay, Replay.load(tmp_path, None, 3))


def test_not_more_episodes_wait_than_memory_is_meant_for(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("lsp.training.replay._MOST_WAITING", 2)
    monkeypatch.setattr("lsp.training.episode_files.write_arrays", full_disk)
    replay = Replay(tmp_path, None)
    with pytest.warns(RunWarning):
        replay.add(make_episode(0, 3))
    with pytest.raises(UserError, match="2 episodes wait for room: free some"):
        replay.add(make_episode(3, 3))


def full_disk(path: Any, arrays: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_folder_that_cannot_be_read_is_not_taken_for_empty(
    tmp_path: Any, monkeypatch: Any
) -> None:
    def refuse(folder: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("lsp.runs.files.os.listdir", refuse)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
        Replay.load(tmp_path, None, num_episodes=1)
