"""Tasks of the dm_control suite, and ours, as Gymnasium environments."""

import difflib
import logging
from collections.abc import Mapping
from math import isnan
from typing import Any

import gymnasium
import mujoco
import numpy as np
from dm_control import suite
from dm_control.mujoco.engine import Camera
from dm_control.rl import control
from jaxtyping import Float, Float64, UInt8

from lsp.config.requirements import mismatch
from lsp.envs import arena
from lsp.envs.lookup import IS_ID
from lsp.envs.rendering import rendering_problem
from lsp.envs.rewards import OwnReward
from lsp.errors import UserError

# The suite's own models use an attribute that MuJoCo will drop; nobody who runs them can mend that.
logging.getLogger("absl").addFilter(lambda record: "settotalmass" not in record.getMessage())

OBS = ("proprio", "pixels")
RENDER_QUALITIES = ("fast", "faithful")
IMAGE_SIZE = 64  # pixels a side that the agent sees (Dreamer v1)
FRAME_SIZE = 256  # pixels a side that people see
MAX_CONTROL_STEPS = 1000  # also the limit of tasks that have none of their own (lqr)

# Positions, velocities, actuators: what dm_control's Physics.get_state returns.
_STATE = int(
    mujoco.mjtState.mjSTATE_QPOS | mujoco.mjtState.mjSTATE_QVEL | mujoco.mjtState.mjSTATE_ACT
)
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
    """A task of the dm_control suite, e.g. ``walker_walk``, or of ``lsp.envs.arena``.

    One step is one control step. Observations are a dict. From proprioception: one float32 array
    per dm_control key, scalars as shape [1]. From pixels: ``image``, uint8 [64, 64, 3], and where
    there is one the ``goal``, float32 [3], which no picture of the robot shows. Actions are float32
    [A] in [-1, 1] and are clipped, then mapped affinely to the range of each actuator (actuators
    without a range keep [-1, 1]). ``info["sim_state"]`` is the float64 [S] state of the simulator
    after the step; ``info["success"]``, for tasks with a goal, whether it has been reached in this
    episode.

    ``terminated`` means that the task ended itself (dm_control's discount is 0); the time limit is
    ``truncated``. ``reset(seed=...)`` makes the episode a pure function of the seed; the seed is
    replaced for each episode, so the physics model itself is the same in every environment.

    ``own_reward`` pays instead of the task, for the states after each control step.

    Raises:
      UserError: unknown task, ``obs`` or ``render_quality``; or rendering is needed and impossible.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012 (Gymnasium's name)

    def __init__(
        self,
        task: str,
        obs: str = "proprio",
        render_quality: str = "fast",
        render_mode: str | None = "rgb_array",
        own_reward: OwnReward | None = None,
    ):
        self.domain, self.task_name = split_task(task)
        _check_choice("obs", obs, OBS, task)
        _check_choice("render_quality", render_quality, RENDER_QUALITIES, task)
        if obs == "pixels" or (self.domain, self.task_name) in _RENDERS_AT_RESET:
            _require_rendering(task)

        self.task = task
        self.obs = obs
        self.own_reward = own_reward
        self.render_mode = render_mode
        self._cameras: dict[int, Camera] = {}
        self._camera_id = _CAMERA_IDS.get(self.domain, 0)
        self._render_flags = _FAST_FLAGS if render_quality == "fast" else None
        self._env = _load(self.domain, self.task_name)
        self._task, self._physics = self._env.task, self._env.physics
        self._arena = self._task if isinstance(self._task, arena.ArenaTask) else None
        if render_quality == "fast":
            self._physics.model.vis.quality.offsamples = 0
        self.metadata = dict(self.metadata, render_fps=round(1 / self._env.control_timestep()))

        spec = self._env.action_spec()
        unlimited = spec.maximum >= _UNLIMITED
        low, high = np.where(unlimited, -1, spec.minimum), np.where(unlimited, 1, spec.maximum)
        self._middle, self._half = (high + low) / 2, (high - low) / 2
        # Arrays, which numpy compares with sooner than with numbers.
        self._lowest, self._highest = -np.ones_like(self._half), np.ones_like(self._half)
        self._simulator = self._physics.model.ptr, self._physics.data.ptr
        self._warnings = self._physics.data.warning.number  # a view: the simulator counts in it
        self._runge_kutta = self._physics.model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
        self._state_size = mujoco.mj_stateSize(self._physics.model.ptr, _STATE)
        self._substeps = round(self._env.control_timestep() / self._physics.timestep())
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, spec.shape, np.float32)
        self.observation_space = self._make_observation_space()
        self._reward_physics: control.Physics | None = None
        self._control_steps = 0
        self._running = False

    @property
    def simulator(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """MuJoCo's own model, and the state that is simulated; both are only to be read."""
        return self._simulator

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Starts an episode; without a seed it is the next one of the environment's generator."""
        super().reset(seed=seed, options=options)
        # A new generator per episode: how many numbers the last one drew must not matter.
        self._task._random = np.random.RandomState(self.np_random.integers(2**32))
        self._env.reset()
        self._control_steps = 0
        self._running = True
        return self.observe(), self._info()

    def step(
        self, action: Float[np.ndarray, " action"]
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Takes one control step.

        Raises: as ``advance``.
        """
        reward, terminated, truncated, info = self.advance(action)
        return self.observe(), reward, terminated, truncated, info

    def observe(self) -> dict[str, np.ndarray]:
        """The observation of the present state; from pixels it is rendered now."""
        if self.obs == "proprio":
            return _as_arrays(self._task.get_observation(self._physics))
        goal = self._arena.observe_goal(self._physics) if self._arena else {}
        return {"image": self._frame(IMAGE_SIZE, self._camera_id)} | _as_arrays(goal)

    def advance(
        self, action: Float[np.ndarray, " action"]
    ) -> tuple[float, bool, bool, dict[str, Any]]:
        """``step`` without looking: the reward, whether it ended, and ``info``.

        Raises:
          UserError: the action has the wrong shape, or holds a NaN.
          gymnasium.error.ResetNeeded: no episode is under way.
          dm_control.rl.control.PhysicsError: the simulation has become unstable.
        """
        if not self._running:
            raise gymnasium.error.ResetNeeded(f"{self.task}: call reset() before step()")
        # What dm_control's Environment.step does, less the observation.
        task, physics = self._task, self._physics
        task.before_step(self._to_control(action), physics)
        self._simulate()
        task.after_step(physics)
        info = self._info()
        if self.own_reward is None:
            reward = float(task.get_reward(physics))
        else:
            reward = float(self.own_reward(info["sim_state"][None], np.asarray(action)[None])[0])
        self._control_steps += 1
        late = self._control_steps >= MAX_CONTROL_STEPS
        discount = None if late else task.get_termination(physics)
        terminated = discount == 0.0
        truncated = late or (discount is not None and not terminated)
        self._running = not (terminated or truncated)
        return reward, terminated, truncated, info

    def render(self) -> UInt8[np.ndarray, "256 256 3"]:
        """The present state as a frame for people to see.

        Raises:
          UserError: rendering is impossible on this machine.
        """
        _require_rendering(self.task)
        return self._frame(FRAME_SIZE, arena.CAMERA if self._arena else self._camera_id)

    def reward_at(
        self,
        sim_state: Float64[np.ndarray, "*time state"],
        action: Float[np.ndarray, "*time action"],
    ) -> Float64[np.ndarray, "*time"]:
        """The task's reward for control steps, recomputed from stored states.

        ``sim_state`` is the state *after* a step and ``action``, in [-1, 1], is what led there.
        The episode under way is not disturbed.

        Raises:
          UserError: the task's reward is not a function of state and action alone.
        """
        if self.own_reward is None and self.task.startswith(_REWARD_NEEDS_MORE):
            raise UserError(
                f"{self.task}: its reward cannot be recomputed from stored states, because it "
                "depends on each episode's own target or contact forces; choose another task."
            )
        states = sim_state.reshape(-1, sim_state.shape[-1])
        actions = np.reshape(action, (len(states), -1))
        rewards: Any
        if self.own_reward is not None:
            rewards = self.own_reward(states, actions)
        elif self._arena is not None:
            rewards = self._arena.spec.reward(states, self._controls(actions))
        else:
            pairs = zip(states, actions, strict=True)
            rewards = np.array([self._suite_reward(state, action) for state, action in pairs])
        return np.reshape(rewards, sim_state.shape[:-1])

    def _suite_reward(self, sim_state: np.ndarray, action: np.ndarray) -> float:
        if self._reward_physics is None:
            self._reward_physics = self._physics.copy(share_model=True)
        physics = self._reward_physics
        with physics.reset_context():
            physics.set_state(sim_state)
            physics.set_control(self._to_control(action))
        return float(self._task.get_reward(physics))

    def close(self) -> None:
        """Frees the simulator, and what it rendered with, which another thread could not."""
        self._cameras.clear()
        self._env.close()
        self._physics.free()

    def _simulate(self) -> None:
        """``physics.step``, less its look-ups by name, half as long as the cheetah's physics."""
        simulator, warnings = self._simulator, self._warnings.tobytes()
        if self._runge_kutta:
            mujoco.mj_step(*simulator, self._substeps)
        else:
            mujoco.mj_step2(*simulator)  # its first half was done at the end of the last step
            mujoco.mj_step(*simulator, self._substeps - 1)
        mujoco.mj_step1(*simulator)  # so that all that is measured is of this state
        if self._warnings.tobytes() != warnings:
            raise control.PhysicsError(f"{self.task}: the simulation has become unstable")

    def _to_control(self, action: np.ndarray) -> np.ndarray:
        # In few calls: the cheetah's physics take no longer than a handful of numpy's.
        action = np.asarray(action, np.float64)
        fits = action.shape == self._middle.shape
        control = self._controls(action) if fits else self._middle
        if not fits or isnan(control.dot(control)):
            raise UserError(
                f"{self.task}: an action must be {self._middle.size} numbers without NaN, "
                f"got shape {action.shape}: {action}"
            )
        return control

    def _controls(self, actions: np.ndarray) -> np.ndarray:
        clipped = np.minimum(np.maximum(actions, self._lowest), self._highest)
        controls: np.ndarray = clipped * self._half + self._middle
        return controls

    def _info(self) -> dict[str, Any]:
        if self._arena is None:
            return {"sim_state": self._state()}
        info: dict[str, Any] = {"sim_state": self._arena.state(self._physics)}
        if self._arena.spec.seeks_goal:
            info["success"] = self._arena.reached
        return info

    def _state(self) -> np.ndarray:
        """``physics.get_state()``, in half the time."""
        state = np.empty(self._state_size)
        mujoco.mj_getState(*self._simulator, state, _STATE)
        return state

    def _frame(self, size: int, camera: int | str) -> np.ndarray:
        # Kept, because setting a camera up costs more than the 64x64 frame it takes.
        if size not in self._cameras:
            self._cameras[size] = Camera(self._physics, size, size, camera_id=camera)
        frame = self._cameras[size].render(render_flag_overrides=self._render_flags)
        return np.ascontiguousarray(frame)

    def _make_observation_space(self) -> gymnasium.Space[Any]:
        boxes: dict[str, gymnasium.spaces.Space[Any]] = {
            key: gymnasium.spaces.Box(-np.inf, np.inf, spec.shape or (1,), np.float32)
            for key, spec in self._env.observation_spec().items()
        }
        if self.obs == "pixels":
            image = gymnasium.spaces.Box(0, 255, (IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
            boxes = {"image": image} | {key: boxes[key] for key in boxes if key == "goal"}
        # Given as pairs: Gymnasium sorts a plain dict's keys, and dm_control's order is meant.
        return gymnasium.spaces.Dict(list(boxes.items()))


def _as_arrays(measured: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {key: np.array(value, np.float32, ndmin=1) for key, value in measured.items()}


def task_names() -> list[str]:
    """The names of all tasks, ours and those of the dm_control suite (``domain_task``), sorted."""
    return sorted([*arena.TASKS, *(f"{domain}_{task}" for domain, task in suite.ALL_TASKS)])


def split_task(task: str) -> tuple[str, str]:
    """Domain and task of a name; looked up, as domains such as ball_in_cup hold underscores.

    Raises:
      UserError: there is no such task.
    """
    if task in arena.TASKS:
        return "quadruped", task.removeprefix("quadruped_")
    for domain, name in suite.ALL_TASKS:
        if task == f"{domain}_{name}":
            return domain, name
    raise UserError(
        f"Unknown task '{task}'.{_meant(task)} lsp.envs.task_names() lists them all, and "
        "docs/guide/tasks.md says how to name your own."
    )


def _meant(task: str) -> str:
    """A question about a name that is none of dm_control's, but may be Gymnasium's."""
    registered = gymnasium.registry.get(task)
    if registered is not None and registered.kwargs.get("task") in task_names():
        close = [registered.kwargs["task"]]  # one of ours, by its id
    elif registered is not None:
        close = [f"gymnasium:{task}"]
    else:
        close = difflib.get_close_matches(task, task_names(), n=3)
    if not close and IS_ID.search(task):
        return f" If a package registers it, name both: gymnasium:PACKAGE:{task}."
    return f" Did you mean {' or '.join(close)}?" if close else ""


def load_control(domain: str, name: str) -> control.Environment:
    """The task as dm_control has it."""
    task = f"{domain}_{name}"
    if task in arena.TASKS:
        return arena.load(task)
    # lqr draws its springs when it is built: a fixed seed makes it one task, not many.
    return suite.load(domain, name, task_kwargs={"random": 0})


def _load(domain: str, name: str) -> control.Environment:
    """Raises UserError where dm_control and MuJoCo do not fit each other."""
    try:
        return load_control(domain, name)
    except AttributeError as error:
        versions = mismatch("mujoco", "dm_control", "numpy") or "lsp doctor shows the versions"
        raise UserError(
            f"{domain}_{name}: dm_control cannot load it ({error}): {versions}. Tasks of your own "
            "need no dm_control, and work all the same (docs/guide/tasks.md)."
        ) from error


def _check_choice(name: str, value: str, choices: tuple[str, ...], task: str) -> None:
    if value not in choices:
        raise UserError(f"{task}: {name} must be {' or '.join(choices)}, not '{value}'.")


def _require_rendering(task: str) -> None:
    problem = rendering_problem()
    if problem is not None:
        raise UserError(f"{task}: {problem}")
