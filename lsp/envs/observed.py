"""What agents see of a user's observations: images and vectors, decided by their spaces.

A picture has two neighbouring sides of at least 16 pixels; all its other axes, be they channels or
stacked frames, become channels. It is seen as an image where it holds bytes, or numbers bounded by
0 and 1 or by 0 and 255. Everything else is a vector.
"""

from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Dict
from jaxtyping import Float, UInt8
from PIL import Image

IMAGE_SIZE = 64  # pixels a side that the agent sees
MIN_SIDE = 16  # pixels; what is smaller is no picture, but for bytes with CHANNELS
CHANNELS = (1, 3, 4)
_BRIGHTEST = (1.0, 255.0)  # of numbers that are a picture's


class Part(NamedTuple):
    """One Box of an observation space.

    Attributes:
        path: the keys that lead to it.
        space: the Box.
        sides: the first of its two axes that are a picture's rows and columns; None where it is
            a vector.
        doubtful: it has the shape of a picture, and is a vector all the same.
    """

    path: tuple[Any, ...]
    space: Box
    sides: int | None
    doubtful: bool

    @property
    def key(self) -> str:
        """Its name for the agent."""
        if self.path:
            return key_of(self.path)
        return "observation" if self.sides is None else "image"

    def seen(self) -> Box:
        """The space of what the agent sees of it."""
        size = int(np.prod(self.space.shape))
        if self.sides is None:
            return Box(-np.inf, np.inf, (size,), np.float32)
        rows, columns = self.space.shape[self.sides : self.sides + 2]
        return Box(0, 255, (IMAGE_SIZE, IMAGE_SIZE, size // (rows * columns)), np.uint8)

    def vector(self, value: np.ndarray) -> Float[np.ndarray, " n"]:
        """A copy, as the environment may write its next observation over this one."""
        with np.errstate(over="ignore"):  # beyond float32 is infinite, which is found later
            return np.array(value, np.float32).reshape(-1)

    def image(self, value: np.ndarray) -> UInt8[np.ndarray, "64 64 channels"]:
        """Rows, columns, and all else as channels; other sizes are averaged."""
        assert self.sides is not None
        value = np.moveaxis(value, (self.sides, self.sides + 1), (0, 1))
        value = value.reshape(*value.shape[:2], -1)
        if value.dtype != np.uint8:
            brightness = value * (255.0 / float(self.space.high.max()))
            value = np.rint(np.clip(brightness, 0, 255)).astype(np.uint8)
        if value.shape[:2] == (IMAGE_SIZE, IMAGE_SIZE):
            return np.array(value, order="C")
        # One by one: of four channels Pillow would take the last for transparency.
        return np.stack([_resized(channel) for channel in np.moveaxis(value, -1, 0)], -1)


def key_of(path: tuple[Any, ...]) -> str:
    """The name of a reading inside nested Dicts."""
    return "/".join(str(step) for step in path)


def leaves(space: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """The spaces inside nested Dicts, and the keys that lead there."""
    if not isinstance(space, Dict):
        yield path, space
        return
    for key, inner in space.spaces.items():
        yield from leaves(inner, (*path, key))


def part_of(path: tuple[Any, ...], space: Box, images: Collection[str] | None) -> Part:
    """A Box as agents see it. Of `images`, where they are given, exactly these are images."""
    sides = _sides(space.shape)
    if sides is None and space.dtype == np.uint8 and len(space.shape) == 3:
        sides = _sides_of_small(space.shape)
    if images is not None:
        shown = key_of(path) in images or (not path and bool(images))
        return Part(path, space, sides if shown else None, False)
    shown = sides is not None and _is_bright(space)
    return Part(path, space, sides if shown else None, sides is not None and not shown)


def _sides(shape: tuple[int, ...]) -> int | None:
    """Of the neighbouring axes with the largest area that could be a picture's, the first."""
    pairs = [
        (rows * columns, -axis)
        for axis, (rows, columns) in enumerate(pairwise(shape))
        if min(rows, columns) >= MIN_SIDE
    ]
    return -max(pairs)[1] if pairs else None


def _sides_of_small(shape: tuple[int, ...]) -> int | None:
    """Of bytes in three axes the channels tell a picture, however small it is."""
    if shape[-1] in CHANNELS:
        return 0
    return 1 if shape[0] in CHANNELS else None


def _is_bright(space: Box) -> bool:
    """Whether its numbers are those of pixels."""
    if space.dtype == np.uint8:
        return True
    return bool((space.low == 0).all()) and any((space.high == x).all() for x in _BRIGHTEST)


def _resized(channel: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "64 64"]:
    picture = Image.fromarray(np.ascontiguousarray(channel))
    return np.asarray(picture.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.HAMMING))
