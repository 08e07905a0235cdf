"""The command that lists tasks: `lsp tasks`."""

from dataclasses import dataclass
from pathlib import Path

from lsp.errors import UserError

OTHERS = """
Train on one with `lsp train --task NAME`, from 64×64 images with `--obs pixels`. As Gymnasium
environments they are lsp/NAME-v0 and lsp/NAME-pixels-v0. `--task` also takes
  domain_task              any other task of dm_control's suite, such as cartpole_swingup
  gymnasium:ID             a registered task with continuous actions, such as gymnasium:Hopper-v5
  gymnasium:package:ID     one that a package registers when it is imported
  package.module:name      your own function or class (docs/guide/tasks.md)"""


@dataclass(frozen=True)
class Tasks:
    """List the tasks of the paper's experiments, and how `lsp train --task` names all others."""

    render: Path | None = None
    """Also draw the start of each task into this folder."""

    def main(self) -> None:
        from lsp.tasks import PAPER_TASKS

        width = max(map(len, PAPER_TASKS))
        for name, about in PAPER_TASKS.items():
            print(f"{name:<{width}}  {about}")
        print(OTHERS)
        if self.render is not None:
            _draw_tasks(self.render)


def _draw_tasks(folder: Path) -> None:
    import imageio.v3
    import numpy as np

    from lsp.envs import make_env
    from lsp.runs.files import replacing
    from lsp.tasks import PAPER_TASKS

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror})") from error
    for task in PAPER_TASKS:
        env = make_env(task)
        env.reset(seed=0)
        picture = folder / f"{task}.png"
        with replacing(picture) as new:
            imageio.v3.imwrite(new, np.asarray(env.render()))
        env.close()
        print(picture)
