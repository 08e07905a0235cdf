"""The outer loop of Algorithm 1, and starting it from another run."""
