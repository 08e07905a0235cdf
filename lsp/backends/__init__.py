"""Who computes it: PyTorch, kernels in C++, or a GPU."""
