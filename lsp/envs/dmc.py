"""Any task of the dm_control suite as a Gymnasium environment, one control step at a time."""

import difflib
import logging
from typing import Any

import gymnasium
import numpy as np
from dm_control import suite
from dm_control.mujoco.engine import Camera
from dm_control.rl import control
from jaxtyping import Float, Float64, UInt8

from lsp.envs.rendering import rendering_problem
from lsp.errors import UserError

# The suite's own models use an attribute that MuJoCo will drop; nobody who runs them can mend that.
logging.getLogger("absl").addFilter(lambda record: "settotalmass" not in record.getMessage())

OBS = ("proprio", "pixels")
RENDER_QUALITIES = ("fast", "faithful")
IMAGE_SIZE = 64  # pixels a side that the agent sees (Dreamer v1)
FRAME_SIZE = 256  # pixels a side that people see
MAX_CONTROL_STEPS = 1000  # also the limit of tasks that have none of their own (lqr)

_CAMERA_IDS = {"quadruped": 2}  # Dreamer v1; every other domain is seen by camera 0
# Shadows alone make a 64x64 frame of the quadruped ten times as slow in software.
_FAST_FLAGS = {"shadow": False, "reflection": False}
_UNLIMITED = 1e10  # dm_control's bound for actuators without a control range
# Its terrain is uploaded to the graphics card at every reset, whether or not anybody renders.
_RENDERS_AT_RESET = {("quadruped", "escape")}
# Rewards that depend on more than state and action: on a target drawn anew for each episode, which
# is part of the model, or (dog) on contact forces, which lag a step behind the state.
_REWARD_NEEDS_MORE = (
    "dog_",
    "finger_turn",
    "fish_swim",
    "manipulator_",
    "reacher_",
    "stacker_",
    "swimmer_",
)


class DMControlEnv(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """A dm_control suite task, e.g. ``walker_walk``.

    Observations are a dict. From proprioception: one float32 array per dm_control key, scalars as
    shape [1]. From pixels: ``image``, uint8 [64, 64, 3]. Actions are float32 [A] in [-1, 1] and are
    clipped, then mapped affinely to the range of each actuator (actuators without a range keep
    [-1, 1]). ``info["sim_state"]`` is the float64 [S] state of the simulator after the step.

    ``terminated`` means that the task ended itself (dm_control's discount is 0); the time limit is
    ``truncated``. ``reset(seed=...)`` makes the episode a pure function of the seed; the seed is
    replaced for each episode, so the physics model itself is the same in every environment.

    Raises:
      UserError: unknown task, ``obs`` or ``render_quality``; or rendering is needed and impossible.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012 (Gymnasium's name)

    def __init__(self, task: str, obs: str = "proprio", render_quality: str = "fast"):
        self.domain, self.task_name = split_task(task)
        _check_choice("obs", obs, OBS, task)
        _check_choice("render_quality", render_quality, RENDER_QUALITIES, task)
        if obs == "pixels" or (self.domain, self.task_name) in _RENDERS_AT_RESET:
            _require_rendering(task)

        self.task = task
        self.obs = obs
        self.render_mode = "rgb_array"
        self._cameras: dict[int, Camera] = {}
        self._camera_id = _CAMERA_IDS.get(self.domain, 0)
        self._render_flags = _FAST_FLAGS if render_quality == "fast" else None
        # lqr draws its springs when it is built: a fixed seed makes it one task, not many.
        self._env: control.Environment = suite.load(
            self.domain, self.task_name, task_kwargs={"random": 0}
        )
        if render_quality == "fast":
            self._env.physics.model.vis.quality.offsamples = 0
        self.metadata = dict(self.metadata, render_fps=round(1 / self._env.control_timestep()))

        spec = self._env.action_spec()
        unlimited = spec.maximum >= _UNLIMITED
        self._low = np.where(unlimited, -1.0, spec.minimum)
        self._high = np.where(unlimited, 1.0, spec.maximum)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, spec.shape, np.float32)
        self.observation_space = self._make_observation_space()
        self._reward_physics: control.Physics | None = None
        self._control_steps = 0
        self._running = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Starts an episode; without a seed it is the next one of the environment's generator."""
        super().reset(seed=seed, options=options)
        # A new generator per episode: how many numbers the last one drew must not matter.
        self._env.task._random = np.random.RandomState(self.np_random.integers(2**32))
        timestep = self._env.reset()
        self._control_steps = 0
        self._running = True
        return self._observe(timestep.observation), self._info()

    def step(
        self, action: Float[np.ndarray, " action"]
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Takes one control step.

        Raises:
          UserError: the action has the wrong shape, or holds a NaN.
          gymnasium.error.ResetNeeded: no episode is under way.
        """
        if not self._running:
            raise gymnasium.error.ResetNeeded(f"{self.task}: call reset() before step()")
        timestep = self._env.step(self._to_control(action))
        self._control_steps += 1
        terminated = bool(timestep.last() and timestep.discount == 0.0)
        truncated = not terminated and (timestep.last() or self._control_steps >= MAX_CONTROL_STEPS)
        self._running = not (terminated or truncated)
        observation = self._observe(timestep.observation)
        return observation, float(timestep.reward), terminated, truncated, self._info()

    def render(self) -> UInt8[np.ndarray, "256 256 3"]:
        """The present state as a frame for people to see.

        Raises:
          UserError: rendering is impossible on this machine.
        """
        _require_rendering(self.task)
        return self._frame(FRAME_SIZE)

    def reward_at(
        self, sim_state: Float64[np.ndarray, " state"], action: Float[np.ndarray, " action"]
    ) -> float:
        """The task's reward for one control step, recomputed from a stored state.

        ``sim_state`` is the state *after* the step and ``action``, in [-1, 1], is what led there.
        The episode under way is not disturbed.

        Raises:
          UserError: the task's reward is not a function of state and action alone.
        """
        if self.task.startswith(_REWARD_NEEDS_MORE):
            raise UserError(
                f"{self.task}: its reward cannot be recomputed from stored states, because it "
                "depends on each episode's own target or contact forces; choose another task."
            )
        if self._reward_physics is None:
            self._reward_physics = self._env.physics.copy(share_model=True)
        physics = self._reward_physics
        with physics.reset_context():
            physics.set_state(sim_state)
            physics.set_control(self._to_control(action))
        return float(self._env.task.get_reward(physics))

    def close(self) -> None:
        """Frees the simulator."""
        self._cameras.clear()
        self._env.close()

    def _to_control(self, action: np.ndarray) -> np.ndarray:
        action = np.asarray(action, np.float64)
        if action.shape != self._low.shape or np.isnan(action).any():
            raise UserError(
                f"{self.task}: an action must be {self._low.size} numbers without NaN, "
                f"got shape {action.shape}: {action}"
            )
        action = np.clip(action, -1.0, 1.0)
        # Written so that -1 and 1 give the limits exactly.
        return 0.5 * (1 - action) * self._low + 0.5 * (1 + action) * self._high

    def _info(self) -> dict[str, Any]:
        return {"sim_state": self._env.physics.get_state()}

    def _observe(self, observation: dict[str, Any]) -> dict[str, np.ndarray]:
        if self.obs == "pixels":
            return {"image": self._frame(IMAGE_SIZE)}
        return {
            key: np.array(value, dtype=np.float32, ndmin=1) for key, value in observation.items()
        }

    def _frame(self, size: int) -> np.ndarray:
        # Kept, because setting a camera up costs more than the 64x64 frame it takes.
        if size not in self._cameras:
            self._cameras[size] = Camera(self._env.physics, size, size, camera_id=self._camera_id)
        frame = self._cameras[size].render(render_flag_overrides=self._render_flags)
        return np.ascontiguousarray(frame)

    def _make_observation_space(self) -> gymnasium.Space[Any]:
        if self.obs == "pixels":
            shape = (IMAGE_SIZE, IMAGE_SIZE, 3)
            return gymnasium.spaces.Dict(image=gymnasium.spaces.Box(0, 255, shape, np.uint8))
        boxes = {
            key: gymnasium.spaces.Box(-np.inf, np.inf, spec.shape or (1,), np.float32)
            for key, spec in self._env.observation_spec().items()
        }
        # Given as pairs: Gymnasium sorts a plain dict's keys, and dm_control's order is meant.
        return gymnasium.spaces.Dict(list(boxes.items()))


def task_names() -> list[str]:
    """The names of all tasks of the dm_control suite, ``domain_task``, sorted."""
    return sorted(f"{domain}_{task}" for domain, task in suite.ALL_TASKS)


def split_task(task: str) -> tuple[str, str]:
    """Domain and task of a name; looked up, as domains such as ball_in_cup hold underscores.

    Raises:
      UserError: there is no such task.
    """
    for domain, name in suite.ALL_TASKS:
        if task == f"{domain}_{name}":
            return domain, name
    close = difflib.get_close_matches(task, task_names(), n=3)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise UserError(f"Unknown task '{task}'.{hint} lsp.envs.task_names() lists them all.")


def _check_choice(name: str, value: str, choices: tuple[str, ...], task: str) -> None:
    if value not in choices:
        raise UserError(f"{task}: {name} must be {' or '.join(choices)}, not '{value}'.")


def _require_rendering(task: str) -> None:
    problem = rendering_problem()
    if problem is not None:
        raise UserError(f"{task}: {problem}")
