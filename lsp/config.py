"""Every setting of a run, as frozen dataclasses, and the presets built from them.

Sources: "A.3" is the appendix of the LSP paper, "Dreamer v1" its released code, "ours" a decision
explained in docs/deviations.md. Defaults are those of the `paper` preset; `fast` and `debug` list
what they change, and `fast` says why.
"""

import dataclasses
from dataclasses import dataclass, field, replace
from math import ceil
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lsp.errors import UserError


@dataclass(frozen=True)
class ModelConfig:
    """World model: RSSM, encoder, decoder, reward head (eq. 1)."""

    deter: int = 200
    """Size of the deterministic part of the latent (Dreamer v1)."""
    stoch: int = 30
    """Size of the stochastic part of the latent (Dreamer v1)."""
    hidden: int = 200
    """Width of the layers inside the RSSM (Dreamer v1)."""
    encoder: tuple[int, ...] = (256, 256)
    """Layers of the encoder of vector observations (A.3)."""
    decoder: tuple[int, ...] = (256, 256)
    """Layers of the decoder of vector observations (A.3)."""
    reward: tuple[int, ...] = (400, 400)
    """Layers of the reward head (Dreamer v1)."""
    cnn_depth: int = 32
    """Channels of the first convolution, for image observations (Dreamer v1)."""
    decoded_images: int | None = None
    """Images of a batch that are decoded, at most, drawn anew in each update; None decodes all
    (Dreamer v1). Those of a sequence are alike, and decoding costs most of an update (ours)."""
    layer_norm: bool = False
    """LayerNorm before every activation (ours)."""
    obs_transform: Literal["raw", "symlog"] = "raw"
    """What the encoder reads and the decoder predicts of a vector observation (ours)."""
    untransformed: tuple[str, ...] = ("goal",)
    """Keys of vector observations that are always raw. Symlog makes metres that are far away small,
    and a model that loses a few of them at every step is hardly wrong (ours)."""
    decoder_std: tuple[float, float] | None = (0.1, 1.5)
    """Soft bounds of the decoder's standard deviation (A.3). None: for quadrupeds and your own
    tasks 0.1 and 0.5, else these. Where 1.5 is allowed, what is not yet told well, such as a
    goal, counts for too little to be learned soon (ours)."""
    min_std: float = 0.1
    """Added to the standard deviation of prior and posterior (Dreamer v1)."""
    free_nats: float = 3.0
    """The KL, averaged over batch and time, costs nothing below this (Dreamer v1)."""
    kl_scale: float = 1.0
    """β of eq. 1 (Dreamer v1)."""
    reward_scale: float = 1.0
    """Rewards are multiplied by this before they are learned; for tasks with odd units (ours)."""
    termination: bool | None = None
    """Predict whether a state ends the episode, and discount by it (Dreamer v1's pcont). None:
    where episodes can end before their time limit, which is in your own tasks and in lqr (ours)."""
    learning_rate: float = 6e-4
    """Adam, world model (Dreamer v1)."""


@dataclass(frozen=True)
class PolicyConfig:
    """Low-level policy q(a | s, z)."""

    layers: tuple[int, ...] = (400, 400, 400, 400)
    """Hidden layers (Dreamer v1)."""
    layer_norm: bool = False
    """LayerNorm before every activation (ours)."""
    init_std: float = 5.0
    """Standard deviation before the tanh, at the start of training (Dreamer v1)."""
    min_std: float = 1e-4
    """Lower bound of the standard deviation (Dreamer v1)."""
    mode_samples: int = 100
    """The mode is the likeliest of this many samples (Dreamer v1); 0 takes tanh(mean)."""
    exploration_noise: float = 0.3
    """Std of the Gaussian added to actions while collecting (Dreamer v1)."""
    learning_rate: float = 8e-5
    """Adam, policy (Dreamer v1)."""


@dataclass(frozen=True)
class ValueConfig:
    """State value v(s)."""

    layers: tuple[int, ...] = (400, 400, 400)
    """Hidden layers (Dreamer v1)."""
    layer_norm: bool = False
    """LayerNorm before every activation (ours)."""
    covers: Literal["total", "task"] = "total"
    """`total`: task and intrinsic return. `task`: the task's alone, and the intrinsic reward counts
    as far as a rollout goes (ours)."""
    states: Literal["imagined", "observed"] | None = "imagined"
    """Where v is fitted. `imagined`: in all states of rollouts (Dreamer v1). `observed`: in states
    of the replay alone, to what followed and to what is imagined to follow. None: `observed` for
    quadrupeds, `imagined` for all other tasks (ours)."""
    slow_rate: float = 1.0
    """Share of the value that its slow copy takes over at each update; 1 has no slow copy."""
    learning_rate: float = 8e-5
    """Adam, value (Dreamer v1)."""


@dataclass(frozen=True)
class SkillsConfig:
    """Skills z and the backward skill predictor χ (section 3.2)."""

    dim: int = 3
    """Size of a skill (A.3); 0 has no skills at all, which is Dreamer."""
    source: Literal["planned", "prior"] = "planned"
    """Where skills come from: planned, or drawn from N(0, I) in training, collecting and
    evaluating (section 4.2, Random Skills)."""
    intrinsic: bool = True
    """Pay for skills that χ can tell apart, and train χ (section 3.2)."""
    intrinsic_scale: float = 1.0
    """The intrinsic reward log q(z | {s}, s0) is multiplied by this (ours; the paper: 1)."""
    intrinsic_unit: Literal["reward", "return"] = "reward"
    """`reward`: the scale is in units of reward. `return`: in units of the running size of imagined
    task returns, so that skills get the same share early and late, and in every task (ours)."""
    input_noise: float = 0.1
    """Std of the noise on χ's input, in training it and in rewarding with it (A.7)."""
    num_states: int = 10
    """States of a segment that χ reads besides s0, evenly spaced (ours)."""
    layers: tuple[int, ...] = (256, 256)
    """Hidden layers of χ (A.3)."""
    std_bounds: tuple[float, float] = (0.1, 1.5)
    """Soft bounds of χ's standard deviation (A.3)."""
    learning_rate: float = 8e-5
    """Adam, χ (A.3)."""


@dataclass(frozen=True)
class PlannerConfig:
    """Cross-entropy method over skill plans (Algorithm 2), or over actions."""

    over: Literal["skills", "actions"] = "skills"
    """What is planned. `actions` has no policy, no value and no skills: PlaNet."""

    horizon: int = 10
    """H, agent steps (A.3)."""
    skill_length: int = 10
    """K, agent steps a skill is held (A.3)."""
    num_candidates: int = 16
    """G, plans sampled in each iteration (A.3)."""
    num_elites: int = 4
    """M, plans that refit the distribution (A.3)."""
    num_iterations: int = 4
    """MaxCEMiter (A.3)."""
    mean_noise: float = 0.1
    """Std of ε, added to the planned mean in training and collecting (A.3)."""
    intrinsic_weight: float = 0.0
    """Weight of the intrinsic return beside the task return in a plan's score (ours)."""
    scope: Literal["per_state", "shared"] = "per_state"
    """One ζ for each start state, or one for all of an update (ours, the literal Algorithm 1)."""
    rollout_noise: Literal["independent", "common"] = "independent"
    """Candidates of one start imagine with their own noise, or all with the same (ours)."""
    warm_start: bool = False
    """Acting: plan from N(previous mean, I) instead of N(0, I) (ours)."""


@dataclass(frozen=True)
class BehaviorConfig:
    """Learning policy, value and skill predictor in imagination (section 3.1)."""

    horizon: int | None = None
    """Agent steps imagined; None takes the planner's horizon."""
    num_starts: int | None = None
    """Start states drawn from the batch's posteriors; None takes all (Dreamer v1)."""
    rollouts_per_start: int = 1
    """Rollouts from each start, each with its own skill and noise (ours)."""
    discount: float = 0.99
    """γ per agent step (Dreamer v1)."""
    lambda_: float = 0.95
    """λ of the return (Dreamer v1)."""


@dataclass(frozen=True)
class HiroConfig:
    """The baseline HIRO (Nachum et al. 2018, "Data-Efficient Hierarchical Reinforcement Learning");
    other methods do not read it. "HIRO" is its released code, "TD3" Fujimoto et al. 2018. How long
    a goal is held, what skills are and how q learns is in `planner.skill_length` and `skills`."""

    goals: Literal["skills", "states"] = "skills"
    """What the manager chooses: `skills`, with LSP's intrinsic reward (section 4.1), or changes of
    the observation, HIRO's own."""
    goal_range: float = 1.0
    """A goal's coordinates lie in ± this: a skill's, or in standard deviations of the normalised
    observation (ours; HIRO: a range by hand for each of 15 coordinates of the ant)."""
    manager_reward: float = 0.1
    """The manager is paid a segment's sum of task rewards times this (HIRO)."""
    candidates: int = 8
    """Gaussian draws among the goals that relabelling chooses from (HIRO)."""
    candidate_std: float = 0.5
    """Their standard deviation, in units of `goal_range` (HIRO)."""
    worker_updates: int = 10
    """TD3 updates of the worker, batch `replay.batch`, in each update; the manager and q have one.
    With `schedule.update_every` = 10 that is one per env step, and per 10 env steps (HIRO)."""
    layers: tuple[int, ...] = (300, 300)
    """Hidden layers of all actors and critics (HIRO)."""
    discount: float = 0.99
    """γ of the worker per agent step, of the manager per segment (HIRO)."""
    slow_rate: float = 0.005
    """Share of actor and critics that their slow copies take over (TD3, HIRO)."""
    actor_every: int = 2
    """Updates of the critics for one of the actor and the slow copies (TD3, HIRO)."""
    target_noise: float = 0.2
    """Std of the noise on target actions, in ±1 (TD3, HIRO)."""
    target_clip: float = 0.5
    """The noise on target actions stays within this (TD3, HIRO)."""
    worker_noise: float = 0.1
    """Std of the Gaussian added to actions while collecting (TD3; HIRO's 1.0 in ±30 is 0.03)."""
    manager_noise: float = 1.0
    """Std of the Gaussian added to goals while collecting, in units of `goal_range` (HIRO: 1.0, on
    coordinates with ranges from 0.3 to 10)."""
    critic_rate: float = 1e-3
    """Adam, critics (HIRO, TD3)."""
    actor_rate: float = 1e-4
    """Adam, actors (HIRO)."""


@dataclass(frozen=True)
class OptimizerConfig:
    """What all optimisers share."""

    epsilon: float = 1e-7
    """Adam's ε (Dreamer v1, TF2)."""
    clip: float = 100.0
    """Largest global gradient norm (Dreamer v1)."""


@dataclass(frozen=True)
class ReplayConfig:
    """Replay of whole episodes."""

    batch: int = 50
    """Sequences in a batch (Dreamer v1)."""
    length: int = 50
    """Agent steps in a sequence (Dreamer v1)."""
    capacity: int | None = None
    """Agent steps kept in memory; None keeps all."""


@dataclass(frozen=True)
class ScheduleConfig:
    """When things happen, in env steps."""

    prefill: int = 5000
    """Env steps of random actions before learning (Dreamer v1)."""
    pretrain: int = 100
    """Updates before collecting (Dreamer v1)."""
    update_every: int = 5
    """Env steps for each update of everything (A.3)."""
    log_every: int = 1000
    """Env steps between lines in metrics.jsonl."""
    eval_every: int = 10000
    """Env steps between evaluations; 0 evaluates at the end alone."""
    eval_episodes: int = 10
    """Episodes of an evaluation."""
    save_every: int = 10000
    """Env steps between checkpoints."""


@dataclass(frozen=True)
class TransferConfig:
    """Starting from what another run has learned (section 4.3)."""

    source: str | None = None
    """Folder of that run; None learns from nothing. All weights carry over."""
    freeze_policy: bool = False
    """Neither policy nor χ learns any more; world model and value do (section 4.3)."""
    reset: tuple[Literal["reward", "value"], ...] = ("reward", "value")
    """What starts anew: the reward head, and the value's output for the task (ours)."""
    relabel: bool = False
    """Start from the source's replay, paid anew for this task (section 4.3)."""
    updates: int = 1000
    """Updates on the relabelled replay before the first step (ours)."""


@dataclass(frozen=True)
class RuntimeConfig:
    """Where and how to compute. Not part of a run's identity: it may change when resuming."""

    device: str = "cpu"
    """`cpu` or `cuda`."""
    threads: int | None = None
    """CPU threads; None takes PyTorch's default."""
    compile: bool = True
    """Filter, imagination and MLPs: on a CPU by kernels, where a C++ compiler is found, on a GPU by
    torch.compile. Otherwise eagerly."""
    bf16: bool = True
    """Imagine and plan in bfloat16, where the hardware multiplies it."""
    patience: float = 300.0
    """With --num-envs: seconds that a step of an environment may take before it is given up."""
    cuda_graphs: bool = False
    """On a GPU: compile with CUDA graphs (mode reduce-overhead). Not measured yet."""


@dataclass(frozen=True)
class Config:
    """A whole run. `validate` is called where a run starts."""

    task: str = "walker_walk"
    """A dm_control task, `domain_task`."""
    method: str = "lsp"
    """`lsp`; `dreamer` (no skills); `random_skills`, `rand_skills_init` and `no_mi` (LSP without
    planning, without both, without the intrinsic reward); `cem` (plans actions); `hiro` (no model:
    a manager chooses skills or states)."""
    preset: str = "fast"
    """`paper`, `fast` (sized for a laptop) or `debug` (seconds)."""
    obs: str = "proprio"
    """`proprio` (the task's own observations) or `pixels` (64×64 images)."""
    seed: int = 0
    """Seeds everything; the same seed on the same machine gives the same run."""
    action_repeat: int = 2
    """Env steps that each action is held (Dreamer v1)."""
    num_envs: int = 1
    """Environments to collect from at once; more than one run in processes of their own (ours)."""
    reward: str | None = None
    """Your own reward for a dm_control task, `package.module:function` (docs/tasks.md)."""
    render_quality: str = "fast"
    """From pixels: `fast` (no shadows, reflections, multisampling) or `faithful` (dm_control's)."""
    model: ModelConfig = field(default_factory=ModelConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    value: ValueConfig = field(default_factory=ValueConfig)
    skills: SkillsConfig = field(default_factory=SkillsConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    behavior: BehaviorConfig = field(default_factory=BehaviorConfig)
    hiro: HiroConfig = field(default_factory=HiroConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)

    @property
    def has_skills(self) -> bool:
        return self.skills.dim > 0

    @property
    def behavior_horizon(self) -> int:
        """Agent steps that behaviour learning imagines."""
        return self.behavior.horizon or self.planner.horizon

    @property
    def plans_actions(self) -> bool:
        return self.planner.over == "actions"

    @property
    def plans_skills(self) -> bool:
        return self.has_skills and self.skills.source == "planned"

    @property
    def has_intrinsic(self) -> bool:
        """Whether χ is there, and pays."""
        return self.has_skills and self.skills.intrinsic

    @property
    def num_segments(self) -> int:
        """⌊H/K⌋, complete segments that behaviour learning imagines; 0 where nothing is paid for
        them."""
        return self.behavior_horizon // self.planner.skill_length if self.has_intrinsic else 0

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
        return replace(self, model=model, value=value)

    def validate(self) -> "Config":
        """Return self. Raises UserError in one line if a setting makes no sense."""
        for problem in _problems(self):
            raise UserError(problem)
        return self


def named_code(config: Config) -> list[str]:
    """Settings that name modules which making the environment imports: a user's own task and
    reward, and Gymnasium's `module:ID`."""
    task = config.task.removeprefix("gymnasium:")
    code = [config.task] if ":" in task and not task.startswith("python:") else []
    return code + ([config.reward] if config.reward is not None else [])


def _can_end_itself(task: str) -> bool:
    """Users' tasks (`gymnasium:ID`, `module:name`, `python:...`) may; of dm_control's only lqr."""
    return ":" in task or task.startswith("lqr_")


def _may_hold_goals(task: str) -> bool:
    """Observations of users' tasks may, and those of most quadrupeds do."""
    return ":" in task or task.startswith("quadruped_")


def _problems(config: Config) -> list[str]:
    """What is wrong with `config`, a sentence each."""
    planner, replay, schedule = config.planner, config.replay, config.schedule
    at_least_one = {
        "action_repeat": config.action_repeat,
        "num_envs": config.num_envs,
        "planner.horizon (H)": planner.horizon,
        "planner.skill_length (K)": planner.skill_length,
        "planner.num_candidates (G)": planner.num_candidates,
        "planner.num_elites (M)": planner.num_elites,
        "planner.num_iterations": planner.num_iterations,
        "behavior.horizon": config.behavior_horizon if config.behavior.horizon != 0 else 0,
        "behavior.rollouts_per_start": config.behavior.rollouts_per_start,
        "skills.num_states": config.skills.num_states,
        "replay.batch": replay.batch,
        "replay.length": replay.length,
        "schedule.update_every": schedule.update_every,
        "schedule.log_every": schedule.log_every,
        "schedule.eval_episodes": schedule.eval_episodes,
        "schedule.save_every": schedule.save_every,
        "model.deter": config.model.deter,
        "model.stoch": config.model.stoch,
        "model.decoded_images": 1
        if config.model.decoded_images is None
        else config.model.decoded_images,
    }
    at_least_zero = {
        "transfer.updates": config.transfer.updates,
        "seed": config.seed,
        "skills.dim": config.skills.dim,
        "skills.input_noise": config.skills.input_noise,
        "planner.mean_noise": planner.mean_noise,
        "policy.exploration_noise": config.policy.exploration_noise,
        "policy.mode_samples": config.policy.mode_samples,
        "schedule.prefill": schedule.prefill,
        "schedule.pretrain": schedule.pretrain,
        "schedule.eval_every": schedule.eval_every,
    }
    found = [f"{k} must be at least 1, not {v}" for k, v in at_least_one.items() if v < 1]
    found += [f"{k} must be at least 0, not {v}" for k, v in at_least_zero.items() if v < 0]
    if planner.num_elites > planner.num_candidates:
        found.append(
            f"planner.num_elites (M = {planner.num_elites}) must not exceed "
            f"planner.num_candidates (G = {planner.num_candidates})"
        )
    starts, states = config.behavior.num_starts, replay.batch * replay.length
    if starts is not None and not 1 <= starts <= states:
        found.append(
            f"behavior.num_starts must be between 1 and the batch's {states} states, not {starts}"
        )
    if not 0 < config.behavior.discount <= 1 or not 0 <= config.behavior.lambda_ <= 1:
        found.append("behavior.discount and behavior.lambda_ must lie between 0 and 1")
    relative = config.skills.intrinsic_unit == "return"
    if config.has_intrinsic and relative and config.value.covers != "task":
        found.append(
            "skills.intrinsic_unit = return needs value.covers = task: otherwise the "
            "intrinsic reward would be measured against itself"
        )
    if config.resolved().value.states == "observed":
        if config.has_intrinsic and config.value.covers != "task":
            found.append(
                "value.covers = total needs value.states = imagined: the replay knows no intrinsic "
                "reward"
            )
        if replay.length < 2:
            found.append("value.states = observed needs a replay.length of at least 2")
    if config.transfer.source is None and config.transfer != TransferConfig():
        found.append("transfer settings need a transfer.source, the folder of a run")
    if config.transfer.freeze_policy and config.plans_actions:
        found.append("transfer.freeze_policy needs a policy, and this method plans actions")
    if config.transfer.freeze_policy and config.method == "hiro":
        found.append("transfer.freeze_policy needs a planner that adapts, which hiro lacks")
    if planner.scope == "shared" and not config.plans_skills:
        found.append("planner.scope = shared needs skills that are planned")
    if config.plans_actions and config.has_skills:
        found.append(
            f"planner.over = actions has no skills: skills.dim must be 0, not {config.skills.dim}"
        )
    if not 0 < config.value.slow_rate <= 1:
        found.append(f"value.slow_rate must lie in (0, 1], not {config.value.slow_rate}")
    return found + (_hiro_problems(config) if config.method == "hiro" else [])


def _hiro_problems(config: Config) -> list[str]:
    """What is wrong with `config` for HIRO alone."""
    hiro, length, found = config.hiro, config.planner.skill_length, []
    if config.obs == "pixels":
        found.append(
            "method hiro needs --obs proprio: HIRO has not been shown to work from images "
            "(Nachum et al. 2018), and LSP's paper has no curves of it from pixels"
        )
    if hiro.goals == "skills" and not config.has_skills:
        found.append("hiro.goals = skills needs skills.dim of at least 1")
    counts = {name: getattr(hiro, name) for name in ("worker_updates", "actor_every", "candidates")}
    found += [f"hiro.{k} must be at least 1, not {v}" for k, v in counts.items() if v < 1]
    if not hiro.layers or min(hiro.layers) < 1:
        found.append(f"hiro.layers needs sizes of at least 1, not {hiro.layers}")
    if hiro.goal_range <= 0:
        found.append(f"hiro.goal_range must be above 0, not {hiro.goal_range}")
    # Wherever a sequence begins, a whole segment and a step after it must lie in it.
    least = max(2 * length, length + 2)
    if config.replay.length < least:
        found.append(
            f"replay.length must be at least {least} for segments of {length} steps "
            f"(planner.skill_length), not {config.replay.length}"
        )
    return found


def _paper() -> Config:
    """Appendix A.3 on top of Dreamer v1; docs/deviations.md says what the two leave open."""
    return Config(preset="paper")


def _fast() -> Config:
    """The same algorithm for a laptop. Each difference from `paper` has its reason beside it."""
    return Config(
        preset="fast",
        model=ModelConfig(
            # Sizes: two thirds of the time of 128 units everywhere, which end higher on walker_walk
            # (docs/deviations.md).
            deter=96,
            stoch=24,
            hidden=64,
            encoder=(128, 96),
            decoder=(128, 128),
            cnn_depth=8,  # pixels: an eighth of the time of 32, most of which is convolutions
            decoded_images=128,  # of 512: half the time, nearly the same gain (docs/performance.md)
            reward=(64,),
            layer_norm=True,  # steadier at the higher learning rates below
            obs_transform="symlog",  # quadruped's imu reaches 249; raw, it swamps the loss
            decoder_std=None,  # at 1.5 goals are hardly learned (docs/deviations.md)
            learning_rate=2e-3,  # 20k updates instead of a million env steps
        ),
        policy=PolicyConfig(
            layers=(128, 128),
            layer_norm=True,
            init_std=1.0,  # at 5 the tanh saturates: actions are coin flips whatever the skill
            mode_samples=0,  # tanh(mean) is as good and needs no density
            # As above, but slower than the model learns: otherwise it is soon where the model has
            # seen little (docs/deviations.md, cheetah_run).
            learning_rate=4e-4,
        ),
        value=ValueConfig(
            layers=(64,),
            layer_norm=True,
            covers="task",  # v would pay for skills sooner than they can end (docs/deviations.md)
            # In imagined states nothing but v itself says what v promises, and a fallen quadruped
            # believes that it gets up; a walker that believes it does (docs/deviations.md).
            states=None,
            slow_rate=0.02,  # without it, values diverge at this learning rate
            learning_rate=6e-4,
        ),
        skills=SkillsConfig(
            intrinsic_scale=0.002,  # a skill told well earns a sixth of what the task pays
            intrinsic_unit="return",  # a fixed scale drowns the task early or the skill late
            learning_rate=1e-3,  # 8e-5 is too slow for 20k updates
        ),
        planner=PlannerConfig(rollout_noise="common"),  # else elites are lucky, not good
        behavior=BehaviorConfig(
            num_starts=32,  # planning from all 512 states would be nine tenths of the time
            rollouts_per_start=4,
        ),
        optimizer=OptimizerConfig(epsilon=1e-5),  # steadier at small gradients
        replay=ReplayConfig(batch=16, length=32),
    )


def _debug() -> Config:
    """Seconds, for tests: everything tiny, nothing left out."""
    return Config(
        preset="debug",
        model=ModelConfig(
            deter=16,
            stoch=4,
            hidden=16,
            encoder=(16,),
            decoder=(16,),
            reward=(16,),
            cnn_depth=4,
            layer_norm=True,
            obs_transform="symlog",
        ),
        policy=PolicyConfig(layers=(16,), init_std=1.0, mode_samples=0),
        value=ValueConfig(layers=(16,), covers="task", states="observed", slow_rate=0.02),
        skills=SkillsConfig(layers=(16,), intrinsic_unit="return"),
        planner=PlannerConfig(
            num_candidates=4, num_elites=2, num_iterations=2, rollout_noise="common"
        ),
        behavior=BehaviorConfig(num_starts=4, rollouts_per_start=2),
        replay=ReplayConfig(batch=4, length=8),
        schedule=ScheduleConfig(
            prefill=200,
            pretrain=2,
            update_every=50,
            log_every=200,
            eval_every=1000,
            eval_episodes=1,
            save_every=1000,
        ),
    )


def default_runtime(preset: str, chosen: RuntimeConfig | None = None) -> RuntimeConfig:
    """`debug` is over before a compiler would be; `paper` changes nothing, precision included.

    What is `chosen` otherwise than RuntimeConfig has it stays as it is.
    """
    own = RuntimeConfig()
    changed = {k: x for k, x in vars(chosen or own).items() if x != getattr(own, k)}
    suited = replace(own, compile=preset != "debug", bf16=preset != "paper")
    return replace(suited, **changed)


PRESETS = {"paper": _paper, "fast": _fast, "debug": _debug}


def _lsp(config: Config) -> Config:
    return config


def _dreamer(config: Config) -> Config:
    """Fully amortised: no skill, nothing to plan; horizon 15 as Dreamer v1."""
    behavior = config.behavior
    if behavior.num_starts is not None:
        # As many rollouts as LSP learns from, each from a state of its own.
        rollouts = behavior.num_starts * behavior.rollouts_per_start
        behavior = replace(behavior, num_starts=rollouts, rollouts_per_start=1)
    return replace(
        config,
        skills=replace(config.skills, dim=0),
        behavior=replace(behavior, horizon=15),
    )


def _random_skills(config: Config) -> Config:
    return replace(config, skills=replace(config.skills, source="prior"))


def _no_mi(config: Config) -> Config:
    return replace(config, skills=replace(config.skills, intrinsic=False))


def _rand_skills_init(config: Config) -> Config:
    return _no_mi(_random_skills(config))


def _cem(config: Config) -> Config:
    """Fully online: as many model steps a plan as LSP's, or PlaNet's own numbers in `paper`."""
    planner = replace(config.planner, over="actions", skill_length=1, mean_noise=0.0)
    if config.preset == "paper":
        planner = replace(
            planner, horizon=12, num_iterations=10, num_candidates=1000, num_elites=100
        )
    return replace(
        config,
        skills=replace(config.skills, dim=0),
        planner=planner,
        behavior=replace(config.behavior, lambda_=1.0),  # rewards alone: there is no value
    )


def _hiro(config: Config) -> Config:
    """A model-free hierarchy; the numbers are those of HIRO's released code in every preset."""
    schedule = replace(config.schedule, pretrain=0)
    replay = ReplayConfig(batch=100, length=20, capacity=200_000)
    if config.preset == "debug":
        hiro = replace(config.hiro, layers=(16, 16), worker_updates=3)
        replay = replace(replay, batch=4)
    else:
        hiro, schedule = config.hiro, replace(schedule, update_every=10)
    return replace(
        config,
        hiro=hiro,
        replay=replay,
        schedule=schedule,
        optimizer=replace(config.optimizer, epsilon=1e-8),  # TF1's Adam
    )


METHODS = {
    "lsp": _lsp,
    "dreamer": _dreamer,
    "random_skills": _random_skills,
    "rand_skills_init": _rand_skills_init,
    "no_mi": _no_mi,
    "cem": _cem,
    "hiro": _hiro,
}
"""What each method changes in a preset."""


def make_config(method: str = "lsp", preset: str = "fast", **changes: Any) -> Config:
    """The settings of `method` at `preset`; `changes` replace top-level fields.

    Raises UserError for an unknown method or preset.
    """
    for kind, name, known in (("preset", preset, PRESETS), ("method", method, METHODS)):
        if name not in known:
            raise UserError(f"unknown {kind} {name!r}: choose one of {', '.join(known)}")
    config = METHODS[method](PRESETS[preset]())
    return replace(config, method=method, **changes)


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain dict, ready for JSON."""
    return dataclasses.asdict(config)


_ADDED: dict[type, dict[str, Any]] = {
    Config: {
        "num_envs": 1,
        "render_quality": "fast",
        "reward": None,
        "transfer": to_dict(TransferConfig()),
        "hiro": to_dict(HiroConfig()),
    },
    SkillsConfig: {"source": "planned", "intrinsic": True},
    PlannerConfig: {"over": "skills"},
    ModelConfig: {"decoded_images": None},
    ValueConfig: {"states": "imagined"},
}
"""Settings that earlier versions did not record, and what they amounted to."""


def from_dict(values: Any, kind: type = Config, where: str = "config") -> Any:
    """The inverse of `to_dict`. Raises UserError naming any field it does not know or lacks, or
    whose value is of another type."""
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected settings by name, not {values!r:.40}")
    values = _ADDED.get(kind, {}) | values
    hints = get_type_hints(kind)
    unknown, missing = set(values) - set(hints), set(hints) - set(values)
    if unknown or missing:
        names = ", ".join(sorted(unknown | missing))
        raise UserError(f"{where}: unknown or missing settings: {names}")
    parsed = {}
    for name, hint in hints.items():
        value = values[name]
        if dataclasses.is_dataclass(hint):
            value = from_dict(value, hint, f"{where}.{name}")  # type: ignore[arg-type]
        parsed[name] = _converted(value, hint)
        if not _fits(parsed[name], hint):
            raise UserError(f"{where}: {name} cannot be {value!r:.40}")
    return kind(**parsed)


def _converted(value: Any, hint: Any) -> Any:
    """JSON has no tuples, and 1.0 may be written as 1."""
    if isinstance(value, list):
        inner = get_args(hint)
        return tuple(_converted(each, inner[0] if inner else None) for each in value)
    whole = type(value) is int and abs(value) < 2**53
    return float(value) if whole and hint in (float, float | None) else value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON is of the type that a field has."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Literal:
        return isinstance(value, str) and value in inner
    if kind in (UnionType, Union):  # the second where a Literal may be None
        return any(_fits(value, each) for each in inner)
    if kind is tuple:
        open_ended = inner[-1] is Ellipsis
        each = [inner[0]] * len(value) if open_ended and isinstance(value, tuple) else inner
        fits = isinstance(value, tuple) and len(value) == len(each)
        return fits and all(_fits(*pair) for pair in zip(value, each))
    return type(value) is hint


def differences(one: Config, other: Config) -> list[str]:
    """`planner.horizon: 10 → 20` for every setting in which the two differ, once resolved."""
    flat_one, flat_other = (_flatten(to_dict(config.resolved())) for config in (one, other))
    return [
        f"{name}: {flat_one[name]} → {flat_other[name]}"
        for name in flat_one
        if flat_one[name] != flat_other[name]
    ]


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
