"""Films of episodes."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np

from lsp.errors import UserError
from lsp.runs.files import replacing


class VideoWriter:
    """Writes frames to an MP4 file, which replaces an older one when its `with` block ends well."""

    def __init__(self, path: Path, frames_per_second: float):
        self._path, self._rate = path, frames_per_second
        self._writer: Any = None
        self._opened = ExitStack()

    def __enter__(self) -> "VideoWriter":
        """Raises UserError where no film can be written there."""
        if self._path.suffix != ".mp4" or self._path.is_dir():
            raise UserError(f"{self._path}: a film is a file whose name ends in .mp4")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            new = self._opened.enter_context(replacing(self._path))
        except OSError as error:
            raise UserError(f"{self._path} cannot be written ({error.strerror})") from error
        self._writer = imageio.get_writer(
            new, format="FFMPEG", fps=self._rate, codec="libx264", macro_block_size=16
        )
        return self

    def add(self, frame: np.ndarray) -> None:
        """Append one frame, uint8 `[height, width, 3]`."""
        self._writer.append_data(frame)

    def __exit__(self, *error: Any) -> None:
        self._writer.close()
        self._opened.__exit__(*error)
