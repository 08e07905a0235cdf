"""Load a run and act in its task.

python examples/act_in_task.py runs/walker_walk-lsp
"""

import sys

import lsp


def main(run: str) -> None:
    """Act for one episode with the run's newest checkpoint, without exploration."""
    agent = lsp.load(run)
    config = agent.config  # the settings of the run: its task, what it observes, ...
    env = lsp.make_env(config.task, config.obs, config.action_repeat)

    observation, _ = env.reset(seed=0)
    agent.reset()  # an episode begins: the agent forgets what it saw
    total, steps, over = 0.0, 0, False
    while not over:
        action = agent.act(observation)  # numpy, in [-1, 1]
        observation, reward, terminated, truncated, info = env.step(action)
        total, steps = total + float(reward), steps + info["env_steps"]
        over = terminated or truncated
    env.close()
    print(f"{config.task}: a return of {total:.1f} in {steps} env steps")


if __name__ == "__main__":
    main(sys.argv[1])
