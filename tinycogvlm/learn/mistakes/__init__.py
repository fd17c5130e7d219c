"""Known mistakes, each a small function; a file for each part of the course."""
from . import arrays, attention, experts, language
from .table import MISTAKES

__all__ = ["MISTAKES", "arrays", "attention", "experts", "language"]
