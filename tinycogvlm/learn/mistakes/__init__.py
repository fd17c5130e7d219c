"""Known mistakes, each a small function; a file for each part of the course."""
from . import (ablation, arrays, attention, boxes, contrast, experts, kernels, language, pictures, sequence, tokens,
               training, vision)
from .table import MISTAKES

__all__ = ["MISTAKES", "ablation", "arrays", "attention", "boxes", "contrast", "experts", "kernels", "language",
           "pictures", "sequence", "tokens", "training", "vision"]
