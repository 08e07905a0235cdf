"""Frames of what an environment shows, and films of them."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import UInt8

from lsp.errors import UserError, said
from lsp.report.video import VideoWriter

Env = gymnasium.Env[Any, Any]


def frame_of(env: Env) -> UInt8[np.ndarray, "height width 3"]:
    """The present frame. Raises UserError, in one line, where there is none."""
    try:
        frame: Any = env.render()
    except UserError:
        raise
    except Exception as error:  # of a user's own environment
        raise UserError(f"rendering failed: {said(error)}") from error
    if not isinstance(frame, np.ndarray) or frame.shape[2:] != (3,):
        raise UserError("the environment renders no rgb_array")
    return frame.astype(np.uint8, copy=False)


class Recorder:
    """Films a session, an episode after another, until it is told to stop.

    A film is whole or not there: it is written beside its place, and moved there at the end.

    Args:
        folder: of the films, which is made for the first one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._film: VideoWriter | None = None
        self.path: Path | None = None

    @property
    def is_on(self) -> bool:
        """Whether a film is being made, to be found at `path`."""
        return self._film is not None

    def start(self, env: Env, name: str, seconds: float) -> None:
        """Begin a film with the present frame; one that is being made is ended.

        Args:
            env: what is shown.
            name: a number that is free follows it in the film's.
            seconds: that an agent step takes; the film is as fast as the robot.

        Raises:
            UserError: there are no frames, or no film can be written.
        """
        self.stop()
        frame = frame_of(env)
        number = 1
        while (path := self._folder / f"{name}-{number}.mp4").exists():
            number += 1
        try:
            self._film = VideoWriter(path, 1 / seconds).__enter__()
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror})") from error
        self.path = path
        self._append(frame)

    def add(self, env: Env) -> None:
        """Append the present frame, while a film is made.

        Raises:
            UserError: it cannot go on; what there is of it is kept, if it can be.
        """
        if self._film is None:
            return
        try:
            frame = frame_of(env)
        except UserError:
            self.stop()
            raise
        self._append(frame)

    def stop(self) -> None:
        """End the film and put it in its place. Raises UserError where that fails."""
        film, self._film = self._film, None
        if film is None:
            return
        try:
            film.__exit__(None, None, None)
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {said(error)}") from error

    def _append(self, frame: UInt8[np.ndarray, "height width 3"]) -> None:
        assert self._film is not None
        try:
            self._film.add(frame)
        except OSError as error:  # ffmpeg is gone, or the disk is full
            film, self._film = self._film, None
            film.__exit__(type(error), error, error.__traceback__)
            raise UserError(f"{self.path} cannot be written: {said(error)}") from error
