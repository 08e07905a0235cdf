"""Rewards to ask of a trained agent: `lsp eval RUN --reward lsp.rewards.quadruped:turn_left`.

They read what the agent observes, but for those of simulator states, and pay between 0 and 1.
"""
