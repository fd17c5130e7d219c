"""Old skills beside a new task: drawn scenes to go on learning from (--mix), and how well they are still told.

What is not asked in training is forgotten. The old scenes are those of the bundled model's last stage, drawn anew.
"""
from dataclasses import replace

from ...errors import UserError
from ...evaluate import accuracy
from ..recipe.stages import PER_STAGE, STAGES

LAST = [*STAGES][-1]
KINDS, ASKED = ("caption", "box", "count"), 40              # the questions of `measure`, and how many of each


def scenes(config, tokenizer):
    """A stage whose `example(number)` is a scene that no stage has shown, with its questions; tokenizer: its path"""
    if not config.vision:
        raise UserError("--mix draws pictures, but this model does not see")
    return replace(STAGES[LAST], first=7 * PER_STAGE, samples=PER_STAGE, things=((1.0, (1, 6)),), config=config,
                   sides=((1.0, config.vision.image_size),), tokenizer_path=tokenizer)


def measure(model):
    """{kind: share of right answers} about sketches of up to four things, of the split `check`"""
    group = next(group for group in accuracy.GROUPS if group.name == "sketches, 1-4 things")
    rows = accuracy.measure(model, "check", ASKED, [group], KINDS)[group.name]
    return {kind: rows[kind]["share"] for kind in KINDS}


def compared(before, now):
    return ", ".join(f"{kind} {before[kind]:.0%} and {now[kind]:.0%}" for kind in before)
