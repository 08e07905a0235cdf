"""What is known of runs: from their folders, or from the tables that were collected of them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lsp.config import to_dict
from lsp.errors import UserError
from lsp.experiments.sweep.planned_run import PlannedRun
from lsp.report import plots
from lsp.report.seeds import Curve, curve
from lsp.report.settings import joined, own_settings
from lsp.report.tables import SETTINGS, Row, read_table, start, table_path
from lsp.runs.metrics import read_metrics

TOO_FAR = 1.01  # another figure may have trained a run further than this one shows


@dataclass(frozen=True)
class Records:
    """Attributes:
    storage: where the folders of runs are.
    tables: a folder that `lsp collect` wrote, or None. Its tables name a run's observations,
        preset, seed, and the settings in which it differed from its method when it was collected.

    Raises UserError where `tables` is no folder, or holds what is no table.
    """

    storage: Path
    tables: Path | None = None

    def __post_init__(self) -> None:
        if self.tables is not None and not self.tables.is_dir():
            raise UserError(
                f"{self.tables} is no folder of tables: lsp collect RUN --out makes one"
            )

    @property
    def of_folders(self) -> "Records":
        """For what only the folders of runs have."""
        return Records(self.storage)

    def evaluations(self, run: PlannedRun) -> Curve | None:
        """Env steps and returns; None of a run that has not been evaluated. Of its folder and its
        table the one that has got further."""
        found = [self._of_folder(run), self._of_table(run)]
        return max((x for x in found if x[0].size), key=lambda x: x[0][-1], default=None)

    def finished(self, run: PlannedRun) -> bool:
        """Whether it is as long as it is to be."""
        steps, _ = self._of_table(run)
        return run.finished(self.storage) or (steps.size > 0 and bool(steps[-1] >= run.steps))

    def counts(self, run: PlannedRun) -> bool:
        """Whether it can tell anything: not a transfer from a run that ended no higher than
        standing still."""
        if run.source is None or not self.finished(run.source):
            return True
        learned = self.evaluations(run.source)
        still = plots.STANDING_STILL.get(run.source.config.task, -np.inf)
        return learned is None or bool(learned[1][-1] > still)

    def _of_folder(self, run: PlannedRun) -> Curve:
        folder = run.folder(self.storage)
        lines = read_metrics(folder) if (folder / "metrics.jsonl").exists() else []
        steps, values = curve((x for x in lines if x["kind"] == "eval"), "eval/return")
        kept = steps <= run.steps * TOO_FAR
        return steps[kept], values[kept]

    def _of_table(self, run: PlannedRun) -> Curve:
        rows = [] if self.tables is None else _rows(self.tables, run)
        points = sorted((float(x["env_steps"]), float(x["eval_return"])) for x in rows)
        steps, values = np.array(points).reshape(-1, 2).T
        kept = steps <= run.steps * TOO_FAR
        return steps[kept], values[kept]


def _rows(tables: Path, run: PlannedRun) -> list[Row]:
    """Those of a run in its table; evaluations without a return left out."""
    config, settings = run.config, to_dict(run.config.resolved())
    source = None if run.source is None else run.source.config.task
    if run.source is not None:
        settings["transfer"]["source"] = run.source.name
    path = tables / table_path(settings, source)
    wanted = {"obs": config.obs, "preset": config.preset, "seed": str(config.seed)}
    wanted[SETTINGS] = joined(own_settings(settings))
    if run.source is not None:
        wanted |= start(settings, run.source.steps)
    rows = read_table(path) if path.is_file() else []
    found = [x for x in rows if x["eval_return"] and wanted.items() <= x.items()]
    # Of one seed in two precisions, which are two runs, the one that comes first.
    return [x for x in found if x["precision"] == found[0]["precision"]]
