"""tinycogvlm: CogVLM, the vision-language model with a visual expert in every layer, from scratch in NumPy and CuPy."""
from .errors import UserError
from .load import load
from .model import CogVLM

__all__ = ["CogVLM", "UserError", "load"]
