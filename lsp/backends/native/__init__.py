"""Planning, imagination and filtering on a CPU: blocks of rows stay in a core's cache.

The same functions as in `lsp/models`, which are the reference; the kernels are C++, compiled where
they run.
"""
