"""Every setting of a run, as frozen dataclasses.

Sources: "A.3" is the appendix of the LSP paper, "Dreamer v1" its released code, "ours" a decision
explained in docs/paper/deviations.md. Defaults are those of the `paper` preset.
"""

from dataclasses import dataclass, replace
from typing import Literal


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
    """The actor: the low-level policy q(a | s, z)."""

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
    prior_share: float = 0.0
    """Share of the skills drawn from N(0, I) while collecting, where skills are planned (ours)."""
    stop_input_gradient: bool = True
    """Imagined states are constants where the policy reads them: an action's gradient reaches the
    policy's weights, and no earlier action through the state that was read (Dreamer v1, v2, v3).
    The gradient of a plan, where planning ascends it, is whole either way."""
    entropy: float = 0.0
    """Weight of the policy's entropy, in nats, beside the return of each imagined state (A.4,
    eq. 4), in units of the running size of returns. It holds up the standard deviation, which
    returns alone take to `min_std` (Dreamer v1 and the paper's own experiments: 0)."""
    learning_rate: float = 8e-5
    """Adam, policy (Dreamer v1)."""


@dataclass(frozen=True)
class ValueConfig:
    """The critic: the state value v(s)."""

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
    proposal: Literal["normal", "learned"] = "normal"
    """ζ(0), where plans begin. `normal`: N(0, I). `learned`: q(z | s), fitted to the elites of
    plans made while acting; updates draw their skills from it and plan nothing (section 6)."""
    proposal_min_std: float = 0.2
    """Least standard deviation of q(z | s), the most is 1: without it plans would be looked for
    ever nearer to those of before; elites of CEM have 0.11 to 0.16 (ours)."""
    intrinsic: bool = True
    """Pay for skills that χ can tell apart, and train χ (section 3.2)."""
    estimator: Literal["backward", "forward"] = "backward"
    """What r_i estimates the mutual information by. `backward`: by χ (section 3.2). `forward`: by
    the model's own densities of the states under the skills of a start's rollouts, which bounds it
    by the log of their number (A.6); χ learns all the same, and what it says is logged."""
    intrinsic_scale: float = 1.0
    """The intrinsic reward log q(z | {s}, s0) is multiplied by this (ours; the paper: 1)."""
    intrinsic_unit: Literal["reward", "return"] = "reward"
    """`reward`: the scale is in units of reward. `return`: in units of the running size of imagined
    task returns, so that skills get the same share early and late, and in every task (ours)."""
    reads: tuple[str, ...] = ()
    """Observations, by key, whose decoded means χ reads in place of the latents: skills then differ
    in those alone (ours)."""
    input_noise: float = 0.1
    """Std of the noise on χ's input, in training it and in rewarding with it (A.7)."""
    num_states: int = 10
    """States of a segment that χ reads besides s0, evenly spaced (ours)."""
    layers: tuple[int, ...] = (256, 256)
    """Hidden layers of χ (A.3), and of q(z | s) (ours)."""
    std_bounds: tuple[float, float] = (0.1, 1.5)
    """Soft bounds of χ's standard deviation (A.3)."""
    learning_rate: float = 8e-5
    """Adam, χ (A.3) and q(z | s) (ours)."""


@dataclass(frozen=True)
class BehaviorConfig:
    """Learning policy, value and skill predictor in imagination (section 3.1)."""

    horizon: int | None = None
    """Agent steps imagined; None takes the planner's horizon."""
    num_starts: int | None = None
    """Start states drawn from the batch's posteriors; None takes all (Dreamer v1)."""
    rollouts_per_start: int = 1
    """Rollouts from each start, each with its own skill and noise (ours)."""
    prior_share: float = 0.0
    """Share of the rollouts whose skills are drawn from N(0, I), where skills are planned. The
    policy learns in all of them, v in the others alone (ours)."""
    discount: float = 0.99
    """γ per agent step (Dreamer v1)."""
    lambda_: float = 0.95
    """λ of the return (Dreamer v1)."""


@dataclass(frozen=True)
class HiroConfig:
    """The baseline HIRO (Nachum et al. 2018, "Data-Efficient Hierarchical Reinforcement Learning").

    Other methods do not read it. "HIRO" is its released code, "TD3" Fujimoto et al. 2018. How long
    a goal is held, what skills are and how q learns is in `planner.skill_length` and `skills`.
    """

    goals: Literal["skills", "states"] = "skills"
    """What the manager chooses: `skills`, with LSP's intrinsic reward (section 4.1), or changes of
    the observation, HIRO's own."""
    goal_range: float = 1.0
    """A goal's coordinates lie in ± this: a skill's, or in standard deviations of the normalised
    observation (ours; HIRO: a range by hand for each of 15 coordinates of the ant)."""
    manager_reward: float = 0.1
    """The manager is paid a segment's sum of task rewards times this (HIRO)."""
    worker_reward: float = 0.0
    """The worker is paid the task's reward times this beside the intrinsic one. HIRO, and the paper
    to the letter: 0; `fast`: 10, as LSP's policy is paid for both (ours, docs/paper/hiro.md)."""
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
    """Std of the Gaussian added to goals while collecting, in units of `goal_range`. HIRO's own is
    1.0 on coordinates with ranges from 0.3 to 10; every preset has 0.2 (ours): noise as wide as the
    range leaves goals nearly uniform, whatever the manager says."""
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
    average_rate: float = 0.0
    """Rate at which a slow copy of all weights follows them, a step after each update. The copy is
    what is evaluated, exported and carried over to another task, while the weights themselves
    collect and learn on; 0: there is none."""


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
    final_episodes: int | None = None
    """Episodes of the last evaluation, and of a transfer's at step 0; None: `eval_episodes`."""
    prior_episodes: int = 3
    """Episodes under skills from N(0, I) in each evaluation, where skills are planned (ours)."""
    save_every: int = 10000
    """Env steps between checkpoints."""


@dataclass(frozen=True)
class TransferConfig:
    """Starting from what another run has learned (section 4.3)."""

    source: str | None = None
    """Folder of that run, or the name of an agent that is shipped; None learns from nothing. All
    weights carry over."""
    freeze_policy: bool = False
    """Neither policy nor χ learns any more; world model and value do (section 4.3). With an anchor
    what is fixed is what the policy does, and not its weights (ours): `Config.fixes_behavior`."""
    reset: tuple[Literal["reward", "value"], ...] = ()
    """What is reset besides the optimisers: the reward head, the critic's output for the task.
    The paper names neither. Keeping them served `lsp` in four transfers of four, `dreamer` in one
    (docs/notebook/transfer.md)."""
    relabel: bool = False
    """Start from the source's replay, relabelled with this task's rewards (section 4.3)."""
    updates: int = 1000
    """Updates on the relabelled replay before the first step, which leave policy and χ as they are:
    the evaluation at step 0 is planning alone (ours)."""
    keep_replay: bool = False
    """Half of each batch comes from the source's episodes, for the model's loss alone; its rewards
    are the new task's where they can be known, and otherwise not learned (ours)."""
    anchor: float | None = None
    """Weight of KL(policy ‖ anchor), in units of the running size of returns; 0 has no anchor.
    None: 0 where the policy adapts and in the preset `paper`, 0.05 where it is frozen. An anchor
    that does not move is the source's policy, which reads what the source's own frozen model makes
    of the same observations. With a frozen policy it acts itself, and the policy only follows it,
    whatever the weight, for plans to be imagined with: what the states of the model mean moves
    (ours)."""
    anchor_steps: int | None = None
    """Env steps over which that weight falls to zero; None keeps it (ours)."""
    anchor_rate: float | None = None
    """Share of the policy that the anchor takes over in each update. 0: it stays the source's.
    None: 0.005 where a policy adapts and has an anchor, and 0 in the preset `paper`. Above 0 it is
    a slow copy of the policy on the model's own states, a trust region: the policy may go anywhere,
    but no faster than episodes tell where that leads (ours)."""
    new_share: float | None = None
    """Share of each batch from the new task's own episodes, of a relabelled replay; 0: as they
    come. None: 0.5 where a policy adapts on such a replay (Ball et al. 2023, RLPD), else 0."""

    def resolved(self) -> "TransferConfig":
        """The same with 0 where nothing was chosen, and no transfer chooses (`on_another_task`)."""
        return replace(
            self,
            anchor=self.anchor or 0.0,
            anchor_rate=self.anchor_rate or 0.0,
            new_share=self.new_share or 0.0,
        )

    def anchor_at(self, env_steps: int) -> float:
        """The anchor's weight after some env steps on the new task."""
        left = 1.0 if self.anchor_steps is None else 1 - env_steps / self.anchor_steps
        return (self.anchor or 0.0) * max(left, 0.0)


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
    """Learn, imagine and plan in bfloat16, where the hardware multiplies it."""
    only_env: bool = False
    """There can be only one environment (a robot, a port, a licence): evaluations are made in the
    one that is trained in, between its episodes. It is found out where making another one fails."""
    patience: float = 300.0
    """With --num-envs: seconds that a step of an environment may take before it is given up."""
    cuda_graphs: bool = True
    """On a GPU: record each update and plan once, and replay it as one CUDA graph."""
    track: Literal["wandb", "trackio"] | None = None
    """Log metrics there too (pip install 'latent-skill-planning[wandb]' or '[trackio]'); trackio
    keeps everything on this machine."""
