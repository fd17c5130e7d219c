"""What a comparison is: which variants learn which questions, what is measured, and what the papers claim of them."""
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """A paper's claim that one variant is better than another in a measure: "loss", "loss on KIND", or a kind of question"""
    better: str
    worse: str
    measure: str = "loss"
    says: str = ""                                          # in words, and who says it


def nothing(variant, model):
    return {}


@dataclass(frozen=True)
class Comparison:
    """Variants that learn the same questions about the same pictures, from the same start."""
    title: str
    variants: tuple
    reference: str                                          # the variant that all others are compared with
    claims: tuple
    samples: int                                            # pictures of each run
    kinds: tuple = ("caption", "box", "at box", "grounded")     # of questions that are learned
    measured: tuple = ("caption", "box", "at box")          # of questions whose answers are judged, "box at 0.75" too
    losses: tuple = ()                                      # of questions; the loss on their true answers is measured
    curve: bool = False                                     # whether they are judged on the way, too, not only at the end
    panels: tuple = (                                       # of the curves' figure: (measure, what it is drawn over)
        ("loss", "samples"), ("loss", "TFLOP of training"), ("at box", "TFLOP of training"))
    turns: int = 4                                          # questions about a picture
    things: tuple = (1, 2)                                  # in a picture: fewest, most
    timed: str = "caption"                                  # the kind of questions whose answers are timed
    also: Callable = nothing                                # (variant, model) -> {measure: share}, measured at the end

    @property
    def asked(self):
        """The kinds of questions that are asked to measure"""
        return tuple(dict.fromkeys(measure.partition(" at 0.")[0] for measure in self.measured))
