"""What planning is worth to one set of weights: evaluations under skills that ask less of it."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from lsp.errors import UserError

SkillChoice = Literal["planned", "prior", "constant", "shuffled"]
"""Where an evaluation's skills come from.

`planned`: for each state, by the planner. `prior`: drawn from N(0, I), which is far from what is
planned, and may earn less than standing still. `constant` and `shuffled` are closer controls, of
skills that the planner chose (`PlannedSkills`).
"""


class Now(NamedTuple):
    """Where an evaluation is.

    Attributes:
        step: agent steps since the episodes began.
        part: which of all episodes are under way or were, side by side.
        running: those of the part that have not ended.
    """

    step: int
    part: slice
    running: Bool[np.ndarray, " episodes"]


Act = Callable[[Any, dict[str, np.ndarray], Now], np.ndarray]
"""Of (agent, observations, where the evaluation is): actions."""


class PlannedSkills(NamedTuple):
    """The skills of a planned evaluation, to be held in another one of the same episodes.

    They are of the evaluation's own episodes, not of the replay: in there are skills with noise, of
    all policies so far. The controls so know which skills are good on the whole, for this policy.
    They lose what is to be measured: that a skill was planned for the state in which it is held.

    Attributes:
        skills: held at each agent step of each episode; zeros after its end.
        lengths: agent steps of each episode.
    """

    skills: Float[np.ndarray, "steps episodes skill"]
    lengths: Int[np.ndarray, " episodes"]

    def holding(self, choice: Literal["constant", "shuffled"]) -> Act:
        """An agent under a control."""

        def act(agent: Any, seen: dict[str, np.ndarray], now: Now) -> np.ndarray:
            constant = np.broadcast_to(self.mean(), self.skills.shape[1:])
            held = constant if choice == "constant" else self.shuffled(now.step)
            return np.asarray(agent.act(seen, np.ascontiguousarray(held[now.part])))

        return act

    def mean(self) -> Float[np.ndarray, " skill"]:
        """Over all agent steps of all episodes: one skill for a whole evaluation."""
        running = np.arange(len(self.skills))[:, None] < self.lengths
        return np.asarray(self.skills[running].mean(0))

    def shuffled(self, step: int) -> Float[np.ndarray, "episodes skill"]:
        """What another episode held at the same agent step: the next that was still under way.

        Beyond the end of all others it is what the longest of them held last.
        """
        count = len(self.lengths)
        others = [[(i + k) % count for k in range(1, count)] for i in range(count)]
        longest = [max(each, key=lambda i: self.lengths[i]) for each in others]
        donors = [
            next((i for i in each if self.lengths[i] > step), last)
            for each, last in zip(others, longest)
        ]
        return self.skills[np.minimum(step, self.lengths[donors] - 1), donors]


def check_shuffled(choice: SkillChoice, episodes: int) -> None:
    """Raises UserError where an episode has no others to take skills from."""
    if choice == "shuffled" and episodes < 2:
        raise UserError("shuffled skills are those of other episodes: evaluate at least 2")


class SkillRecorder:
    """Collects the skills of a planned evaluation."""

    def __init__(self) -> None:
        self._held: dict[int, list[np.ndarray]] = defaultdict(list)
        self._running: dict[int, list[np.ndarray]] = defaultdict(list)

    def act(self, agent: Any, seen: dict[str, np.ndarray], now: Now) -> np.ndarray:
        """The agent's own action."""
        actions = np.asarray(agent.act(seen))
        skill = agent.skill.cpu().numpy()
        self._held[now.part.start].append(np.where(now.running[:, None], skill, np.float32(0)))
        self._running[now.part.start].append(now.running.copy())
        return actions

    def planned(self) -> PlannedSkills:
        """Those of all episodes, beside each other."""
        steps = max(map(len, self._held.values()))
        parts = [np.stack(held) for held in self._held.values()]
        padded = [np.pad(x, ((0, steps - len(x)), (0, 0), (0, 0))) for x in parts]
        lengths = [np.sum(running, axis=0) for running in self._running.values()]
        return PlannedSkills(np.concatenate(padded, axis=1), np.concatenate(lengths))
