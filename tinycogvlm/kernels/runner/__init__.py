"""A CUDA machine for CPUs, and the same calls on a GPU."""
