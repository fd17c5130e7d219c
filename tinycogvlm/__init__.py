"""tinycogvlm: CogVLM, the vision-language model with a visual expert in every layer, from scratch in NumPy and CuPy."""
from importlib import import_module

from .errors import UserError

__all__ = ["CogVLM", "UserError", "load"]

HOMES = {"CogVLM": ".model.cogvlm", "load": ".loading"}

TYPE_CHECKING = False                                       # type checkers take it for True
if TYPE_CHECKING:
    from .loading import load
    from .model.cogvlm import CogVLM


def __getattr__(name):
    """Import CogVLM and load, and NumPy with them, when they are first used: the command line starts without them."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(HOMES[name], __name__), name)


def __dir__():
    return sorted({*globals(), *__all__})
