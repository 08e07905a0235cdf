"""Skills of a quadruped from above: their ways over the ground, and the robot where they end."""

import numpy as np
from jaxtyping import Float64, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes

from lsp.envs import rendering_problem
from lsp.envs.quadruped import Measurements
from lsp.experiments.skills.held import Held

_PIXELS = 1000  # of a picture's side
_MARGIN = 0.7  # metres around all ways, so that no robot is cut
_START = (0.85, 0.85, 0.85, 1.0)
_HEIGHT = 0.5  # metres, of the plane on which camera and ways agree: the torso's
_ANGLE = 5.0  # degrees that the camera sees: from far away, so that heights hardly shift the robot
_DIMMED = 0.75  # of a colour, as the lamps are bright


def draw_above(axes: Axes, task: str, held: Held) -> None:
    """The ways of all rollouts, a colour a skill; below them, where this machine renders, the arena
    with the robot at the start and, in its skill's colour, at the end of each first rollout. Start
    and skills are marked, and a bar is a metre long."""
    assert held.states is not None
    ways = Measurements(held.states).position[..., :2]
    colors = colormaps["tab10"](np.arange(len(ways)) % 10)
    center, half = _window(ways)
    if rendering_problem() is None:
        picture = photograph(task, held.states[:, 0], colors, center, half)
        extent = (center[0] - half, center[0] + half, center[1] - half, center[1] + half)
        axes.imshow(picture, extent=extent)
    for number, (repeats, color) in enumerate(zip(ways, colors)):
        for way in repeats:
            axes.plot(*way.T, color="white", linewidth=3.2, alpha=0.8)
            axes.plot(*way.T, color=color, linewidth=1.8)
        axes.plot(*repeats[:, -1].T, "o", color=color, markersize=4, markeredgecolor="white")
        axes.annotate(str(number + 1), repeats[0, -1], color="white", fontweight="bold")
    axes.plot(*ways[0, 0, 0], "X", color="white", markeredgecolor="black", markersize=9)
    _draw_metre(axes, center, half)
    axes.set_xlim(center[0] - half, center[0] + half)
    axes.set_ylim(center[1] - half, center[1] + half)
    axes.set_aspect("equal")
    axes.set_axis_off()


def _window(ways: np.ndarray) -> tuple[np.ndarray, float]:
    """The middle of all ways, and half of a square's side around them."""
    low, high = ways.min((0, 1, 2)), ways.max((0, 1, 2))
    return (low + high) / 2, float((high - low).max()) / 2 + _MARGIN


def _draw_metre(axes: Axes, center: np.ndarray, half: float) -> None:
    left, bottom = center[0] - half + 0.08 * half, center[1] - half + 0.08 * half
    axes.plot([left, left + 1], [bottom, bottom], color="white", linewidth=4, solid_capstyle="butt")
    axes.annotate("1 m", (left + 0.5, bottom + 0.03 * half), color="white", ha="center")


def photograph(
    task: str,
    states: Float64[np.ndarray, "skills time S"],
    colors: Float64[np.ndarray, "skills 4"],
    center: Float64[np.ndarray, " 2"],
    half: float,
) -> UInt8[np.ndarray, "height width 3"]:
    """The arena straight from above, `half` metres from `center` to each side, with the robot where
    all skills begin, in grey, and where each ends, in its colour."""
    from dm_control.mujoco.engine import MovableCamera
    from mujoco import mjtObj

    from lsp.envs.dmc import load_control, split_task

    physics = load_control(*split_task(task)).physics
    model = physics.model
    model.vis.global_.offwidth = model.vis.global_.offheight = _PIXELS
    of_robot = model.body_rootid[model.geom_bodyid] == model.name2id("torso", "body")
    camera = MovableCamera(physics, _PIXELS, _PIXELS)
    model.vis.global_.fovy = _ANGLE
    distance = half / np.tan(np.radians(_ANGLE) / 2)
    model.vis.map.zfar = 2 * distance / model.stat.extent  # how far it sees, in sizes of the scene
    camera.set_pose((*center, _HEIGHT), distance, 90.0, -90.0)
    model.geom_matid[of_robot] = -1  # so that its geoms have colours instead of a texture
    picture: np.ndarray | None = None
    shown = [(states[0, 0], _START), *zip(states[:, -1], colors, strict=True)]
    for state, color in shown:
        model.geom_rgba[of_robot, :3] = np.multiply(color[:3], _DIMMED)
        with physics.reset_context():
            physics.set_state(state[: len(physics.get_state())])
            now = Measurements(state)
            physics.named.model.site_pos["goal"] = now.goal
            physics.data.mocap_pos[:, :2] = now.obstacles
        frame = camera.render().copy()  # of a buffer that the next call writes over
        if picture is None:
            picture = frame
        number, kind = np.moveaxis(camera.render(segmentation=True), -1, 0)
        # A number of -1, the background, is no geom either.
        robot = (kind == mjtObj.mjOBJ_GEOM) & of_robot[number]
        picture[robot] = frame[robot]
    assert picture is not None
    return picture
