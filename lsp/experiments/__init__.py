"""Many runs at once: grids of them, who carries them out, and the paper's experiments."""
