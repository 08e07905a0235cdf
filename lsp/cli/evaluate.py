"""The command that evaluates a run: `lsp eval`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from lsp.config import RuntimeConfig
from lsp.errors import UserError


@dataclass(frozen=True)
class Eval:
    """Evaluate a run's newest checkpoint, without exploration; with --reward or --task plan for a
    reward that nothing was trained for, with policy, skills and world model as they are."""

    run: Positional[Path]
    """The run's folder, or an agent (`lsp agents`)."""
    episodes: int = 10
    """How many episodes."""
    seed: int | None = None
    """Draws other episodes; without it they are those of every run's evaluations."""
    checkpoint: int | None = None
    """Env steps of a checkpoint that is kept, in place of the newest."""
    video: bool = False
    """Film the first one into the run's folder, or of an agent into pictures/."""
    json: Path | None = None
    """Write what was measured here as well."""
    device: str = "cpu"
    """`cpu` or `cuda`."""
    threads: int | None = None
    """CPU threads; None takes PyTorch's default."""
    trust: bool = False
    """Run the code that the run's settings name: a task or reward of your own."""
    skills: Literal["planned", "prior", "constant", "shuffled"] | None = None
    """Where skills come from, whatever the run was trained with: planned; from N(0, I); constant at
    the mean of what is planned; or what is planned in another episode at the same time."""

    reward: str | None = None
    """Plan for this reward of your own, `package.module:function`, as --reward of lsp train."""
    task: str | None = None
    """Act in this task, which observes and does the same things, and plan for what it pays."""
    horizon: int | None = None
    """With --reward or --task: H, agent steps that are planned under one skill; 50 by default."""
    prior_weight: float | None = None
    """With them: weight of the skills' prior in a plan's score; 0.5 by default."""
    updates: int | None = None
    """With them: updates of a value first, with everything else held; 0 by default."""

    def main(self) -> None:
        from lsp import api
        from lsp.backends.torch_setup import prepare_torch
        from lsp.runs.agents import find_run
        from lsp.runs.files import file_to_write, write_json
        from lsp.runs.folder import RunFolder

        prepare_torch(RuntimeConfig(device=self.device, threads=self.threads))
        run = RunFolder(find_run(self.run))
        written = None if self.json is None else file_to_write(self.json, "--json")
        video = run.video if self.video else None
        outcome = api.evaluate(
            *(run.path, self.episodes, video, self.device),
            trust=self.trust,
            skills=self.skills,
            seed=self.seed,
            checkpoint=self.checkpoint,
            env=self.task,
            reward=self._new_reward(),
        )
        if outcome.fit is not None:
            print(outcome.fit)
        for number, total in enumerate(outcome.returns):
            print(
                f"episode {number}: return {total:.1f}{self._predicted(outcome, number)}, "
                f"{outcome.lengths[number]} env steps"
            )
        if outcome.success is not None:
            print(f"success {outcome.success.mean():.2f}")
        predicted = self._predicted(outcome, slice(None))
        print(f"return {outcome.returns.mean():.1f} ± {outcome.returns.std():.1f}{predicted}")
        if video:
            print(f"Video: {video}")
        if written is not None:
            write_json(written, self._measured(outcome))
            print(f"Written: {written}")

    def _new_reward(self) -> Any:
        from lsp.training.new_reward import NewReward

        given = {"prior_weight": self.prior_weight, "updates": self.updates}
        given |= {"horizon": self.horizon, "skill_length": self.horizon}
        asked: dict[str, Any] = {name: x for name, x in given.items() if x is not None}
        if self.reward is None and self.task is None:
            if asked:
                flag = next(iter(asked)).replace("_", "-")
                raise UserError(f"--{flag} is for another reward: give --reward or --task as well")
            return None
        return NewReward(self.reward or "task", **asked)

    def _predicted(self, outcome: Any, episodes: int | slice) -> str:
        """What the plans expected, beside what an episode, or all of them, returned."""
        if outcome.predicted is None:
            return ""
        return f" (predicted {outcome.predicted[episodes].mean():.1f})"

    def _measured(self, outcome: Any) -> dict[str, Any]:
        """What was asked for, and what `metrics.jsonl` would hold of it."""
        asked: dict[str, Any] = {"run": str(self.run), "seed": self.seed, "skills": self.skills}
        measured: dict[str, Any] = outcome.metrics() | {
            "eval/lengths": outcome.lengths.tolist(),
            "eval/successes": None if outcome.success is None else outcome.success.tolist(),
        }
        if outcome.predicted is not None:
            measured["eval/predicted"] = outcome.predicted.tolist()
            asked |= {"reward": self.reward, "task": self.task}
        return asked | {"checkpoint": outcome.checkpoint} | measured
