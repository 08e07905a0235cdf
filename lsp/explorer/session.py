"""One environment and one agent whose skills somebody steers; no web in it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
import torch
from jaxtyping import Float

from lsp.algorithm.agent import Agent
from lsp.algorithm.rng import seeded
from lsp.config import Config, RuntimeConfig
from lsp.envs import task_names
from lsp.envs.rewards import OwnReward
from lsp.errors import UserError
from lsp.experiments.skills.held import skill_grid
from lsp.explorer.expression import ACTION, read_reward
from lsp.explorer.ground import Pose, goal_of, pose_of, tells_ways
from lsp.explorer.imagined import GoThere, Imagined, imagine_skills, left_to_go, nearness
from lsp.explorer.planning import Planning, planned_with, planning_of
from lsp.models.networks import Networks, NewTask
from lsp.models.new_reward import DecodedReward
from lsp.runs.spaces import spaces_of
from lsp.training.build import AnyNetworks, build_agent
from lsp.training.new_reward import NewReward
from lsp.training.parts import EnvMaker, env_maker

AHEAD = 50  # agent steps that are imagined
EVERY = 10  # agent steps after which it is imagined, and a random skill drawn, anew
FAN = 9  # skills of a fan, on a grid

Source = Literal["planned", "held", "random"]
"""Who chooses skills: the planner, whoever steers, or chance."""


@dataclass(frozen=True)
class Wanted:
    """What is paid, and planned for.

    Attributes:
        name: for people.
        own: a typed reward, of observations and actions.
        place: where to go, metres in the arena.
    """

    name: str = "the task's reward"
    own: OwnReward | None = None
    place: tuple[float, float] | None = None


class Fan(NamedTuple):
    """Skills imagined from one moment: where, their rewards, and the ways in the arena in metres.

    Attributes:
        step: of the episode, in agent steps.
        imagined: rewards and skills.
        ways: `[skills, points, 2]`; None where the body's observations tell none.
    """

    step: int
    imagined: Imagined
    ways: Float[np.ndarray, "skills points 2"] | None


class Moment(NamedTuple):
    """What an agent step led to.

    Attributes:
        step: of the episode, in agent steps.
        skill: which was in force, `[Z]`.
        source: who chose it.
        reward: of this agent step, for what is wanted.
        predicted: what the model said of it, a few steps before.
        returned: of the episode so far, or since something else has been wanted.
        foretold: the same of what was predicted.
        pose: on the ground; None of bodies that are not on it.
        ahead: the skill in force, imagined, where that is new.
        fan: the skills of the fan, where that is new.
        ended: the episode has, and the next step begins another one.
    """

    step: int
    skill: Float[np.ndarray, " Z"]
    source: Source
    reward: float
    predicted: float
    returned: float
    foretold: float
    pose: Pose | None
    ahead: Fan | None
    fan: Fan | None
    ended: bool


class Session:
    """Steps through episodes, under skills that are planned, held or drawn.

    It is used by one thread at a time.

    Args:
        networks: of a method with skills; their settings change with what is wanted.
        make_env: makes the environment, which is closed by `close`.
        runtime: how the agent computes.
        seed: of the first episode, and of the agent.
        task: the environment's, where it is not the run's own.

    Raises:
        UserError: the method has no skills.
    """

    def __init__(
        self,
        networks: AnyNetworks,
        make_env: EnvMaker,
        runtime: RuntimeConfig | None = None,
        seed: int = 0,
        task: str | None = None,
    ) -> None:
        if not isinstance(networks, Networks) or not networks.config.has_skills:
            raise UserError(f"{networks.config.method} has no skills to explore: name a run of lsp")
        self.networks, self.trained = networks, networks.config
        self._runtime, self.seed = runtime, seed
        self._enter(make_env(), task or self.trained.task)
        self.generator = seeded(seed, networks.device)
        self.source: Source = "planned"
        self.held = np.zeros(self.trained.skills.dim, np.float32)
        self.fan_every: int | None = None
        self.wanted = Wanted()
        self._planned_as: dict[bool, Config] = {}
        self._looked_at = np.full_like(self.held, np.nan)
        self._ahead: Fan | None = None
        self.agent = self._new_agent(seed)
        self.reset(seed)

    @property
    def has_ground(self) -> bool:
        """Whether the body is on a ground where ways and places are."""
        return self.pose is not None and tells_ways(self.networks.world_model.preprocess.vectors)

    @property
    def names(self) -> dict[str, int]:
        """What a typed reward may read, and how many numbers each has."""
        vectors = dict(self.networks.world_model.preprocess.vectors)
        return vectors | {ACTION: self.networks.action_dim}

    @property
    def goal(self) -> tuple[float, float] | None:
        """Where the robot is to go, in the arena: what is wanted, or what the task asks for."""
        return self.wanted.place or goal_of(self.task, self.info)

    @property
    def paid_for(self) -> str:
        """What is paid and planned for, for people."""
        if self.wanted != Wanted() or self.task == self.trained.task:
            return self.wanted.name
        return f"of {self.task}, planned for {self.trained.task}"

    @property
    def skill(self) -> Float[np.ndarray, " Z"]:
        """In force: what is held, or what was planned last."""
        planned = self.source == "planned"
        return self.agent.skill[0].cpu().numpy() if planned else self.held

    @property
    def planning(self) -> Planning:
        """How skills are planned for what is wanted."""
        return planning_of(self.networks.config)

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode: the next one, or that of a seed."""
        self.observation, self.info = self.env.reset(seed=seed)
        self.agent.reset()
        self.pose = pose_of(self.task, self.info)
        self.steps, self.ended = 0, False
        self._count_anew()

    def hold(self, skill: Float[np.ndarray, " Z"]) -> None:
        """Hold a skill from now on. Raises UserError unless it is as many numbers as skills are."""
        given = np.array(skill, np.float32)
        if given.shape != self.held.shape or not np.isfinite(given).all():
            raise UserError(f"a skill is {len(self.held)} finite numbers, not {skill}")
        self.held, self.source, self._age = given, "held", 0

    def choose(self, source: Source) -> None:
        """Let the planner, chance, or the skill that was held last choose."""
        self.source, self._age = source, 0
        self._let_plan_anew()

    def plan_with(self, planning: Planning) -> None:
        """Plan in another way, from the next step on.

        It is kept for the task on the one hand, and on the other for all that nothing was trained
        for. Raises UserError, in one line, where something does not fit.
        """
        new = self.networks.new_task is not None
        if new and planning.refit == "gradient":
            raise UserError(
                "gradient: a typed reward and a place have no gradient: choose cem or mppi"
            )
        self._planned_as[new] = planned_with(self._usual_config(new), planning)
        self._act_with(self._planned_as[new])

    def switch(self, task: str) -> None:
        """Go on in another task of the same body; what is planned for stays what was trained for.

        Raises:
            UserError: there is no such task of dm_control's or of ours, or it is observed or acted
                in otherwise.
        """
        if task not in task_names():  # nothing that a name could import
            raise UserError(f"{task!r:.60} is no task of dm_control's or of this package's")
        env = env_maker(replace(self.trained, reward=None), task)()
        here, there = spaces_of(self.env), spaces_of(env)
        if here != there:
            env.close()
            raise UserError(f"{task} has {there}, and {self.task} {here}: the agent is for those")
        self.close()
        self._enter(env, task)
        self.want_task()
        self.reset(self.seed)

    def want_task(self) -> None:
        """Plan for what the run was trained for."""
        self._want(Wanted(), None)

    def want(self, text: str) -> None:
        """Plan for a typed reward (`expression`). Raises UserError where it is none."""
        function = read_reward(text, self.names)
        own = OwnReward(function, " ".join(text.split()))
        own(_row(self.observation), np.zeros((1, self.networks.action_dim), np.float32))
        self._want(Wanted(own.name, own=own), DecodedReward(own, self.trained.action_repeat))

    def go_to(self, x: float, y: float) -> None:
        """Plan for a place in the arena. Raises UserError of bodies that are on no ground."""
        if not self.has_ground:
            raise UserError(f"{self.task}: its observations tell no way over the ground")
        reward = GoThere(self.seconds, self.trained.action_repeat).to(self.networks.device)
        self._want(Wanted(f"to ({x:.1f}, {y:.1f})", place=(x, y)), reward)

    def step(self) -> Moment:
        """Take one agent step. Raises UserError where a reward that is wanted cannot be paid."""
        if self.ended:
            self.reset()
        if self._age % EVERY == 0 and self.source == "random":
            self.held = self._draw()
        self._aim()
        action = self.agent.act(self.observation, None if self.source == "planned" else self.held)
        skill = self.agent.skill[0].cpu().numpy()
        ahead = self._look_ahead(skill)
        fan_due = self.fan_every is not None and self.steps % self.fan_every == 0
        fan = self.imagine(skill_grid(len(skill), FAN)) if fan_due else None
        self.observation, paid, terminated, truncated, self.info = self.env.step(action)
        self.pose = pose_of(self.task, self.info)
        self.steps, self.ended = self.steps + 1, terminated or truncated
        return self._moment(skill, self._paid(float(paid), action), ahead, fan)

    def imagine(self, skills: Float[np.ndarray, "skills Z"], steps: int = AHEAD) -> Fan:
        """Skills from here on; in the first step of an episode, after the agent has seen it."""
        frozen = self.agent.backend.frozen_copy
        asked = steps, self.seconds, self.generator
        imagined = imagine_skills(frozen, self.agent.latent, skills, *asked)
        ways = None
        if imagined.ways is not None and self.pose is not None:
            ways = self.pose.to_world(imagined.ways)
        return Fan(self.steps, imagined, ways)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _want(self, wanted: Wanted, reward: Any) -> None:
        """Plan for something else from the next step on."""
        new = reward is not None
        config = self._planned_as.get(new) or self._usual_config(new)
        self.networks.new_task = NewTask(reward) if new else None
        self.wanted = wanted
        self._act_with(config)

    def _usual_config(self, new: bool) -> Config:
        """Settings as the run was trained, or for a reward that nothing was trained for."""
        if not new:
            return self.trained
        usual = NewReward(skill_length=AHEAD, horizon=AHEAD, replan_every=EVERY)
        return usual.settings(self.trained)

    def _act_with(self, config: Config) -> None:
        """Go on with the same memory and other settings."""
        self.networks.config, before = config, self.agent
        self.agent = self._new_agent(self.seed)
        self.agent.latent, self.agent.fixed_latent = before.latent, before.fixed_latent
        self.agent.action = before.action
        self.agent.skill, self.agent.steps = before.skill, before.steps
        self._let_plan_anew()
        self._count_anew()

    def _enter(self, env: gymnasium.Env[Any, Any], task: str) -> None:
        self.env, self.task = env, task
        control_step = 1 / float(env.metadata.get("render_fps") or 30)
        self.seconds = control_step * self.trained.action_repeat

    def _new_agent(self, seed: int) -> Agent:
        agent = build_agent(self.networks, seed=seed, runtime=self._runtime)
        assert isinstance(agent, Agent)
        return agent

    def _let_plan_anew(self) -> None:
        """The agent counts its steps to know when plans are due, and when an episode begins."""
        if self.agent.steps[0] > 0:
            self.agent.steps[:] = self.agent.config.replan_every

    def _count_anew(self) -> None:
        self._age, self.returned, self.foretold = 0, 0.0, 0.0

    def _draw(self) -> Float[np.ndarray, " Z"]:
        device = self.networks.device
        drawn = torch.randn(len(self.held), generator=self.generator, device=device)
        return np.asarray(drawn.cpu().numpy())

    def _aim(self) -> None:
        """Tell the reward of a place how far away that is now."""
        task = self.agent.backend.frozen_copy.new_task
        if self.wanted.place is not None and task is not None and self.pose is not None:
            assert isinstance(task.reward, GoThere)
            task.reward.aim(self.pose.to_body(np.array(self.wanted.place)))

    def _look_ahead(self, skill: np.ndarray) -> Fan | None:
        """Imagine the skill in force, where it or what is known of it is new."""
        if self._age % EVERY == 0 or not np.array_equal(skill, self._looked_at):
            self._age, self._looked_at = 0, skill
            self._ahead = self.imagine(skill[None])
            return self._ahead
        return None

    def _paid(self, by_task: float, action: np.ndarray) -> float:
        steps, wanted = int(self.info["env_steps"]), self.wanted
        if wanted.own is not None:
            return steps * float(wanted.own(_row(self.observation), action[None])[0])
        if wanted.place is not None and self.pose is not None:
            metres = left_to_go(self.pose.to_body(np.array(wanted.place)))
            upright = self.observation.get("torso_upright", np.ones(1))
            return steps * float(nearness(metres, float(upright[0])))
        return by_task

    def _moment(
        self, skill: np.ndarray, reward: float, ahead: Fan | None, fan: Fan | None
    ) -> Moment:
        assert self._ahead is not None
        predicted = float(self._ahead.imagined.rewards[0, self._age])
        self._age += 1
        self.returned += reward
        self.foretold += predicted
        totals = reward, predicted, self.returned, self.foretold
        return Moment(*(self.steps, skill, self.source, *totals), self.pose, ahead, fan, self.ended)


def _row(observation: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: np.asarray(x)[None] for key, x in observation.items()}
