"""The training loop: steps, optimizer, checkpoints, log."""
