"""Planning, imagination and filtering on a CPU: blocks of rows stay in a core's cache.

The same functions as in `lsp/networks.py` and `lsp/world_model.py`, which are the reference; the
kernels are C++, compiled where they run.
"""
