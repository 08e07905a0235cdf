"""What single skills do, each from the same start (figures 7 and 10)."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from lsp.algorithm.agent import Agent
from lsp.api import load_networks
from lsp.envs import make_env, rendering_problem
from lsp.envs.quadruped import Measurements
from lsp.errors import UserError
from lsp.experiments.figures.curves import write_rows
from lsp.experiments.figures.definitions import Curve, Target
from lsp.experiments.figures.evaluations import Records
from lsp.models.networks import Networks
from lsp.report import plots
from lsp.report.video import VideoWriter

STEPS = 40  # agent steps that each skill is held (figure 7)
SIDE = 3  # skills in a row, and rows
REACH = 1.5  # the outer skills' distance from 0 along two axes, in standard deviations of the prior
SEED = 7
_SHOWN = 5  # moments in a composite picture
_PIXELS = 256  # of a picture's side
_FRAMES_PER_SECOND = 25.0  # an agent step is 0.04 s

States = Float64[np.ndarray, "skills time S"]


def skill_grid(dim: int) -> Float[np.ndarray, "skills dim"]:
    """3 × 3 skills along the first two axes; along the only one where there is one."""
    skills = np.zeros((SIDE * SIDE, dim), np.float32)
    line = np.linspace(-REACH, REACH, SIDE)
    if dim == 1:
        skills[:, 0] = np.linspace(-REACH, REACH, SIDE * SIDE)
    else:
        skills[:, :2] = np.stack(np.meshgrid(line, line[::-1]), -1).reshape(-1, 2)
    return skills


def hold(folder: Path, skills: Float[np.ndarray, "skills dim"], steps: int) -> States:
    """Simulator states where each skill is held for `steps` agent steps, start included: all from
    one start, without exploration. Raises UserError if the run has no checkpoint, or no skills."""
    networks = load_networks(folder)
    config = networks.config
    if not isinstance(networks, Networks) or not config.has_skills:
        raise UserError(f"{folder}: {config.method} has no skills to hold: name a run of lsp")
    agent = Agent(networks, "evaluate", len(skills), SEED)
    settings = config.task, config.obs, config.action_repeat, config.render_quality
    envs = [make_env(*settings) for _ in skills]
    starts = [env.reset(seed=SEED) for env in envs]
    observations, states = [x for x, _ in starts], [[_last(i)] for _, i in starts]
    for _ in range(steps):
        batch = {key: np.stack([x[key] for x in observations]) for key in observations[0]}
        for number, action in enumerate(agent.act(batch, skills)):
            observations[number], *_, info = envs[number].step(action)
            states[number].append(_last(info))
    for env in envs:
        env.close()
    return np.array(states)


def _last(info: dict[str, np.ndarray]) -> np.ndarray:
    """The state after an agent step: that of its last control step."""
    state = info["sim_state"]
    return state if state.ndim == 1 else state[info["env_steps"] - 1]


def spread(states: States) -> float:
    """Metres between where two skills end, averaged over all pairs."""
    ends = Measurements(states[:, -1]).position[:, :2]
    distances = np.linalg.norm(ends[:, None] - ends[None], axis=-1)
    return float(distances[np.triu_indices(len(ends), 1)].mean())


def draw_skills(target: Target, records: Records, out: Path) -> None:
    """Beside each other for every run: its skills' composite pictures, or where nothing can be
    rendered their ways; and, in a folder beside `out`, a film of each skill."""
    figure = Figure(figsize=(7.5 * len(target.curves), 8.2), layout="constrained")
    parts = figure.subfigures(1, len(target.curves), squeeze=False)[0]
    rows = [("run", "spread over skills (m)", "with one skill and other noise (m)")]
    for part, curve in zip(parts, target.curves):
        over, within = _draw_run(part, curve, records.storage, out)
        rows.append((curve.label, over, within))
    figure.suptitle(target.title)
    plots.save_figure(figure, out)
    write_rows(rows, out.with_suffix(".csv"))


def _draw_run(figure: SubFigure, curve: Curve, storage: Path, out: Path) -> tuple[str, str]:
    """Returns how far apart the skills end, and one skill repeated."""
    run = curve.runs[0]
    folder = run.folder(storage)
    if run.reached(storage) == 0:
        figure.suptitle(f"{curve.label}: nothing yet")
        return "", ""
    skills = skill_grid(run.config.skills.dim)
    states = hold(folder, skills, STEPS)
    over, within = spread(states), spread(hold(folder, np.zeros_like(skills), STEPS))
    figure.suptitle(
        f"{curve.label}, {run.reached(storage):,} env steps:\n{over:.2f} m apart after {STEPS} "
        f"agent steps ({within:.2f} m with one skill)",
        fontsize="medium",
    )
    if problem := rendering_problem():
        _draw_ways(figure.subplots(), states, skills)
        figure.supxlabel(f"no pictures: {problem}"[:90], fontsize="x-small")
        return f"{over:.3f}", f"{within:.3f}"
    films = out.with_suffix("") / run.name
    panels = figure.subplots(SIDE, SIDE).ravel()
    for number, (axes, way, skill) in enumerate(zip(panels, states, skills)):
        seen = views(run.config.task, way)
        axes.imshow(seen.composite())
        axes.set_title("z = " + _vector(skill), fontsize="small")
        axes.set_axis_off()
        with VideoWriter(films / f"skill-{number}.mp4", _FRAMES_PER_SECOND) as video:
            for frame in seen.frames:
                video.add(frame)
    return f"{over:.3f}", f"{within:.3f}"


def _vector(skill: np.ndarray) -> str:
    return ", ".join(f"{x:g}" for x in skill)


def _draw_ways(axes: Axes, states: States, skills: np.ndarray) -> None:
    for way, skill in zip(states, skills):
        axes.plot(*Measurements(way).position[:, :2].T, label=_vector(skill))
    axes.set_aspect("equal")
    axes.legend(frameon=False, fontsize="x-small")


class Views(NamedTuple):
    """Pictures from a camera that stands still, and where the robot is in each."""

    frames: UInt8[np.ndarray, "time height width 3"]
    robot: Bool[np.ndarray, "time height width"]

    def composite(self) -> UInt8[np.ndarray, "height width 3"]:
        """The robot at several moments in one picture, later ones on top."""
        picture: np.ndarray = self.frames[0].copy()
        for index in np.linspace(0, len(self.frames) - 1, _SHOWN).round().astype(int):
            robot = self.robot[index]
            picture[robot] = self.frames[index][robot]
        return picture


def views(task: str, states: Float64[np.ndarray, "time S"]) -> Views:
    """A quadruped's states, from above and behind its first. Raises UserError for other tasks."""
    from dm_control.mujoco.engine import MovableCamera
    from mujoco import mjtObj

    from lsp.envs.dmc import load_control, split_task

    if not task.startswith("quadruped"):
        raise UserError(f"{task}: only quadrupeds are drawn from their states")
    physics = load_control(*split_task(task)).physics
    model = physics.model
    torso = model.name2id("torso", "body")
    of_robot = model.body_rootid[model.geom_bodyid] == torso
    size = len(physics.get_state())
    camera = MovableCamera(physics, _PIXELS, _PIXELS)
    camera.set_pose((*Measurements(states[0]).position[:2], 0.3), 6.0, 90.0, -50.0)
    frames, robot = [], []
    for state in states:
        with physics.reset_context():
            physics.set_state(state[:size])
            now = Measurements(state)
            physics.named.model.site_pos["goal"] = now.goal
            physics.data.mocap_pos[:, :2] = now.obstacles
        frames.append(camera.render().copy())
        number, kind = np.moveaxis(camera.render(segmentation=True), -1, 0)
        # A number of -1, the background, is no geom either.
        robot.append((kind == mjtObj.mjOBJ_GEOM) & of_robot[number])
    return Views(np.array(frames), np.array(robot))
