"""The live line of a training: env steps, return, speed, time left."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import ProgressColumn as Column
from rich.text import Text

from lsp.training.schedule import Progress as Now


@contextmanager
def show_progress(total_steps: int) -> Iterator[Callable[[Now], None]]:
    """A bar on a terminal that can draw one, a line for each report elsewhere."""
    if not sys.stdout.isatty() or not (sys.stdout.encoding or "").lower().startswith("utf"):
        yield lambda now: say(describe(now))
        return
    columns: list[Column] = [BarColumn(24), TextColumn("{task.description}"), TimeElapsedColumn()]
    bar = Progress(*columns, console=Console())
    task = bar.add_task("collecting the first episodes", total=total_steps)

    def show(now: Now) -> None:
        bar.update(task, completed=now.env_steps, description=str(Text(describe(now))))

    bar.start()
    try:
        yield show
    finally:
        with suppress(OSError):  # the terminal may have closed
            bar.stop()


def say(line: str) -> None:
    """Print `line`; letters that the output's encoding lacks as question marks. A full disk or a
    closed terminal that it goes to does not stop a run; a reader that is gone does."""
    try:
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        print(line.encode(encoding, "replace").decode(encoding), flush=True)
    except BrokenPipeError:
        raise
    except OSError:
        pass


def describe(now: Now) -> str:
    """`12,000/30,000 env steps · return 213 (eval 250) · 41 steps/s · 7 min left`"""
    parts = [f"{now.env_steps:,}/{now.total_steps:,} env steps"]
    if now.first_updates is not None:
        made, count = now.first_updates
        return f"{parts[0]} · {made:,} of the first {count:,} updates"
    if now.phase == "learning begins":
        return f"{parts[0]} · learning begins"
    if now.episode_return is not None:
        evaluated = "" if now.eval_return is None else f" (eval {now.eval_return:.0f})"
        parts.append(f"return {now.episode_return:.0f}{evaluated}")
    parts.append(f"{now.steps_per_second:.0f} steps/s")
    if now.phase != "learning":
        parts.append(now.phase)
    elif now.steps_per_second > 0:
        left = (now.total_steps - now.env_steps) / now.steps_per_second
        parts.append(f"{left / 60:.0f} min left" if left >= 60 else f"{left:.0f} s left")
    return " · ".join(parts)
