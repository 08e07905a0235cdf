"""Presets: `paper`; `fast`, for a laptop, and `modern`, with their reasons; `debug`, for tests."""

from dataclasses import replace

from lsp.config.config import Config
from lsp.config.planner_settings import ActionsConfig, PlannerConfig
from lsp.config.settings import (
    BehaviorConfig,
    HiroConfig,
    ModelConfig,
    OptimizerConfig,
    PolicyConfig,
    ReplayConfig,
    RuntimeConfig,
    ScheduleConfig,
    SkillsConfig,
    TransferConfig,
    ValueConfig,
)


def _paper() -> Config:
    """Appendix A.3 on top of Dreamer v1; docs/paper/deviations.md says what the two leave open."""
    return Config(
        preset="paper",
        model=ModelConfig(),
        policy=PolicyConfig(),
        value=ValueConfig(),
        skills=SkillsConfig(),
        planner=PlannerConfig(),
        actions=ActionsConfig(),
        behavior=BehaviorConfig(),
        hiro=HiroConfig(),
        optimizer=OptimizerConfig(),
        replay=ReplayConfig(),
        schedule=ScheduleConfig(),
        transfer=TransferConfig(),
    )


def _fast() -> Config:
    """The same algorithm for a laptop. Each difference from `paper` has its reason beside it."""
    return replace(
        _paper(),
        preset="fast",
        model=ModelConfig(
            # Sizes: two thirds of the time of 128 units everywhere, which end higher on walker_walk
            # (docs/paper/deviations.md).
            deter=96,
            stoch=24,
            hidden=64,
            encoder=(128, 96),
            decoder=(128, 128),
            cnn_depth=8,  # pixels: an eighth of the time of 32, most of which is convolutions
            decoded_images=128,  # of 512: half the time, nearly the same gain
            reward=(64,),
            layer_norm=True,  # steadier at the higher learning rates below
            obs_transform="symlog",  # quadruped's imu reaches 249; raw, it swamps the loss
            decoder_std=None,  # at 1.5 goals are hardly learned (docs/notebook/quadrupeds.md)
            learning_rate=2e-3,  # 20k updates instead of a million env steps
        ),
        policy=PolicyConfig(
            layers=(128, 128),
            layer_norm=True,
            init_std=1.0,  # at 5 the tanh saturates: actions are coin flips whatever the skill
            mode_samples=0,  # tanh(mean) is as good and needs no density
            # As above, but slower than the model learns: otherwise it is soon where the model has
            # seen little (docs/notebook/cheetah_run.md).
            learning_rate=4e-4,
            prior_share=0.1,  # and other skills in the replay, for the model
            stop_input_gradient=False,  # as its results were made; no slower
        ),
        value=ValueConfig(
            layers=(64,),
            layer_norm=True,
            covers="task",  # r_i would be valued too soon (docs/notebook/critic.md)
            # In imagined states nothing but v itself says what v promises, and a fallen quadruped
            # believes that it gets up; a walker that believes it does (docs/notebook/critic.md).
            states=None,
            slow_rate=0.02,  # without it, values diverge at this learning rate
            learning_rate=6e-4,
        ),
        skills=SkillsConfig(
            intrinsic_scale=0.002,  # a skill told well earns a sixth of what the task pays
            intrinsic_unit="return",  # a fixed scale drowns the task early or the skill late
            learning_rate=1e-3,  # 8e-5 is too slow for 20k updates
        ),
        # Common noise: else elites are lucky, not good. In updates two iterations: half of the
        # time (docs/guide/speed.md has returns); while acting one state is planned for, cheaply.
        planner=PlannerConfig(rollout_noise="common", num_iterations=2, acting_iterations=4),
        behavior=BehaviorConfig(
            num_starts=32,  # planning from all 512 states would be nine tenths of the time
            rollouts_per_start=4,
            # One of the four: a policy that meets planned skills alone forgets all others, which a
            # new task needs (docs/notebook/skills.md).
            prior_share=0.25,
        ),
        optimizer=OptimizerConfig(epsilon=1e-5),  # steadier at small gradients
        replay=ReplayConfig(batch=16, length=32),
    )


def _modern() -> Config:
    """`fast`, and what agents that plan do since: more is learned from as many env steps.

    Each of the first two gains less without the other (docs/notebook/walker_run.md).
    """
    fast = _fast()
    return replace(
        fast,
        preset="modern",
        # The planner collects, so that the policy learns from what it does not do yet (TD-MPC).
        actions=ActionsConfig(num_candidates=128),
        # One update an agent step, begun ahead (TD-MPC2).
        schedule=replace(fast.schedule, update_every=2, pretrain=1000),
        # Weights waver from update to update (docs/notebook/averaging.md).
        optimizer=replace(fast.optimizer, average_rate=1e-3),
    )


def _debug() -> Config:
    """Seconds, for tests: everything tiny, nothing left out."""
    return replace(
        _paper(),
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
        policy=PolicyConfig(
            layers=(16,), init_std=1.0, mode_samples=0, prior_share=0.1, stop_input_gradient=False
        ),
        value=ValueConfig(layers=(16,), covers="task", states="observed", slow_rate=0.02),
        skills=SkillsConfig(layers=(16,), intrinsic_unit="return"),
        planner=PlannerConfig(
            num_candidates=4, num_elites=2, num_iterations=2, rollout_noise="common"
        ),
        behavior=BehaviorConfig(num_starts=4, rollouts_per_start=2, prior_share=0.25),
        replay=ReplayConfig(batch=4, length=8),
        schedule=ScheduleConfig(
            prefill=200,
            pretrain=2,
            update_every=50,
            log_every=200,
            eval_every=1000,
            eval_episodes=1,
            prior_episodes=1,
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


PRESETS = {"paper": _paper, "fast": _fast, "modern": _modern, "debug": _debug}
