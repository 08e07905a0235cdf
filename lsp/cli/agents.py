"""The commands of agents that are trained already: `lsp agents` and `lsp export`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from lsp.config import RuntimeConfig
from lsp.errors import UserError, shown

if TYPE_CHECKING:
    from lsp.runs.agents import Card

COLUMNS = ("name", "task", "return", "N(0, I)", "env steps", "MB")
NONE = "This version ships no agents. Make one of a run of yours: lsp export RUN"


@dataclass(frozen=True)
class Agents:
    """List the agents that are shipped with this package, or show the card of one.

    Their names stand for a run's folder in `lsp eval`, `lsp transfer`, `lsp skills`
    and `lsp explore`.
    """

    agent: Positional[str] = ""
    """An agent's name or folder; without it all are listed."""

    def main(self) -> None:
        from lsp.runs.agents import SHIPPED, agents, find_run, is_agent, read_card

        if self.agent:
            folder = find_run(self.agent)
            if not is_agent(folder):
                raise UserError(f"{folder} is no agent: lsp export makes one of a run")
            print("\n".join(_described(read_card(folder))))
        elif known := agents():
            print("\n".join(_table(known, SHIPPED)))
        else:
            print(NONE)


@dataclass(frozen=True)
class Export:
    """Pack a run's newest checkpoint as an agent: a small folder to share, that stands for a run in
    `lsp eval`, `lsp transfer`, `lsp skills` and `lsp explore`. A picture of its skills is in it.

    Run and agent are evaluated in the same episodes first; where half precision loses more than the
    noise, nothing is written.
    """

    run: Positional[Path]
    """The run's folder."""
    out: Path | None = None
    """The agent's folder, whose name is the agent's; without it agents/TASK."""
    episodes: int = 100
    """Of each evaluation: of the run, of the agent, and of its skills from N(0, I)."""
    about: str = ""
    """What the agent does, for its card."""
    licence: str | None = None
    """Under which you share it, for its card."""
    full_precision: bool = False
    """Store all weights in full precision, which takes twice the space."""
    device: str = "cpu"
    """`cpu` or `cuda`."""
    threads: int | None = None
    """CPU threads; None takes PyTorch's default."""
    trust: bool = False
    """Run the code that the run's settings name: a task or reward of your own."""

    def main(self) -> None:
        from lsp import api
        from lsp.backends.torch_setup import prepare_torch
        from lsp.experiments.skills.report import draw_agent
        from lsp.runs.agents import find_run, megabytes
        from lsp.runs.files import expanded
        from lsp.runs.folder import RunFolder
        from lsp.tasks import plain_name

        prepare_torch(RuntimeConfig(device=self.device, threads=self.threads))
        task = RunFolder(find_run(self.run)).read_config().task
        out = expanded(self.out or Path("agents") / plain_name(task))
        card = api.export(
            *(self.run, out, self.episodes),
            about=self.about,
            licence=self.licence,
            full_precision=self.full_precision,
            device=self.device,
            trust=self.trust,
        )
        draw_agent(out, trust=self.trust)
        print("\n".join(_described(card)))
        print(f"{out}: {megabytes(out):.2f} MB")


def _table(known: "dict[str, Card]", folder: Path) -> list[str]:
    """A row for each of the agents in a folder."""
    from lsp.runs.agents import megabytes

    rows = [COLUMNS]
    for name, card in known.items():
        prior = "–" if card.prior_return is None else f"{card.prior_return:.0f}"
        returned = f"{card.eval_return:.0f} ± {card.eval_std:.0f}"
        size = f"{megabytes(folder / name):.2f}"
        rows.append((name, shown(card.task), returned, prior, f"{card.env_steps:,}", size))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(x.ljust(width) for x, width in zip(row, widths)).rstrip() for row in rows]


def _described(card: "Card") -> list[str]:
    """A line for each thing that a card tells."""
    told = {name: value for name, value in asdict(card).items() if name not in ("schema", "sums")}
    told["curve"] = ", ".join(f"{x:.0f} at {steps:,}" for steps, x in card.curve)
    told |= {"weights": f"sha256 {card.sums.weights}"}
    lines = [(name.replace("_", " "), value) for name, value in told.items()]
    return [f"{name:<12}  {shown(str(value))}" for name, value in lines if value not in (None, "")]
