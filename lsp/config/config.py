"""A whole run's settings, and what follows from them."""

from dataclasses import dataclass, replace
from math import ceil

from lsp.config.planner_settings import ActionsConfig, PlannerConfig
from lsp.config.settings import (
    BehaviorConfig,
    HiroConfig,
    ModelConfig,
    OptimizerConfig,
    PolicyConfig,
    ReplayConfig,
    ScheduleConfig,
    SkillsConfig,
    TransferConfig,
    ValueConfig,
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run.

    `make_config` makes one; by hand every section must be given, so that none has the name of one
    preset and the numbers of another.
    """

    task: str = "walker_walk"
    """A task of dm_control by its name, `walker_walk` (`lsp tasks` lists the paper's), or your own:
    `gymnasium:Hopper-v5`, `gymnasium:package:Id-v0`, `package.module:function`."""
    method: str = "lsp"
    """`lsp`; `dreamer` (no skills); `random_skills`, `rand_skills_init` and `no_mi` (LSP without
    planning, without both, without the intrinsic reward); `cem` (plans actions); `hiro` (no model:
    a manager chooses skills or states)."""
    preset: str
    """`paper`, `fast` (sized for a laptop), `modern` (`fast` that plans actions as well) or `debug`
    (seconds)."""
    obs: str = "proprio"
    """`proprio` (the task's own observations) or `pixels` (64×64 images)."""
    seed: int = 0
    """Seeds everything; the same seed on the same machine gives the same run."""
    action_repeat: int = 2
    """Env steps that each action is held (Dreamer v1)."""
    num_envs: int = 1
    """Environments to collect from at once; more than one run in processes of their own (ours)."""
    reward: str | None = None
    """Your own reward, `package.module:function` of (observations, actions) or (simulator states,
    actions), in place of the task's (docs/guide/tasks.md)."""
    images: tuple[str, ...] | None = None
    """Of your own task, the observations that are images, by key; without it those whose spaces are
    a picture's (docs/guide/tasks.md). Empty: none."""
    render_quality: str = "fast"
    """From pixels: `fast` (no shadows, reflections, multisampling) or `faithful` (dm_control's)."""
    model: ModelConfig
    policy: PolicyConfig
    value: ValueConfig
    skills: SkillsConfig
    planner: PlannerConfig
    actions: ActionsConfig
    behavior: BehaviorConfig
    hiro: HiroConfig
    optimizer: OptimizerConfig
    replay: ReplayConfig
    schedule: ScheduleConfig
    transfer: TransferConfig

    @property
    def has_skills(self) -> bool:
        """Whether the policy is conditioned on a skill."""
        return self.skills.dim > 0

    @property
    def behavior_horizon(self) -> int:
        """Agent steps that behaviour learning imagines."""
        return self.behavior.horizon or self.planner.horizon

    @property
    def plans_actions(self) -> bool:
        """Whether actions are planned, without a policy."""
        return self.planner.over == "actions"

    @property
    def refines_actions(self) -> bool:
        """Whether actions are planned around those of the policy."""
        return self.actions.num_candidates > 0

    @property
    def fixes_behavior(self) -> bool:
        """Whether the source's own policy acts, on states of the source's own model.

        Then a transfer's policy is frozen in what it does, not in its weights (ours). A policy that
        actions are planned around only proposes, in the model that learns.
        """
        held = self.transfer.freeze_policy and bool(self.transfer.anchor)
        return held and not self.transfer.anchor_rate and not self.refines_actions

    @property
    def plans_skills(self) -> bool:
        """Whether skills are planned, and not drawn from N(0, I)."""
        return self.has_skills and self.skills.source == "planned"

    @property
    def has_proposal(self) -> bool:
        """Whether q(z | s) is learned, from which plans begin."""
        return self.plans_skills and self.skills.proposal == "learned"

    @property
    def own_sequences(self) -> int:
        """Sequences of a batch from the run's own replay; the others are its source's."""
        batch = self.replay.batch
        return batch - batch // 2 if self.transfer.keep_replay else batch

    @property
    def mixes_skills(self) -> bool:
        """Whether some rollouts learn under skills from N(0, I) beside the planned ones."""
        learns = not self.transfer.freeze_policy
        return self.plans_skills and learns and self.behavior.prior_share > 0

    @property
    def has_intrinsic(self) -> bool:
        """Whether χ is there, and pays."""
        return self.has_skills and self.skills.intrinsic

    @property
    def num_segments(self) -> int:
        """⌊H/K⌋, complete segments that behaviour learning imagines; 0 without r_i."""
        return self.behavior_horizon // self.planner.skill_length if self.has_intrinsic else 0

    @property
    def skills_ahead(self) -> int:
        """⌈H/K⌉ of the planner: the skills that a plan's score depends on."""
        return ceil(self.planner.horizon / self.planner.skill_length)

    @property
    def replan_every(self) -> int:
        """Agent steps between plans while acting; skills that are not planned are held for K."""
        planned = self.plans_skills or self.plans_actions
        chosen = self.planner.replan_every if planned else None
        return chosen or self.planner.skill_length

    @property
    def acting_iterations(self) -> int:
        """Rounds of a plan while acting."""
        chosen = self.planner.acting_iterations
        return self.planner.num_iterations if chosen is None else chosen

    @property
    def acting(self) -> "Config":
        """The same settings, with H and K of an agent's plans in place of those of updates."""
        ahead = self.planner.acting_horizon
        if ahead is None:
            return self
        planner = replace(
            self.planner,
            horizon=ahead,
            skill_length=ahead,
            replan_every=min(self.replan_every, ahead),
            acting_horizon=None,
        )
        return replace(self, planner=planner, behavior=replace(self.behavior, horizon=ahead))

    @property
    def planning_lambda(self) -> float:
        """λ of a plan's score."""
        if self.planner.lambda_ is not None:
            return self.planner.lambda_
        return self.behavior.lambda_ if self.planner.horizon <= 15 else 1.0

    @property
    def plan_length(self) -> int:
        """⌈H/K⌉, skills in a plan that covers both planning and behaviour learning."""
        return ceil(max(self.planner.horizon, self.behavior_horizon) / self.planner.skill_length)

    def resolved(self) -> "Config":
        """The same with what the task decides filled in, as a run records it."""
        model = self.model
        if model.termination is None:
            model = replace(model, termination=_can_end_itself(self.task))
        if model.decoder_std is None:
            model = replace(model, decoder_std=(0.1, 0.5 if _may_hold_goals(self.task) else 1.5))
        value = self.value
        if value.states is None:
            quadruped = self.task.startswith("quadruped_")
            value = replace(value, states="observed" if quadruped else "imagined")
        return replace(self, model=model, value=value, transfer=self.transfer.resolved())


def named_code(config: Config) -> list[str]:
    """Settings that name modules which making the environment imports.

    They are a user's own task and reward, and Gymnasium's `module:ID`.
    """
    task = config.task.removeprefix("gymnasium:")
    code = [config.task] if ":" in task and not task.startswith("python:") else []
    reward = config.reward
    named = reward is not None and not reward.startswith("python:")
    return code + ([reward] if reward is not None and named else [])


def _can_end_itself(task: str) -> bool:
    """Users' tasks (`gymnasium:ID`, `module:name`, `python:...`) may; of dm_control's only lqr."""
    return ":" in task or task.startswith("lqr_")


def _may_hold_goals(task: str) -> bool:
    """Observations of users' tasks may, and those of most quadrupeds do."""
    return ":" in task or task.startswith("quadruped_")
