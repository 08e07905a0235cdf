"""What replaces a file is whole, or the old file is still there."""

from contextlib import suppress
from pathlib import Path

import imageio.v3
import numpy as np
import pytest

from lsp.report.video import VideoWriter
from lsp.runs.files import replacing

FRAME = np.zeros((32, 32, 3), np.uint8)


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_text("old")
    with replacing(path) as new:
        new.write_text("half")
        assert path.read_text() == "old"
        new.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_text("old")
    with suppress(ZeroDivisionError), replacing(path) as new:
        new.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_where_nothing_is_written_nothing_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_text("old")
    with replacing(path):
        pass
    assert path.read_text() == "old"


def test_nothing_is_written_through_a_link_that_waits(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "film.tmp.mp4").symlink_to(tmp_path / "mine")
    with replacing(tmp_path / "film.mp4") as new:
        new.write_text("new")
    assert (tmp_path / "mine").read_text() == "mine"


# imageio leaves the pipes to ffmpeg to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_film_is_whole_or_the_old_one(tmp_path: Path) -> None:
    """A process that is killed leaves what is seen here while frames are added."""
    path = tmp_path / "film.mp4"
    path.write_text("old")
    with VideoWriter(path, 10.0) as film:
        for _ in range(3):
            film.add(FRAME)
        assert path.read_text() == "old"
    assert len(imageio.v3.imread(path)) == 3
    before = path.read_bytes()
    with suppress(ZeroDivisionError), VideoWriter(path, 10.0) as film:
        film.add(FRAME)
        raise ZeroDivisionError
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
