"""The runs behind each figure of the paper, and their lengths at each scale."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lsp.config import METHODS, TransferConfig, make_config, on_another_task
from lsp.experiments.sweep.planned_run import PlannedRun, unique

PIXEL_TASKS = ("cheetah_run", "quadruped_run", "walker_run")
SOURCES = ("quadruped_getup_walk", "quadruped_upright_walk")
STATE_TASKS = (
    *SOURCES,
    "quadruped_reach",
    "quadruped_obstacles_reach",
    "walker_walk",
    "walker_run",
    "hopper_hop",
)
SINGLE_METHODS = ("lsp", "dreamer", "hiro", "random_skills", "rand_skills_init")
METHOD_TASKS = ("walker_walk", "cheetah_run")
COVE_SKILL_LENGTH, COVE_HORIZON = 30, 120  # A.2
COVE_SHOWN = 40_000  # env steps of figure 8
LINE_SHOWN = 10  # episodes of figure 1, the last ones (ours)


@dataclass(frozen=True)
class Scale:
    """How much is spent: a preset, seeds, and env steps.

    Attributes:
        single: of a task on its own.
        source: of a task that a transfer starts from, wherever it is shown: figures share runs.
        upright: the same of tasks that begin on their feet, which are learned sooner.
        transfer: on the new task of figure 5.
        cove: on the cove, and on the line of figure 1.
        eval_every: between evaluations.
    """

    preset: str
    seeds: tuple[int, ...]
    single: int
    source: int
    upright: int
    transfer: int
    cove: int
    eval_every: int = 10_000

    def source_steps(self, task: str) -> int:
        """Env steps of `task` where transfers start from it."""
        return self.source if task == SOURCES[0] else self.upright


SCALES = {
    "paper": Scale(
        "paper",
        (0, 1, 2),
        single=1_000_000,
        source=500_000,
        upright=500_000,
        transfer=500_000,
        cove=100_000,
    ),
    "small": Scale(
        "fast",
        (0, 1, 2),
        single=100_000,
        source=250_000,
        upright=100_000,
        transfer=100_000,
        cove=60_000,
    ),
    "debug": Scale(
        "debug",
        (0,),
        single=400,
        source=1000,
        upright=1000,
        transfer=400,
        cove=1000,
        eval_every=1000,
    ),
}
"""`debug` shows that everything runs, for tests; its sources hold a whole episode to relabel."""


@dataclass(frozen=True)
class Curve:
    """Runs that are one line of a figure: the same but for their seeds."""

    panel: str
    label: str
    runs: tuple[PlannedRun, ...]


@dataclass(frozen=True)
class Target:
    """A figure: what it shows, and the lines or runs that it shows it with."""

    name: str
    title: str
    curves: tuple[Curve, ...]

    @property
    def runs(self) -> list[PlannedRun]:
        """Seed by seed, so that every line has one early; sources before their transfers."""
        all_runs = [run for curve in self.curves for run in curve.runs]
        return unique(sorted(all_runs, key=lambda run: run.config.seed))


def target(name: str, scale: Scale) -> Target:
    """`methods` or `fig1` … `fig10` at a scale."""
    title, curves = TARGETS[name]
    return Target(name, title, tuple(curves(scale)))


def _single(
    scale: Scale,
    panel: str,
    task: str,
    methods: Sequence[str],
    obs: str = "proprio",
    steps: int | None = None,
) -> list[Curve]:
    """A line for each of `methods`."""
    return [
        Curve(panel, method, _runs(scale, method, task, steps or scale.single, obs))
        for method in methods
    ]


def _runs(
    scale: Scale, method: str, task: str, steps: int, obs: str = "proprio"
) -> tuple[PlannedRun, ...]:
    config = make_config(method, scale.preset, task=task, obs=obs)
    config = replace(config, schedule=replace(config.schedule, eval_every=scale.eval_every))
    return tuple(PlannedRun(replace(config, seed=seed), steps) for seed in scale.seeds)


def _transferred(
    curve: Curve,
    task: str,
    steps: int,
    label: str = "",
    freeze: bool = False,
    relabel: bool = False,
    skill_length: int | None = None,
    horizon: int | None = None,
) -> Curve:
    """The line of the runs of `curve`, gone on with on another task."""
    transfer = TransferConfig(freeze_policy=freeze, relabel=relabel)
    if relabel and curve.runs[0].config.preset == "debug":
        transfer = replace(transfer, updates=10)
    runs = tuple(
        PlannedRun(
            on_another_task(source.config, task, transfer, skill_length, horizon), steps, source
        )
        for source in curve.runs
    )
    return Curve(curve.panel, label or curve.label, runs)


def _figure4(scale: Scale) -> list[Curve]:
    from_pixels = [method for method in SINGLE_METHODS if method != "hiro"]  # section 4.2
    curves: list[Curve] = []
    for task in PIXEL_TASKS:
        curves += _single(scale, f"{task}, pixels", task, from_pixels, "pixels")
    for task in STATE_TASKS:
        steps = scale.source_steps(task) if task in SOURCES else scale.single
        curves += _single(scale, task, task, SINGLE_METHODS, steps=steps)
    return curves


def _methods(scale: Scale) -> list[Curve]:
    """Every method. cem plans anew for every action: one seed, evaluated twice."""
    curves: list[Curve] = []
    for task in METHOD_TASKS:
        others = [method for method in METHODS if method != "cem"]
        curves += _single(scale, task, task, others)
        once = replace(scale, seeds=scale.seeds[:1], eval_every=scale.single // 2)
        curves += _single(once, task, task, ("cem",))
    return curves


def _figure5(scale: Scale) -> list[Curve]:
    curves: list[Curve] = []
    for source, task, relabel in (
        (SOURCES[0], "quadruped_getup_reach", False),
        (SOURCES[1], "quadruped_reach", True),
    ):
        panel = f"{source} → {task}" + (", relabelled" if relabel else "")
        methods, steps = ("lsp", "dreamer", "hiro"), scale.source_steps(source)
        for line in _single(scale, panel, source, methods, steps=steps):
            curves.append(_transferred(line, task, scale.transfer, relabel=relabel))
            if line.label == "lsp":
                label = "lsp, policy fixed"
                curves.append(_transferred(line, task, scale.transfer, label, True, relabel))
    return curves


def _figure6b(scale: Scale) -> list[Curve]:
    task = SOURCES[0]
    return _single(scale, task, task, ("lsp", "dreamer", "no_mi"), steps=scale.source)


def _figure7(scale: Scale) -> list[Curve]:
    """The lsp run of figure 5, right: from walking to reaching. The first seed is shown."""
    curve = next(x for x in _figure5(scale) if "relabelled" in x.panel and x.label == "lsp")
    return [replace(curve, runs=curve.runs[:1])]


def _among_obstacles(scale: Scale, task: str) -> list[Curve]:
    """`dreamer` and `lsp` on the source of transfers to `task`."""
    source = "quadruped_obstacles_walk"
    steps = scale.source_steps(source)
    return _single(scale, f"{source} → {task}", source, ("dreamer", "lsp"), steps=steps)


def _figure1(scale: Scale) -> list[Curve]:
    """The paper shows LSP alone, and says of no policy that it is fixed; beside it, as in figure 8,
    dreamer."""
    task = "quadruped_line"
    return [_transferred(line, task, scale.cove) for line in _among_obstacles(scale, task)]


def _cove(scale: Scale) -> list[Curve]:
    task = "quadruped_cove"
    dreamer, lsp = _among_obstacles(scale, task)
    frozen = _transferred(
        *(lsp, task, scale.cove, "lsp, policy fixed"),
        freeze=True,
        skill_length=COVE_SKILL_LENGTH,
        horizon=COVE_HORIZON,
    )
    return [_transferred(dreamer, task, scale.cove), frozen]


def _figure10(scale: Scale) -> list[Curve]:
    task = SOURCES[1]
    (noisy,) = _single(scale, "", task, ("lsp",), steps=scale.upright)
    runs = tuple(
        replace(run, config=replace(run.config, skills=replace(run.config.skills, input_noise=0.0)))
        for run in noisy.runs
    )
    return [
        replace(noisy, label="lsp", runs=noisy.runs[:1]),
        replace(noisy, label="lsp, no noise on the skill predictor's input", runs=runs[:1]),
    ]


TARGETS: dict[str, tuple[str, Callable[[Scale], list[Curve]]]] = {
    "methods": ("Evaluation returns of all methods", _methods),
    "fig1": ("Ways around a line of obstacles, after random ones: the last ten episodes", _figure1),
    "fig4": ("Evaluation returns on single tasks", _figure4),
    "fig5": ("Evaluation returns after a transfer", _figure5),
    "fig6b": ("Returns with and without the MI reward", _figure6b),
    "fig7": ("Skills after a transfer, held for 40 agent steps", _figure7),
    "fig8": ("Ways in the first 40,000 env steps on the cove", _cove),
    "fig9": ("Evaluation returns after a transfer to the cove", _cove),
    "fig10": ("Skills with and without noise on the skill predictor's input", _figure10),
}
