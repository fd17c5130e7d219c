"""Self-distillation: what a language model says of a name, it learns to say of the picture that takes the name's place.

The student reads "[picture] What does it eat?", the teacher, the same frozen model, "What do cows eat?". The student
is to give the teacher's answer, token by token the same probabilities. Nobody writes an answer.

With the likeliest token alone as the target, from 14,400 of 24,000 prompts on, a model agreed with the teacher less often
(in .82 of the tokens after 2,500 more, where it had been .84): two tokens are often nearly as likely, and a picture that is
misread then teaches something else.
"""
from copy import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ...evaluate import teacher
from ...inputs import examples, prompt
from ...inputs.tokenizer import Tokenizer
from ...model.cogvlm import CogVLM
from ...model.config import Config
from ...nn import ops
from ...nn.arrays import namespace, wide
from ...nn.tree import Gradients
from ...world.real_words import FIRST, ONE, SCENES, SIDES, TOGETHER, WORDINGS, query
from ...world.scenes import KINDS, Dice
from ...world.sketches import NAMES

ABOUT = (ONE,) * 6 + (SIDES,) * 2 + (TOGETHER,) * 2         # what queries are about, by turns at random
TRAINED = tuple(wording for wording in WORDINGS if wording.trained)


def told():
    """Everything that the teacher is asked in training"""
    alone = {wording.of(name) for wording in TRAINED if wording.about != TOGETHER
             for name in (NAMES if wording.shapes else KINDS)}
    several = (query("train", FIRST + i, TOGETHER, TRAINED) for i in range(SCENES))
    return alone | {found.told for found in several if found}


def kept(path):
    """The trained wordings whose answers, in the file `path`, tell things apart"""
    known = teacher.read(path)
    alone = tuple(wording for wording in TRAINED if wording.about != TOGETHER)
    return teacher.telling(alone, KINDS, known) + tuple(wording for wording in TRAINED if wording.about == TOGETHER)


@dataclass(frozen=True)
class Data:
    """What another process needs to make batches"""
    config: Config
    tokenizer: str                                          # the path of its file
    answers: str                                            # the path of the teacher's answers
    start: int                                              # tokens before the first question
    batch: int
    first: int = 0                                          # number of the first prompt
    parts: int = 1                                          # of a batch, at most; each of prompts of similar lengths

    def __call__(self, step):
        """The parts of a step, as `loss` takes them: (inputs, positions, (rows, columns), ids, best, shares)"""
        made = [self.example(self.first + step * self.batch + i) for i in range(self.batch)]
        return [part_of(*zip(*part), self.start, self.config.pad_token_id)
                for part in examples.parts(made, self.parts, lambda one: one[0].ids.shape[1] + len(one[1][0]))]

    def example(self, number):
        """Prompt `number` and the teacher's answer"""
        dice = Dice("eyes", number)
        while True:
            about = dice.choice(ABOUT)
            found = query("train", FIRST + (dice.below(SCENES) if about == TOGETHER else SCENES + dice.below(1 << 24)),
                          about, wordings_kept(self.answers))
            if found:
                return row(self.config, tokenizer_of(self.tokenizer, self.config), found.scene.picture, found.seen), \
                    teacher.read(Path(self.answers))[found.told]


@cache
def tokenizer_of(path, config):
    return Tokenizer.load(path, config)


@cache
def wordings_kept(path):
    return kept(Path(path))


def row(config, tokenizer, picture, question):
    """The prompt of a question about a picture: Inputs"""
    return prompt.build(config, tokenizer, prompt.text(prompt.OWN, question, None, tokenizer, [picture]))


def part_of(rows, said, start, pad_id):
    """Prompts and answers [(ids, best, shares)] as one batch, padded on the right, without the start that all share"""
    inputs, positions, at = teacher.answered(rows, [ids for ids, _, _ in said], start, pad_id)
    ids, best, shares = (np.concatenate([np.asarray(answer[i]) for answer in said]) for i in range(3))
    return inputs, positions, at, ids, best, shares


class Task:
    """A model with eyes to be learned: `loss` is what loop.fit takes, with the leaves of `own` alone."""

    def __init__(self, model, own):
        self.model, self.own = model, own
        self.start = teacher.Start(model)
        self.frozen = [name for name in model.parameters if name not in own]
        self.none = Gradients(model.parameters, self.frozen)            # which has matched all names with all others

    def with_leaves(self, leaves):
        """The model with these arrays in the place of its own"""
        return CogVLM(self.model.config, {**self.model.leaves, **leaves}, self.model.tokenizer, self.model.rotary)

    def logits(self, model, part):
        """The logits (n, V) of the answers' tokens, and their pullback"""
        inputs, positions, (rows, columns), *_ = part
        cache = self.start.copied(*inputs.ids.shape)
        h, pull_hidden = model.hidden(inputs, cache, positions)
        logits, pull_head = ops.linear(h[rows, columns], model.leaves[f"{model.config.head}.weight"])

        def pull(dlogits, g):
            dh = namespace(h).zeros_like(h)
            dh[rows, columns] = pull_head(dlogits, g[model.config.head])
            pull_hidden(dh, g)
        return logits, pull

    def loss(self, leaves, part):
        model, (*_, ids, best, shares) = self.with_leaves(leaves), part
        logits, pull_logits = self.logits(model, part)
        value, pull_loss = soft_cross_entropy(logits, best, shares)

        def pull():
            g = copy(self.none)
            g.leaves = {}
            pull_logits(pull_loss(), g)
            return g.leaves
        return value, len(ids), pull, {"hit": (logits.argmax(-1) == ids).mean()}


def soft_cross_entropy(logits, best, shares):
    """loss = mean of -sum_k p_k log softmax(logits)[best_k]       logits (n, V), best and shares p (n, K) -> scalar

    Hinton et al. 2015 (arXiv 1503.02531), at the temperature 1; the shares of each row sum to 1.
    """
    xp, x = namespace(logits), wide(logits)
    best, shares = xp.asarray(best), xp.asarray(shares, dtype=x.dtype)
    shares = shares / shares.sum(-1, keepdims=True)
    log_p = x - x.max(-1, keepdims=True)
    log_p -= xp.log(xp.exp(log_p).sum(-1, keepdims=True))
    value = -(shares * xp.take_along_axis(log_p, best, -1)).sum(-1).mean()

    def pull(dloss=1.0):
        dlogits = xp.exp(log_p)
        at = xp.arange(len(best))[:, None]
        dlogits[at, best] -= shares                         # the K best tokens of a row differ from each other
        return (dlogits * (dloss / len(best))).astype(logits.dtype, copy=False)
    return value, pull
