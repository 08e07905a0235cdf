"""The outer loop of Algorithm 1: learn, interact, and now and then log, evaluate and save."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from lsp.backends import malloc
from lsp.errors import NotFinite, UserError, warn
from lsp.rows import observations
from lsp.runs.checkpoint import save
from lsp.runs.files import write_arrays
from lsp.training.batches import draw_batch
from lsp.training.build import AnyNetworks
from lsp.training.collector import EpisodeSummary
from lsp.training.evaluation import Evaluation, evaluate
from lsp.training.open_loop import has_images, write_film
from lsp.training.parts import Parts
from lsp.training.replay import Replay
from lsp.training.schedule import Clock, Due, Phase, Progress, Reports

_HUGE = 1e9
_FIRST_UPDATES_TOLD = 100  # of those that come at once, between two reports


class Trainer:
    """One run in one folder, made of the parts that `open_run` returns.

    `fresh` says that nothing was resumed.
    """

    def __init__(self, parts: Parts):
        self.parts, self.config, self.folder = parts, parts.config, parts.folder
        self.networks, self.learner, self.collector = parts.networks, parts.learner, parts.collector
        self.replay, self.metrics, self.counters = parts.replay, parts.metrics, parts.counters
        self.averaged = parts.averaged
        self.fresh, self.stopping = not parts.resumed, False
        self.total_steps: int | None = None
        self.reports, self.clock = Reports(lambda progress: None), Clock(self.env_steps)
        self.save_seconds: float | None = None
        self.owes_checkpoint = self.failed_to_save = False
        self.saved_at = self.evaluated_at = self.env_steps if parts.resumed else -1
        self.saved_updates = self.counters.updates

    def start_from_source(self, source_replay: Replay | None) -> None:
        """A transfer begins: the policy that was carried over acts from the first step on, and a
        relabelled replay is learned from at once."""
        self.collector.random = False
        self.parts.source_replay = source_replay
        if self.averaged is not None:
            self.averaged.restart()
        if self.config.transfer.relabel:
            self.counters.learning_since = 0

    @property
    def evaluated(self) -> AnyNetworks:
        """The networks that are evaluated: averaged, or as they are."""
        return self.networks if self.averaged is None else self.averaged.networks

    @property
    def env_steps(self) -> int:
        return self.collector.env_steps

    def run(self, steps: int, listen: Callable[[Progress], None] = lambda progress: None) -> None:
        """Algorithm 1, until `steps` env steps have been taken; then evaluate and save.

        The dataset starts with random episodes (`schedule.prefill` env steps, rounded up).
        """
        self.total_steps = steps
        schedule, self.reports = self.config.schedule, Reports(listen)
        clock = self.clock = Clock(self.env_steps)
        if self.fresh and self.saved_at < 0:
            self._save_first()
        self._evaluate_if_owed()
        while self.env_steps < steps and not self.stopping:
            # Update step c = 1..C
            while self._updates_due() > 0 and not self.stopping:
                self._learn()
                self._tell_of_updates()
            # A transfer is evaluated as it begins: planning alone
            if self._begins_transfer and not self.stopping:
                self.evaluate()
            if self.stopping:
                break
            # Environment interaction; whole episodes join the dataset
            before = self.env_steps
            for finished in self._interact():
                self._end_episode(finished)
            self._tell_if_due()
            # Now and then
            due = Due(before, self.env_steps)
            if due(schedule.log_every):
                self.counters.seconds += clock.lap()
                self.reports.tell(self._log(clock.rate(self.env_steps)))
            if due(schedule.eval_every):
                self.counters.owes_evaluation = True
            if due(schedule.save_every):
                self.owes_checkpoint = True
            if self.owes_checkpoint and self._can_save(due):
                self.counters.seconds += clock.lap()
                self._try_to_save()
            self._evaluate_if_owed()
        self.counters.seconds += clock.lap()
        self._end()

    def _end(self) -> None:
        """Save, and unless the run was told to stop, evaluate: a run that dies in its evaluation
        owes it."""
        if self.evaluated_at != self.env_steps and not self.stopping:
            self.counters.owes_evaluation = True
            if self.parts.only_env:
                self.collector.break_off(0)
        if (self.saved_at, self.saved_updates) != (self.env_steps, self.counters.updates):
            self._save_at_the_end()
        self._evaluate_if_owed()

    def _evaluate_if_owed(self) -> None:
        """Where there is only one environment, between the episodes of training."""
        between = not self.parts.only_env or self.collector.between_episodes
        if self.counters.owes_evaluation and between and not self.stopping:
            self.evaluate()

    @property
    def _begins_transfer(self) -> bool:
        evaluated = self.counters.eval_return is not None
        return self.config.transfer.source is not None and self.env_steps == 0 and not evaluated

    def _updates_due(self) -> int:
        """Updates owed by now: one for every `update_every` env steps since learning began."""
        if self.counters.learning_since is None:
            return 0
        every = self.config.schedule.update_every
        owed = (self.env_steps - self.counters.learning_since) // every
        return self._first_updates + owed - self.counters.updates

    @property
    def _first_updates(self) -> int:
        """Made at once, when learning begins."""
        transfer = self.config.transfer
        return transfer.updates if transfer.relabel else self.config.schedule.pretrain

    @property
    def _before_the_first_step(self) -> bool:
        """Whether a relabelled replay is learned from, and nothing else yet."""
        return self.config.transfer.relabel and self.counters.updates < self._first_updates

    def _tell_of_updates(self) -> None:
        """Of those that come at once, now and then."""
        made, count = self.counters.updates, self._first_updates
        if made < count and (made % _FIRST_UPDATES_TOLD == 0 or self.reports.due):
            self.reports.tell(self._progress(first_updates=(made, count)))
        self._tell_if_due()

    def _tell_if_due(self, phase: Phase | None = None) -> None:
        """A sign of life, where nothing was told for long."""
        if self.reports.due:
            rate = self.clock.rate_so_far(self.env_steps)
            self.reports.tell(self._progress(rate, phase=phase))

    def _learn(self) -> None:
        batch, before = self.draw_batch(), self._before_the_first_step
        metrics = self.learner.update(batch, self.env_steps, hold_policy=before)
        self.counters.updates += 1
        if self.averaged is not None:
            self.averaged.follow(self.counters.updates)
        if wrong := _not_finite(metrics):
            what = f"{', '.join(wrong)} not finite in update {self.counters.updates}"
            raise self._stopped(NotFinite(f"{self.config.task}: {what}", batch))
        self.parts.means.add(metrics)

    def _interact(self) -> list[EpisodeSummary]:
        self._stop_if_the_lock_is_gone()
        try:
            return self.collector.step()
        except NotFinite as error:
            raise self._stopped(error) from error

    def _stop_if_the_lock_is_gone(self) -> None:
        """Two trainings in one folder would write into each other's files. It is saved only where
        nobody else has begun one. Raises UserError."""
        if self.folder.is_locked:
            return
        at = f"up to the checkpoint at {self.saved_at} env steps"
        if self.folder.lock_again(self.saved_at):
            self._save_at_the_end()
            at = f"and saved at {self.env_steps} env steps"
        raise UserError(
            f"{self.folder.path}: its lock was removed while it was trained, so that another "
            f"training could start here: stopped, {at}; the same command resumes"
        )

    def _stopped(self, error: NotFinite) -> UserError:
        """What learning or acting stops with. Nothing is saved but what it was given."""
        kept = f"what it was given is in {self.folder.not_finite}"
        try:
            write_arrays(self.folder.not_finite, error.arrays)
        except OSError as full:
            kept = f"what it was given could not be kept ({full.strerror})"
        advice = huge_readings(error.arrays, self.config.model.untransformed) or (
            "resume from there with smaller learning rates, and --force"
        )
        return UserError(
            f"{error}, at {self.env_steps} env steps: {kept}; the last checkpoint is from before: "
            f"{advice}"
        )

    def draw_batch(self) -> dict[str, np.ndarray]:
        """B data sequences."""
        return draw_batch(self.parts)

    def _end_episode(self, finished: EpisodeSummary) -> None:
        self.counters.last_return = finished.total
        values = {"episode/return": finished.total, "episode/length": finished.env_steps}
        if finished.success is not None:
            values["episode/success"] = float(finished.success)
        self.metrics.write("episode", self.env_steps, values)
        if self.counters.learning_since is None and self._filled():
            self.counters.learning_since = self.env_steps
            self.collector.random = False
            rate = self.clock.rate(self.env_steps)  # what is left is estimated from here on
            self.reports.tell(self._progress(rate, phase="learning begins"))

    def _filled(self) -> bool:
        config = self.config
        enough = len(self.replay) >= config.replay.length
        return enough and self.env_steps >= config.schedule.prefill

    def _log(self, rate: float) -> Progress:
        counters = self.counters
        values: dict[str, Any] = {"steps_per_second": rate, "wall_hours": counters.seconds / 3600}
        values |= self.parts.means.take()
        values |= {name: float(x) for name, x in self.learner.probe_skills().items()}
        values["updates"] = counters.updates
        if self.replay.lost:
            values["episodes_lost"] = len(self.replay.lost)
        if self.save_seconds is not None:
            values["save_seconds"], self.save_seconds = self.save_seconds, None
        self.metrics.write("train", self.env_steps, values)
        return self._progress(rate)

    def _progress(
        self,
        rate: float = 0.0,
        first_updates: tuple[int, int] | None = None,
        phase: Phase | None = None,
    ) -> Progress:
        returns = self.counters.last_return, self.counters.eval_return
        phase = phase or ("collecting" if self.counters.learning_since is None else "learning")
        total = self.total_steps or 0
        return Progress(self.env_steps, total, *returns, rate, first_updates, phase)

    def evaluate(self) -> None:
        """Evaluate and write an `eval` line, and from pixels a film of what the model foresees.

        Training is not touched by it. Where it is told to stop, the resumed run evaluates.
        """
        seconds = time.monotonic()
        self.counters.owes_evaluation = True
        values: dict[str, Any] = {}
        try:
            if self._episodes():
                values = self._evaluated(self._episodes()).metrics()
            prior = self.config.schedule.prior_episodes if self.config.plans_skills else 0
            if prior:
                values["eval/prior_return"] = float(self._evaluated(prior, "prior").returns.mean())
        except _Stopped:
            return
        except UserError as error:  # no evaluation may end a training
            warn(f"{error}: there is no evaluation at {self.env_steps} env steps")
            values.setdefault("eval/failed", self._episodes())
        self.counters.owes_evaluation, self.evaluated_at = False, self.env_steps
        if not values:
            return
        values["wall_hours"] = self.counters.seconds / 3600
        values["eval/seconds"] = time.monotonic() - seconds
        self.metrics.write("eval", self.env_steps, values)
        self.counters.eval_return = values.get("eval/return", self.counters.eval_return)
        malloc.give_back()
        if has_images(self.evaluated):
            write_film(self.evaluated, self.replay, self.folder.open_loop)

    def _episodes(self) -> int:
        """Of an evaluation now: at the start and the end there may be more than usual."""
        schedule = self.config.schedule
        last = self.env_steps == 0 or self.env_steps >= (self.total_steps or 0)
        if last and schedule.final_episodes is not None:
            return schedule.final_episodes
        return schedule.eval_episodes

    def _evaluated(self, episodes: int, skills: Literal["prior"] | None = None) -> Evaluation:
        """With the run's own skills, or under skills from N(0, I)."""
        parts = self.parts
        return evaluate(
            *(self.evaluated, parts.make_env, episodes, self.config.seed, parts.runtime),
            on_step=self._between_evaluated_steps,
            skills=skills,
            env=parts.env if parts.only_env else None,
        )

    def _between_evaluated_steps(self) -> None:
        if self.stopping:
            raise _Stopped
        self._tell_if_due("evaluating")

    def save(self) -> None:
        """Write a checkpoint that resumes exactly here.

        Raises OSError where there is no room for it, and UserError where a weight is not finite, or
        the folder is no longer locked.
        """
        self._stop_if_the_lock_is_gone()
        began = time.monotonic()
        self.replay.store()
        save(self.folder.checkpoints, self.parts.state.take(self.folder.path))
        self.saved_at, self.saved_updates = self.env_steps, self.counters.updates
        self.owes_checkpoint = False
        self.save_seconds = (self.save_seconds or 0.0) + time.monotonic() - began

    def _can_save(self, due: Due) -> bool:
        """A checkpoint that found no room is tried again with each line of metrics; one of an
        episode that cannot be repeated waits for its end, unless others are under way anyway."""
        schedule = self.config.schedule
        if self.failed_to_save and not due(schedule.log_every):
            return False
        return self.collector.can_resume or self.collector.envs.count > 1

    def _try_to_save(self) -> None:
        self.failed_to_save = False
        try:
            self.save()
        except OSError as error:
            self.failed_to_save = self.owes_checkpoint = True
            warn(
                f"no checkpoint could be written at {self.env_steps} env steps "
                f"({error.strerror}): it is tried again with each line of metrics"
            )

    def _save_first(self) -> None:
        """Raises UserError where there is no room: such a run could be resumed from nowhere."""
        try:
            self.save()
        except OSError as error:
            raise UserError(
                f"{self.folder.path}: no checkpoint can be written ({error.strerror}), so the run "
                "does not start: free some room, or choose another --logdir"
            ) from error

    def _save_at_the_end(self) -> None:
        """Raises UserError where there is no room."""
        if not self.collector.envs.repeatable:
            for index in range(self.collector.envs.count):
                self.collector.break_off(index)
        try:
            self.save()
        except OSError as error:
            kept = f"are lost back to the checkpoint at {self.saved_at}"
            raise UserError(
                f"{self.folder.path}: no checkpoint could be written ({error.strerror}), and the "
                f"env steps up to {self.env_steps} {kept}: free some room and resume with the same "
                "command"
            ) from error

    def stop(self, signal: int | None = None) -> None:
        """End `run` after the current step or update, saved but not evaluated."""
        self.stopping = True

    def close(self) -> None:
        """Let go of the environments, the metrics and the folder."""
        self.parts.opened.close()


def huge_readings(arrays: Mapping[str, Any], raw: Sequence[str]) -> str | None:
    """What to do where an observation is so large that squares of it leave float32; `raw` are the
    keys that are not scaled by symlog."""
    for key, value in observations(arrays).items():
        largest = float(np.abs(np.asarray(value, np.float64)).max(initial=0))
        if largest > _HUGE and np.asarray(value).dtype != np.uint8:
            advice = "scale or clip it"
            if key in raw:
                advice = f"leave it out of --model.untransformed (symlog scales it), or {advice}"
            return f"observation '{key}' reaches {largest:.3g}: {advice}"
    return None


def _not_finite(metrics: Mapping[str, torch.Tensor]) -> list[str]:
    """Losses, and gradients before they are clipped, that are NaN or infinite."""
    names = [name for name in metrics if name.endswith("loss") or name.startswith("gradient/")]
    finite = torch.stack([metrics[name].isfinite() for name in names])
    # All at once: on a GPU each look would wait for it.
    return [name for name, fine in zip(names, finite.tolist()) if not fine]


class _Stopped(Exception):
    """An evaluation was broken off."""
