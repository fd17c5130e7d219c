"""The CUDA machine that runs kernels on a CPU, and the same calls on a GPU."""
