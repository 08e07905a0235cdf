"""Loading and evaluating runs: what the command line and `import lsp` offer."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from lsp.backends.torch_setup import find_device
from lsp.config import Config, RuntimeConfig, default_runtime, named_code, no_count, no_seed
from lsp.envs.lookup import Maker, Task
from lsp.envs.rewards import OwnReward, RewardFunction, own_reward, try_reward
from lsp.errors import UserError
from lsp.models.networks import Networks
from lsp.report.video import VideoWriter
from lsp.runs.agents import find_run
from lsp.runs.files import expanded
from lsp.runs.folder import RunFolder
from lsp.runs.spaces import Spaces, spaces_of
from lsp.training.build import AnyAgent, AnyNetworks, build_agent, build_networks
from lsp.training.evaluation import Evaluation
from lsp.training.evaluation import evaluate as evaluate_networks
from lsp.training.new_reward import Fit, NewReward, plan_for
from lsp.training.parts import EnvMaker, env_maker, weights_of
from lsp.training.skill_controls import SkillChoice


def load(
    logdir: str | Path,
    mode: Literal["collect", "evaluate"] = "evaluate",
    num_envs: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    env: Task | None = None,
    trust: bool = False,
    reward: str | RewardFunction | NewReward | None = None,
) -> AnyAgent:
    """The agent of a run's newest checkpoint: `agent.act(observation)`.

    Call `agent.reset()` when an episode begins.

    Args:
        logdir: the run's folder, or an agent's folder or name (docs/guide/agents.md).
        mode: `collect` explores, `evaluate` does not.
        num_envs: act in so many environments at once; None acts in one, without a batch axis.
        seed: of the agent's random generator.
        device: `cpu` or `cuda`.
        env: the environment that it will act in, to be checked against what it was trained on.
        trust: the run may name code of your own, which is not known to be harmless.
        reward: plan for this reward, which nothing was trained for (docs/guide/new_reward.md): a
            function, its name, `task` (what `env` pays), or an `lsp.NewReward` with more settings.

    Returns:
        The agent, with weights of its own.

    Raises:
        UserError: there is no checkpoint, `env` is another task, the reward cannot be planned for,
            or the run names code, was not trained by this user, and `trust` is false.
    """
    check_seed(seed)
    if mode not in ("collect", "evaluate"):
        raise UserError(f"mode must be 'collect' or 'evaluate', not {mode!r}")
    if num_envs is not None:
        check_count("num_envs", num_envs, 1)
    networks = load_networks(logdir, device, env, trust)
    wanted = _new_reward(networks.config, reward)
    if wanted is not None:
        make = _paying_maker(networks.config, env, wanted.reward)
        _plan_for(networks, wanted, make, logdir, seed)
    return build_agent(networks, mode, num_envs, seed, _runtime_of(networks))


def evaluate(
    logdir: str | Path,
    episodes: int = 10,
    video: str | Path | None = None,
    device: str = "cpu",
    env: Task | None = None,
    trust: bool = False,
    skills: SkillChoice | None = None,
    seed: int | None = None,
    checkpoint: int | None = None,
    reward: str | RewardFunction | NewReward | None = None,
) -> Evaluation:
    """Evaluate a run's newest checkpoint, without exploration.

    Args:
        logdir: the run's folder, or an agent's folder or name (docs/guide/agents.md).
        episodes: how many; their seeds are the same for every run.
        video: where to film the first of them.
        device: `cpu` or `cuda`.
        env: the task, where it was passed to `train` from Python.
        trust: as for `load`.
        skills: where they come from, whatever the run was trained with; it shows what planning is
            worth to one set of weights. `planned`; `prior`, from N(0, I); `constant`, all at the
            mean of what is planned in the same episodes; `shuffled`, what is planned in another
            episode at the same time. The last two plan first, and take twice as long.
        seed: draws other episodes, and other random numbers for the agent; without it the episodes
            are those of every run's evaluations.
        checkpoint: env steps of a checkpoint that is kept, in place of the newest.
        reward: as for `load`; it pays, and what the plans predict of it is compared. Where the run
            was trained with this very function, it only pays.

    Returns:
        Return, length in env steps and success of each episode.

    Raises:
        UserError: there is no checkpoint, `env` is lacking or another task, nothing can be
            rendered, the method has no skills to choose from, or one episode is to be shuffled.
    """
    _check_asked(episodes, seed, skills, checkpoint)
    networks, reached = _load(logdir, device, env, trust, checkpoint)
    config = networks.config
    if skills is not None and not (isinstance(networks, Networks) and config.has_skills):
        raise UserError(f"{config.method} has no skills: leave out the choice of them")
    wanted = _new_reward(config, reward)
    paying = reward.reward if isinstance(reward, NewReward) else reward
    make = _env_maker(config, env) if paying is None else _paying_maker(config, env, paying)
    frames_per_second = _check_spaces(RunFolder(find_run(logdir)), make)
    fit = None if wanted is None else _plan_for(networks, wanted, make, logdir, config.seed)
    own = config.seed if seed is None else seed
    asked = partial(
        evaluate_networks,
        *(networks, make, episodes, own, _runtime_of(networks)),
        skills=skills,
        draw=seed,
    )
    if video is None:
        return asked()._replace(checkpoint=reached, fit=fit)
    with VideoWriter(expanded(video), frames_per_second / config.action_repeat) as writer:
        return asked(on_frame=writer.add)._replace(checkpoint=reached, fit=fit)


def load_networks(
    logdir: str | Path, device: str = "cpu", env: Task | None = None, trust: bool = False
) -> AnyNetworks:
    """The networks of a run's newest checkpoint.

    The arguments are those of `load`. What they observe and do is in the run's folder, so that no
    environment is made; where it is not, the run's task is asked.

    Raises:
        UserError: where `load` raises it.
    """
    return _load(logdir, device, env, trust)[0]


def _load(
    logdir: str | Path,
    device: str,
    env: Task | None,
    trust: bool,
    env_steps: int | None = None,
) -> tuple[AnyNetworks, int]:
    """The networks of a run's newest checkpoint, or of that after `env_steps`; and its age."""
    folder, device = RunFolder(find_run(logdir)), str(find_device(device))
    config = folder.read_config()
    check_trust(folder, config, env, trust)
    found = folder.newest_checkpoint() if env_steps is None else folder.checkpoint_at(env_steps)
    if found is None:
        raise UserError(f"{folder.path} has no checkpoint yet: train it first")
    networks = build_networks(spaces_in(folder, env), config, device)
    weights = weights_of(found, folder)
    try:
        networks.load_state_dict(weights)
    except RuntimeError as error:
        raise _not_its_task(folder, config) from error
    return networks, found.env_steps


def spaces_in(folder: RunFolder, env: Task | None = None) -> Spaces:
    """What a run's agent observes and does, as the run noted it, or as its task or `env` has it.

    Raises:
        UserError: `env` is not as the run's own was.
    """
    noted = folder.read_spaces()
    if noted is not None and env is None:
        return noted
    make = environments_of(folder.path, env)
    return _spaces_made_by(make)


def environments_of(logdir: str | Path, env: Task | None = None) -> EnvMaker:
    """Makes environments as a run's agent observes and acts in: its task's, or those of `env`.

    Raises:
        UserError: they are not as the run's own was.
    """
    folder = RunFolder(find_run(logdir))
    make = _env_maker(replace(folder.read_config(), reward=None), env)
    _check_spaces(folder, make)
    return make


def check_trust(folder: RunFolder, config: Config, env: Task | None, trust: bool) -> None:
    """Refuse a stranger's run that names code to import: such modules may do anything.

    Raises:
        UserError: the run names code, is not this user's own, and nobody said that it may be run.
    """
    named = named_code(config if env is None else replace(config, task=""))
    if named and not trust and not folder.is_own:
        raise UserError(
            f"{folder.path} names code that would be imported and run ({', '.join(named)}), and "
            "was not trained by you here: --trust, or trust=True, if you know it"
        )


def _env_maker(config: Config, env: Task | None) -> EnvMaker:
    """Makes environments for agents: those of the run's task, or of `env` in its place."""
    source: Task = config.task if env is None else env
    if not isinstance(source, str):
        source = Maker(source)
    return env_maker(config, source)


def _check_asked(
    episodes: int, seed: int | None, skills: SkillChoice | None, checkpoint: int | None
) -> None:
    check_count("episodes", episodes, 1)
    if seed is not None:
        check_seed(seed)
    if checkpoint is not None:
        check_count("checkpoint", checkpoint, 0)
    if skills is not None and skills not in get_args(SkillChoice):
        raise UserError(f"skills must be one of {', '.join(get_args(SkillChoice))}, not {skills!r}")


def check_seed(seed: int) -> None:
    """Raises UserError for what no generator can be seeded with."""
    for complaint in no_seed(seed):
        raise UserError(complaint)


def check_count(name: str, value: int, least: int) -> None:
    """Raises UserError for what is no whole number of at least `least`."""
    for complaint in no_count(name, value, least):
        raise UserError(complaint)


def _new_reward(
    config: Config, reward: str | RewardFunction | NewReward | None
) -> NewReward | None:
    """What to plan for, if it is not what the run was trained for."""
    if reward is None or isinstance(reward, NewReward):
        return reward
    if reward != "task" and own_reward(reward).name == config.reward:
        return None
    return NewReward(reward)


def _paying_maker(
    config: Config, env: Task | None, reward: str | RewardFunction | OwnReward
) -> EnvMaker:
    """Makes environments that pay `reward`; `task` is what they pay by themselves."""
    source: Task = config.task if env is None else env
    source = source if isinstance(source, str) else Maker(source)
    own = None if reward == "task" else own_reward(reward)
    return env_maker(replace(config, reward=None), source, own)


def _plan_for(
    networks: AnyNetworks, wanted: NewReward, make: EnvMaker, logdir: str | Path, seed: int
) -> Fit | None:
    """Make networks plan for a new reward. Raises UserError where they cannot."""
    if not isinstance(networks, Networks):
        raise UserError(f"{networks.config.method} has no model to plan for another reward in")
    env = make()
    try:
        try_reward(env, seed)
        folder = RunFolder(find_run(logdir))
        return plan_for(networks, wanted, env, folder, _runtime_of(networks), seed)
    finally:
        env.close()


def _spaces_made_by(make: EnvMaker) -> Spaces:
    made = make()
    spaces = spaces_of(made)
    made.close()
    return spaces


def _check_spaces(folder: RunFolder, make: EnvMaker) -> float:
    """Frames a second of a run's environments.

    Raises:
        UserError: they are not as the run's own was.
    """
    made, noted = make(), folder.read_spaces()
    spaces, frames = spaces_of(made), made.metadata.get("render_fps") or 30
    made.close()
    if noted is not None and not noted.fits(spaces):
        raise _not_its_task(folder, folder.read_config(), f": {noted} against {spaces}")
    return float(frames)


def _not_its_task(folder: RunFolder, config: Config, spaces: str = "") -> UserError:
    return UserError(
        f"{folder.path} was trained on {config.task} with other observations or actions than this "
        f"environment's{spaces}: give the environment that it was trained on"
    )


def _runtime_of(networks: AnyNetworks) -> RuntimeConfig:
    return default_runtime(networks.config.preset, RuntimeConfig(device=str(networks.device)))
