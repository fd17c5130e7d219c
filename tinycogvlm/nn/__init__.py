"""The mathematics: every operation beside its gradient, on NumPy and CuPy arrays."""
