"""The replay with episodes of any lengths, resumed anywhere."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_replay import check_chunks, check_resumed

lengths_of_episodes = st.lists(st.integers(1, 12), min_size=1, max_size=12)


@pytest.fixture(autouse=True, scope="module")
def a_file_for_each() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lsp.training.replay.SHORT", 0)
        yield


few = settings(max_examples=40, deadline=None)


@few
@given(
    lengths=lengths_of_episodes,
    room=st.one_of(st.none(), st.integers(12, 40)),
    length=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_chunks_are_rows_as_written_contiguous_and_among_the_newest(
    lengths: Any, room: Any, length: Any, seed: Any
) -> None:
    check_chunks(lengths, room, length, seed)


@few
@given(
    lengths=lengths_of_episodes,
    room=st.one_of(st.none(), st.integers(12, 30)),
    data=st.data(),
)
def test_a_replay_resumed_anywhere_samples_as_the_unbroken_one(
    lengths: Any, room: Any, data: Any
) -> None:
    kept = data.draw(st.integers(0, len(lengths)))
    with tempfile.TemporaryDirectory() as folder:
        check_resumed(Path(folder) / "replay", lengths, room, kept)
