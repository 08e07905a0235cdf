"""Skills that somebody saved under a name: in the user's own data folder, a file for each run.

An agent that was packed from a run has the run's id, and so its skills; neither folder is written
to, for an agent's may be the package's, and a run's a stranger's.
"""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Float

from lsp.errors import UserError
from lsp.runs.files import data_folder, read_json, write_json

LONGEST_NAME = 40  # characters
MOST = 100  # skills of a run
_LARGEST = 1e6  # of a skill's numbers


class SavedSkills:
    """Those of one run.

    Args:
        run: its id, in hexadecimal.
        size: Z, how many numbers a skill is.
    """

    def __init__(self, run: str, size: int) -> None:
        self._run, self._size = run, size

    @property
    def path(self) -> Path:
        """Of the file, which is there as soon as one is saved. Raises UserError without a home."""
        try:
            return data_folder() / "skills" / f"{self._run}.json"
        except RuntimeError as error:
            raise UserError(f"no folder to save skills in ({error}): set XDG_DATA_HOME") from error

    def read(self) -> dict[str, Float[np.ndarray, " Z"]]:
        """All of them, by name.

        Raises:
            UserError: the file is damaged.
        """
        path = self.path
        if not os.path.exists(path):  # nor where its folder cannot be looked into
            return {}
        content = read_json(path)
        for name, numbers in content.items():
            if _problem(name) or not self._is_skill(numbers):
                raise UserError(
                    f"{path} is damaged ({name!r:.60}): each name has {self._size} finite numbers; "
                    "mend or remove it"
                )
        return {name: np.array(numbers, np.float32) for name, numbers in content.items()}

    def find(self, name: str) -> Float[np.ndarray, " Z"]:
        """That of a name. Raises UserError where it is not there any more, and as `read`."""
        skills = self.read()
        if name not in skills:
            raise UserError(f"{name!r} is not in {self.path}: save it again")
        return skills[name]

    def save(self, name: str, skill: Float[np.ndarray, " Z"]) -> str:
        """Keep a skill, in place of one of the same name; the name as it is kept.

        Raises:
            UserError: the name is none, there are too many, the file is damaged, which stays as it
                is, or it cannot be written.
        """
        name = " ".join(name.split())
        if problem := _problem(name):
            raise UserError(problem)
        skills = self.read() | {name: np.asarray(skill, np.float32)}
        if len(skills) > MOST:
            raise UserError(f"{self.path} has {MOST} skills already: remove some")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, {key: numbers.tolist() for key, numbers in skills.items()})
        except OSError as error:
            raise UserError(f"{self.path} cannot be written ({error.strerror})") from error
        return name

    def _is_skill(self, numbers: object) -> bool:
        if not isinstance(numbers, list) or len(numbers) != self._size:
            return False
        return all(type(x) in (int, float) and abs(x) < _LARGEST for x in numbers)  # NaN is not


def _problem(name: str) -> str | None:
    """Why a name is none."""
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        return f"a skill's name has 1 to {LONGEST_NAME} letters, not {len(name)}: {name!r:.60}"
    return None
