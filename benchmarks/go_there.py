"""How often the explorer's "go there" arrives, with nothing trained for it.

Usage: go_there.py RUN [--clicks 20] [--seconds 20]. RUN is a run or an agent on a quadruped. Each
click is an episode of its own: a place 3 to 6 metres away in any direction, and the time to come
within its radius. Prints a line for each, and the share that arrived.
"""

import argparse
from math import cos, hypot, sin, tau

import numpy as np

from lsp.backends.torch_setup import prepare_torch
from lsp.config import RuntimeConfig
from lsp.envs.quadruped import GOAL_RADIUS
from lsp.explorer.opening import open_session
from lsp.explorer.session import Session

NEAREST, FARTHEST = 3.0, 6.0  # metres


def distance(session: Session, x: float, y: float) -> float:
    """From the robot, in metres over the ground."""
    assert session.pose is not None
    return hypot(session.pose.x - x, session.pose.y - y)


def arrival(session: Session, x: float, y: float, seconds: float) -> tuple[float | None, float]:
    """Seconds to the place, None where it was not reached; and how near the robot came."""
    session.go_to(x, y)
    nearest = distance(session, x, y)
    for step in range(round(seconds / session.seconds)):
        session.step()
        nearest = min(nearest, distance(session, x, y))
        if nearest <= GOAL_RADIUS:
            return (step + 1) * session.seconds, nearest
    return None, nearest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--clicks", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    prepare_torch(RuntimeConfig(threads=asked.threads))
    session, arrived = open_session(asked.run), 0
    rng = np.random.default_rng(0)
    for click in range(asked.clicks):
        far, angle = rng.uniform(NEAREST, FARTHEST), rng.uniform(0, tau)
        session.reset(click)
        assert session.pose is not None
        x, y = session.pose.x + far * cos(angle), session.pose.y + far * sin(angle)
        took, nearest = arrival(session, x, y, asked.seconds)
        arrived += took is not None
        told = f"after {took:.1f} s" if took is not None else f"not, {nearest:.1f} m short"
        print(f"{click:3d}  {far:.1f} m away  arrived {told}", flush=True)
    print(f"{arrived} of {asked.clicks} clicks arrived within {asked.seconds:g} s")
    session.close()


if __name__ == "__main__":
    main()
