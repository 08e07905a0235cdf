"""A session of a run's newest checkpoint, in its task or in another that fits."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from lsp.api import environments_of, load_networks
from lsp.api.evaluating import check_seed
from lsp.config import RuntimeConfig, default_runtime
from lsp.envs import task_names
from lsp.envs.dmc import split_task
from lsp.envs.lookup import Maker, Task
from lsp.errors import UserError
from lsp.explorer.session import Session
from lsp.runs.agents import find_run
from lsp.runs.folder import RunFolder
from lsp.runs.spaces import spaces_of
from lsp.training.parts import env_maker


def open_session(
    run: str | Path,
    task: Task | None = None,
    device: str = "cpu",
    seed: int = 0,
    trust: bool = False,
) -> Session:
    """A session that begins with the episode of `seed`.

    Args:
        run: the run's folder, or an agent's folder or name (docs/guide/agents.md).
        task: another one that is observed and acted in as the run's own.
        device: `cpu` or `cuda`.
        seed: of the first episode, and of the agent.
        trust: as for `lsp.load`.

    Raises:
        UserError: where `lsp.load` raises it, or the method has no skills.
    """
    check_seed(seed)
    networks = load_networks(run, device, task, trust)
    environments_of(run, task)  # which says where the task does not fit
    config = RunFolder(find_run(run)).read_config()
    source: Task = config.task if task is None else task
    make = env_maker(config, source if isinstance(source, str) else Maker(source))
    runtime = default_runtime(config.preset, RuntimeConfig(device=device))
    return Session(networks, make, runtime, seed, source if isinstance(source, str) else None)


def family_of(session: Session) -> list[str]:
    """Tasks of the session's body that are observed and acted in alike, its own among them.

    There are none where dm_control does not know the body.
    """
    spaces, found = spaces_of(session.env), []
    for task in task_names():
        if split_task(task)[0] != spaces.body:
            continue
        try:
            env = env_maker(replace(session.trained, reward=None), task)()
        except UserError:  # one that cannot do without OpenGL
            continue
        if spaces_of(env) == spaces:
            found.append(task)
        env.close()
    return found


def check_installed() -> None:
    """Raises UserError where the extra `explorer` is not installed."""
    missing = [name for name in ("viser", "mjviser") if find_spec(name) is None]
    if missing:
        raise UserError(
            f"the explorer needs {' and '.join(missing)}: "
            "pip install 'latent-skill-planning[explorer]'; --export FILE.html needs neither"
        )
