"""Recorded tensors of the original code, computed again and compared."""
