"""A page that shows a run's skills without a server: what was imagined, beside what then came."""

import base64
import html
import io
import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lsp.errors import UserError
from lsp.experiments.skills.held import skill_grid
from lsp.explorer.recording import frame_of
from lsp.explorer.session import EVERY, FAN, Fan, Moment, Session
from lsp.runs.files import file_to_write, write_text

STEPS = 100  # agent steps of each take
MOST_STEPS = 500
_FRAMES = 40  # of a take, at most
_PIXELS = 128  # of the longer side of one
_THINNED = 2  # of so many points of an imagined way one is kept


def write_film(session: Session, path: str | Path, title: str, steps: int = STEPS) -> Path:
    """Hold each of nine skills from one start, then plan from it, and write a page of all that.

    Args:
        session: is reset for each take, to the same episode.
        path: of the page, a single .html file below 10 MB, which loads nothing.
        title: of the page, for people.
        steps: agent steps of each take, up to 500; one ends with its episode.

    Raises:
        UserError: the number of steps makes no sense, or the path is in no folder.
    """
    if not 1 <= steps <= MOST_STEPS:
        raise UserError(f"--steps {steps}: a take has 1 to {MOST_STEPS} agent steps")
    page = file_to_write(path, "--export")
    film = record(session, steps)
    text = resources.files("lsp.explorer").joinpath("film.html").read_text(encoding="utf-8")
    before, after = text.split("{{film}}")
    # Numbers, base64 and names of ours, so that no tag can begin in it.
    data = json.dumps(film, allow_nan=False, separators=(",", ":"))
    write_text(page, before.replace("{{title}}", html.escape(title)) + data + after)
    return page


def record(session: Session, steps: int) -> dict[str, Any]:
    """What the page shows, as JSON: a take of each skill and one of planning, from one start."""
    skills = skill_grid(len(session.held), FAN)
    filmed = session.pose is None and _frame(session) is not None
    takes = [
        _take(session, skill, f"skill {i + 1}", steps, filmed) for i, skill in enumerate(skills)
    ]
    takes.append(_take(session, None, "planned", steps, filmed))
    return {"seconds": session.seconds, "skills": _rounded(skills), "takes": takes}


def _take(
    session: Session, skill: np.ndarray | None, name: str, steps: int, filmed: bool
) -> dict[str, Any]:
    """One episode, or its beginning; the fan is imagined as often as plans are looked at."""
    session.reset(session.seed)
    session.fan_every = EVERY
    if skill is None:
        session.choose("planned")
    else:
        session.hold(skill)
    every = max(1, -(-steps // _FRAMES))
    start, frames, moments = session.pose, [_frame(session)] if filmed else [], list[Moment]()
    while len(moments) < steps and not (moments and moments[-1].ended):
        moments.append(session.step())
        if filmed and len(moments) % every == 0:
            frames.append(_frame(session))
    poses = [start, *(moment.pose for moment in moments)]
    return {
        "name": name,
        "way": [_rounded(np.array(pose)) for pose in poses if pose is not None],
        "skills": [_rounded(moment.skill) for moment in moments],
        "returns": [round(moment.returned, 3) for moment in moments],
        "predicted": [round(moment.foretold, 3) for moment in moments],
        "fans": [_imagined(moment.fan) for moment in moments if moment.fan is not None],
        "ahead": [_imagined(moment.ahead) for moment in moments if moment.ahead is not None],
        "frames": frames,
        "every": every,
    }


def _imagined(fan: Fan) -> dict[str, Any]:
    ways = [] if fan.ways is None else _rounded(fan.ways[:, ::_THINNED])
    totals = fan.imagined.rewards.sum(-1)
    return {"step": fan.step, "ways": ways, "returns": _rounded(totals)}


def _frame(session: Session) -> str | None:
    """The present frame as a small JPEG in base64; None where nothing is rendered."""
    try:
        frame = frame_of(session.env)
    except UserError:  # without pictures the film still has its numbers
        return None
    image, buffer = Image.fromarray(frame).convert("RGB"), io.BytesIO()
    image.thumbnail((_PIXELS, _PIXELS))
    image.save(buffer, "JPEG", quality=75)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _rounded(numbers: np.ndarray) -> Any:
    return np.round(np.asarray(numbers, np.float64), 3).tolist()
