"""Has training changed the language model? A hash of its logits shows any change; its losses show how much is lost."""
import hashlib
from functools import lru_cache

from ...inputs import examples
from ...nn.arrays import to_numpy
from ...world.scenes import Dice
from ...world.texts import KINDS_OF_TEXT, text_conversation


@lru_cache(maxsize=4)
def texts(config, tokenizer, count):
    """{kind: (Inputs, labels)} of `count` texts of every kind, always the same ones"""
    made = {}
    for kind in KINDS_OF_TEXT:
        turns = [text_conversation(Dice(f"forgetting {kind}", n), only=(kind,)) for n in range(count)]
        rows = [examples.example(config, tokenizer, None, some) for some in turns]
        made[kind] = examples.batch(rows, config.pad_token_id)
    return made


def text_hash(model):
    """SHA-256 of the logits of some texts: on one machine it changes as soon as a single bit of them does."""
    found = hashlib.sha256()
    for inputs, _ in texts(model.config, model.tokenizer, 4).values():
        found.update(to_numpy(model.logits(inputs)).tobytes())
    return found.hexdigest()


def text_losses(model, count=32):
    """{kind: mean loss of the answers in `count` texts}"""
    made = texts(model.config, model.tokenizer, count)
    return {kind: round(float(model.loss(*batch)[0]), 5) for kind, batch in made.items()}
