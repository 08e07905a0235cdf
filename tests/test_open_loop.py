"""Films of what the world model foresees."""

from typing import Any

import imageio.v3
import numpy as np
from builders import make_networks

from lsp.training.open_loop import CONTEXT, PREDICTED, draw_sequences, predict, write_film
from lsp.training.replay import Replay

LENGTH = CONTEXT + PREDICTED


def make_seeing(channels: Any = 3) -> Any:
    """Networks for images and goals."""
    return make_networks(shapes={"image": (64, 64, channels), "goal": (3,)})


def make_episode(length: Any = 60, channels: Any = 3, seed: Any = 0) -> Any:
    rng = np.random.default_rng(seed)
    return {
        "obs/image": rng.integers(0, 256, (length, 64, 64, channels), dtype=np.uint8),
        "obs/goal": rng.normal(size=(length, 3)).astype(np.float32),
        "action": rng.uniform(-1, 1, (length, 2)).astype(np.float32),
        "reward": np.zeros(length, np.float32),
        "is_first": np.arange(length) == 0,
        "is_terminal": np.zeros(length, bool),
        "env_steps": np.full(length, 2, np.int32),
    }


def make_batch() -> Any:
    episodes = [make_episode(LENGTH, seed=seed) for seed in range(2)]
    return {key: np.stack([x[key] for x in episodes]) for key in episodes[0]}


def test_the_context_is_observed_and_the_rest_foreseen() -> None:
    networks, batch = make_seeing(), make_batch()
    shown = predict(networks, batch)
    np.testing.assert_array_equal(shown.truth, batch["obs/image"])
    same = (shown.open_loop == shown.reconstruction).all((0, 2, 3, 4))
    assert same[:CONTEXT].all()
    assert not same[CONTEXT:].any()


def test_what_comes_after_the_context_is_not_looked_at() -> None:
    networks, batch = make_seeing(), make_batch()
    blind = {key: x.copy() for key, x in batch.items()}
    blind["obs/image"][:, CONTEXT:] = 0
    blind["obs/goal"][:, CONTEXT:] = 0
    seen, unseen = predict(networks, batch), predict(networks, blind)
    np.testing.assert_array_equal(seen.open_loop, unseen.open_loop)
    assert not np.array_equal(seen.reconstruction, unseen.reconstruction)


def test_the_actions_are_followed() -> None:
    networks, batch = make_seeing(), make_batch()
    other = batch | {"action": -batch["action"]}
    one, two = predict(networks, batch).open_loop, predict(networks, other).open_loop
    assert not np.array_equal(one[:, CONTEXT:], two[:, CONTEXT:])


def test_sequences_do_not_cross_episodes_and_drawing_changes_nothing() -> None:
    replay = Replay(None, None)
    assert draw_sequences(replay) is None
    for seed in range(3):
        replay.add(make_episode(seed=seed))
    batch = draw_sequences(replay)
    assert batch is not None
    assert batch["reward"].shape[1] == LENGTH
    assert not batch["is_first"][:, 1:].any()
    again = draw_sequences(replay)
    assert again is not None
    np.testing.assert_array_equal(batch["action"], again["action"])


def test_the_film_is_a_gif_of_four_rows(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("lsp.training.open_loop.PREDICTED", 3)
    for channels in (1, 3):
        networks, replay, path = make_seeing(channels), Replay(None, None), tmp_path / "film.gif"
        write_film(networks, replay, path)
        assert not path.exists()
        for seed in range(3):
            replay.add(make_episode(channels=channels, seed=seed))
        write_film(networks, replay, path)
        film = imageio.v3.imread(path)
        assert film.shape[:2] == (CONTEXT + 3, 4 * 64)
        assert film.shape[2] % 64 == 0
        path.unlink()
