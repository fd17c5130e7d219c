"""Weights on the disk: checkpoints, quantised matrices, LoRA adapters."""
