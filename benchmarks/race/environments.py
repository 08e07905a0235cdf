"""An environment of its own for each public agent, with every version pinned."""

import subprocess
import sys
import venv
from pathlib import Path

PINS = Path(__file__).parent / "pins"
STAMP = "pins.txt"
"""What was installed, in the environment's folder."""


class Failed(Exception):
    """A contestant that could not be installed, or ended early: one line. The others go on."""


def environment(folder: Path, name: str) -> Path:
    """Its interpreter; installs where that is not done yet, or was done by other pins.

    Raises Failed.
    """
    python, stamp = folder / name / "bin" / "python", folder / name / STAMP
    pins = PINS / f"{name}.txt"
    asked = pins.read_text(encoding="utf-8")
    if python.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == asked:
        return python
    print(f"Installing what {name} needs into {folder / name}", file=sys.stderr, flush=True)
    try:
        if not python.exists():
            venv.create(folder / name, with_pip=True)
        install(python, pins)
        stamp.write_text(asked, encoding="utf-8")
    except (OSError, subprocess.CalledProcessError) as error:
        raise Failed(f"could not be installed ({error})") from error
    return python


def install(python: Path, pins: Path) -> None:
    """Raises Failed with the first line that pip calls an error."""
    pip = [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(pins)]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode != 0:
        lines = done.stderr.splitlines()
        why = next((line for line in lines if line.startswith("ERROR")), f"pip {done.returncode}")
        raise Failed(f"could not be installed ({why})")
