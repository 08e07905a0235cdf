"""Hold skills of your own choice: the run's policy acts under each of them from the same start.

python examples/hold_skills.py runs/walker_walk-lsp
"""

import sys

import numpy as np

import lsp

STEPS = 40  # agent steps that each skill is held, at most


def main(run: str) -> None:
    """Print the return under skill 0, and under 1.5 and -1.5 along each axis."""
    agent = lsp.load(run)
    if not isinstance(agent, lsp.Agent) or not agent.config.has_skills:
        sys.exit(f"{run}: {agent.config.method} plans no skills, name a run of lsp")
    config = agent.config
    env = lsp.make_env(config.task, config.obs, config.action_repeat)
    axes = 1.5 * np.eye(config.skills.dim, dtype=np.float32)
    for skill in np.concatenate([0 * axes[:1], axes, 0 - axes]):
        observation, _ = env.reset(seed=7)
        agent.reset()
        total, steps, over = 0.0, 0, False
        while steps < STEPS and not over:
            action = agent.act(observation, skill=skill)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, steps, over = total + float(reward), steps + 1, terminated or truncated
        print(
            f"z = {np.array2string(skill, precision=1)}: a return of {total:.2f} in {steps} steps"
        )
    env.close()


if __name__ == "__main__":
    main(sys.argv[1])
