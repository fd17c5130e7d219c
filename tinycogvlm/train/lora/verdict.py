"""Whether more training would help: told by the losses of the lines, those learned and those held out."""
from . import questions

MOST = 32                                                   # lines of either sort whose loss is computed
KNOWN = 0.02                                                # a loss below this is that of lines known by heart
FALLEN = 0.9                                                # in the second half of a training a loss falls below this share


class Watch:
    """Measures both losses on the way, for loop.fit's `watch`; `verdict` says in the end what they mean."""

    def __init__(self, learned, held):
        self.lines = {"loss of learned lines": learned[:MOST], "loss of held-out lines": held[:MOST]}
        self.losses = []                                    # of the learned lines

    def __call__(self, model):
        found = {name: round(questions.loss(model, lines), 4) for name, lines in self.lines.items() if lines}
        known_before = known(self.losses)
        self.losses.append(found["loss of learned lines"])
        if known(self.losses) and not known_before:
            found["verdict"] = verdict(self.losses)
        return found


def known(losses):
    return any(loss < KNOWN for loss in losses)


def verdict(losses):
    """What the losses of the learned lines, measured at equal distances, say about more training"""
    last, middle = losses[-1], losses[(len(losses) - 1) // 2]
    if last < KNOWN:
        return (f"nothing more can be learned from these lines, which are known by heart (loss {last}); "
                "if held-out answers are wrong, more pictures help")
    if len(losses) > 2 and last > FALLEN * middle:
        return (f"nothing more can be learned this way: the loss of the learned lines is {last} and was {middle} in the "
                "middle; clearer pictures, or other --targets, --rank or --rate, may help")
    return f"more can be learned: the loss of the learned lines was still falling, {last} now; more --samples help"
