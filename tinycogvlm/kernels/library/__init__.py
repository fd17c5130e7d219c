"""Every CUDA kernel beside the function that launches it."""
