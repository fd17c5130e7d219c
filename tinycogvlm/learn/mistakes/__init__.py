"""Known mistakes, each a small function; a file for each part of the course."""
from . import arrays, attention, experts, language  # noqa: F401            they fill the table
from .table import MISTAKES, Mistake, mistake

__all__ = ["MISTAKES", "Mistake", "mistake"]
