"""tinycogvlm: CogVLM, the vision-language model with a visual expert in every layer, from scratch in NumPy and CuPy."""
from .errors import UserError
from .loading import load
from .model.cogvlm import CogVLM

__all__ = ["CogVLM", "UserError", "load"]
