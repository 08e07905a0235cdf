"""What the robot is shown as: a scene where MuJoCo simulates it, else frames, else nothing."""

import copy
from typing import Any

import gymnasium
import numpy as np
import viser
from mjviser import ViserMujocoScene
from mujoco import MjData, MjModel, mjtGeom

from lsp.errors import UserError
from lsp.explorer.recording import frame_of
from lsp.explorer.session import Fan

_HEX = "1f77b4 ff7f0e 2ca02c d62728 9467bd 8c564b e377c2 7f7f7f bcbd22"
COLORS = np.array([list(bytes.fromhex(color)) for color in _HEX.split()], np.uint8)
"""Of the fan's skills."""
PLAN, TRAIL, GOAL = (230, 0, 170), (20, 20, 20), (220, 30, 30)
_ABOVE = 0.03  # metres over the ground, of what is drawn on it
_FIXED = "/fixed_bodies/explorer"  # below mjviser's frame of the ground, which follows the robot
_WIDTH = 0.03  # metres, of a line


def simulator_of(env: gymnasium.Env[Any, Any]) -> tuple[MjModel, MjData] | None:
    """MuJoCo's model and state behind an environment, this package's or Gymnasium's."""
    inner = env.unwrapped
    pair = getattr(inner, "simulator", None) or (
        getattr(inner, "model", None),
        getattr(inner, "data", None),
    )
    model, data = pair
    return (model, data) if isinstance(model, MjModel) and isinstance(data, MjData) else None


class Scene:
    """The robot in its scene, and on the ground what is imagined and what came."""

    why = ""

    def __init__(self, server: viser.ViserServer, model: MjModel, data: MjData) -> None:
        self._server, self._data = server, data
        model = copy.copy(model)  # whose colours mjviser changes
        model.site_group[:] = 5  # which is not shown: a goal would stay where the first one was
        self._scene = ViserMujocoScene(server, model, num_envs=1)
        server.initial_camera.position, server.initial_camera.look_at = (-4, -4, 4), (1, 0, 0)
        self.has_floor = bool((model.geom_type == mjtGeom.mjGEOM_PLANE).any())

    def show(self) -> None:
        """The robot where it is now."""
        self._scene.update_from_mjdata(self._data)

    def draw(self, name: str, ways: np.ndarray | None, colors: np.ndarray) -> None:
        """Lines on the ground, `[lines, points, 2]`, in place of those of that name."""
        if ways is None or ways.shape[1] < 2:
            self._server.scene.remove_by_name(f"{_FIXED}/{name}")
            return
        raised = np.concatenate([ways, np.full((*ways.shape[:2], 1), _ABOVE)], -1)
        segments = np.stack([raised[:, :-1], raised[:, 1:]], 2).reshape(-1, 2, 3)
        each = np.repeat(np.asarray(colors, np.uint8), ways.shape[1] - 1, 0)
        self._server.scene.add_line_segments(
            f"{_FIXED}/{name}",
            segments.astype(np.float32),
            np.stack([each, each], 1),
            thickness=_WIDTH,
        )

    def draw_ends(self, fan: Fan | None) -> None:
        """The numbers of a fan's skills, where its ways end."""
        for number in range(len(COLORS)):
            name = f"{_FIXED}/end_{number + 1}"
            if fan is None or fan.ways is None:
                self._server.scene.remove_by_name(name)
                continue
            place = (*fan.ways[number, -1], _ABOVE)
            self._server.scene.add_label(name, str(number + 1), position=place)

    def draw_goal(self, place: tuple[float, float] | None) -> None:
        """A disc where to go."""
        if place is None:
            self._server.scene.remove_by_name(f"{_FIXED}/goal")
            return
        self._server.scene.add_cylinder(
            f"{_FIXED}/goal", 0.5, 0.02, GOAL, position=(*place, _ABOVE / 2), opacity=0.6
        )

    def place_under(self, origin: Any, direction: Any) -> tuple[float, float] | None:
        """Where a ray of the browser meets the ground, in the arena; None where it does not."""
        start = np.asarray(origin) - self._scene.fixed_bodies_frame.position
        if direction[2] >= 0 or start[2] <= 0:
            return None
        x, y, _ = start - start[2] / direction[2] * np.asarray(direction)
        return float(x), float(y)


class Frames:
    """What the environment renders, in the page's panel."""

    why = ""

    def __init__(
        self, server: viser.ViserServer, env: gymnasium.Env[Any, Any], frame: np.ndarray
    ) -> None:
        self._env = env
        self._image = server.gui.add_image(frame, label="Now", format="jpeg")

    def show(self) -> None:
        """The present frame."""
        self._image.image = np.asarray(self._env.render())


class Numbers:
    """Nothing but what the page writes anyway. `why` says in one line why there is no picture."""

    def __init__(self, why: str) -> None:
        self.why = why

    def show(self) -> None:
        """Do nothing."""


def make_view(server: viser.ViserServer, env: gymnasium.Env[Any, Any]) -> Scene | Frames | Numbers:
    """The best that an environment allows, which has been reset."""
    simulator = simulator_of(env)
    if simulator is not None:
        return Scene(server, *simulator)
    try:
        frame = frame_of(env)
    except UserError as error:
        return Numbers(f"No pictures: {error}")
    return Frames(server, env, frame)
