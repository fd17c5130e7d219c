"""A small CogVLM that learns through the learner's loss, gradients and AdamW, beside its twin with the package's.

It describes pictures of 16 x 16 pixels, such as "upper left red disc lower left blue cross lower right green ring". Both
start from the same weights and see the same pictures, so the two curves are one as long as the functions do the same.
"""
import math
import time
from contextlib import contextmanager, nullcontext

import numpy as np

from ..errors import UserError
from ..inputs.prompt import Inputs, images
from ..model.cogvlm import CogVLM
from ..model.config import Config, VisionConfig
from ..model.parts import POSITIONS
from ..nn import ops
from ..nn.tree import Gradients
from ..train.loop.optimizer import cosine, decays
from ..train.miniatures import pictures
from ..train.recipe.initial import by_inputs, sines
from . import parts
from .lessons import EXERCISES

STEPS, SECONDS = 500, 120                                   # training ends after whichever comes first
BATCH, RATE, WARMUP, DECAY = 32, 4e-3, 20, 0.05
FRESH = 200                                                 # pictures that are described after training
EARLY, ALIKE = 20, 1e-3         # losses of so many steps are compared, relative: later ones also differ by rounding
BOS = pictures.VOCABULARY
CONFIG = Config(BOS + 1, 64, 128, 2, 4, 4, VisionConfig(32, 1, 2, 64, pictures.CELL, pictures.SIDE), bos_token_id=BOS,
                eos_token_id=pictures.END, pad_token_id=BOS)
CALLED = "next_token_loss", "adamw"                         # by the step itself; the others run in the place of an op
GRADIENTS = {                                               # {exercise: the functions whose pullback it is}
    "linear_gradients": ("linear",), "rms_norm_gradients": ("rms_norm",), "swiglu_gradients": ("swiglu",),
    "rotary_gradient": ("rotary",), "attention_gradients": ("attention", "causal_attention"),
    "cross_entropy_gradient": ()}
PIECES = [*GRADIENTS, *CALLED]


def pieces(own):
    """{exercise: Counted} of the learner's functions that a training step runs through; own: course.Mine

    Forward functions are among them, but only with their gradient: they have no pullback by themselves.
    """
    found = parts.mine(own, names=PIECES)
    forward = [name for gradient in GRADIENTS if gradient in found for name in GRADIENTS[gradient]]
    return parts.mine(own, names=[*PIECES, *forward])


def compare(functions, beat=lambda: None):
    """Train through {exercise: Counted}, and beside it through the package's functions -> what came out

    {"mine", "package": the loss of each step, "steps": how many there should be, "right": how many of the fresh pictures
    either describes without a mistake, "of": how many there are, "example": the caption of one, and what either says}.
    beat() is called now and then. What the functions raise is a LearnerError; a loss that is no number ends their training.
    """
    mine, package, end = Training(functions), Training({}), time.monotonic() + SECONDS
    for step in range(STEPS):
        if mine.finite():
            mine.step(step)
        package.step(step)
        if step % EARLY == 0:
            beat()
        if time.monotonic() > end:
            break
    pixels, captions = batch(STEPS, FRESH)
    found = [one.described(pixels) if one.finite() else None for one in (mine, package)]
    right = [0 if ids is None else int((ids == captions).all(1).sum()) for ids in found]
    example = [None if ids is None else words(ids[0]) for ids in (captions, *found)]
    return {"mine": mine.losses, "package": package.losses, "steps": STEPS, "right": right, "of": FRESH,
            "example": example}


def alike(mine, package):
    """Whether two curves begin alike, up to rounding"""
    return len(mine) == len(package) and bool(np.allclose(mine[:EARLY], package[:EARLY], rtol=ALIKE, atol=0))


class Training:
    """A model, its AdamW, and the losses of its steps. functions: {exercise: Counted}; the package's are the others."""

    def __init__(self, functions):
        self.functions, self.losses, self.leaves = functions, [], initial()
        self.loss, self.adamw = (functions.get(name) or EXERCISES[name].package for name in CALLED)
        self.moments = {name: (np.zeros_like(w), np.zeros_like(w)) for name, w in self.leaves.items()}

    @contextmanager
    def through(self):
        """Inside the `with`, the model computes through the functions."""
        quiet = parts.explained(self.functions) if self.functions else nullcontext()
        with np.errstate(all="ignore"), quiet, parts.installed(self.functions):
            yield CogVLM(CONFIG, self.leaves)

    def finite(self):
        return all(map(math.isfinite, self.losses[-1:]))

    def step(self, step):
        """The whole of step 0, 1, ...: forward, loss, backward, update"""
        inputs = read(*batch(step))
        labels = np.where(inputs.types == 0, inputs.ids, -100)[:, 1:]                       # (B, T - 1)
        with self.through() as model:
            h, pull_hidden = model.hidden(inputs)
            logits, pull_head = ops.linear(h, self.leaves["lm_head.weight"])                # (B, T, V)
            self.losses.append(float(self.loss(logits=logits, ids=inputs.ids, types=inputs.types)))
            predicting = logits[:, :-1]
            _, pull_loss = ops.cross_entropy(predicting.reshape(labels.size, -1), labels.reshape(-1))
            g, dlogits = Gradients(model.parameters), np.zeros_like(logits)
            dlogits[:, :-1] = pull_loss().reshape(predicting.shape)
            pull_hidden(pull_head(dlogits, g.lm_head), g)
            self.update(g.leaves, step + 1)

    def update(self, gradients, step):
        rate = cosine(step, STEPS, RATE, WARMUP)
        for name, gradient in gradients.items():
            w, (m, v) = self.leaves[name], self.moments[name]
            expect(f"the gradient of {name}", gradient, w)
            w, m, v = self.adamw(w=w, g=gradient, m=m, v=v, step=step, rate=rate, betas=(0.9, 0.98), eps=1e-8,
                                 decay=DECAY if decays(name, w) else 0.0)
            for what, array in ("w", w), ("m", m), ("v", v):
                expect(f"{what} of {name} after adamw", array, gradient)
            self.leaves[name], self.moments[name] = w, (m, v)

    def described(self, pixels):
        """ids (B, T) of the captions that the model writes, each word the likeliest"""
        ids = np.zeros((len(pixels), 0), int)
        with self.through() as model:
            for _ in range(pictures.LENGTH):
                logits = model.logits(read(pixels, ids), last=True)                         # (B, 1, V)
                ids = np.concatenate([ids, logits.argmax(-1)], 1)
        return ids


def expect(what, array, like):
    if np.shape(array) != like.shape:
        raise UserError(f"{what} has the shape {np.shape(array)}; it should be {like.shape}")


def initial():
    """Weights before training; the head's are small, so that at first every word is as likely as any other."""
    shapes = {name: shape for name, shape in CONFIG.shapes().items() if not name.endswith("inv_freq")}
    leaves = by_inputs(shapes, np.random.default_rng(0))
    leaves[POSITIONS][1:] = sines(CONFIG.vision)
    leaves["lm_head.weight"] *= np.float32(0.1)
    return leaves


def batch(step, count=BATCH):
    """pixels (B, 3, S, S) and the ids (B, T) of their captions, others in every step"""
    return pictures.pairs(np.random.default_rng([step, count]), count)


def read(pixels, captions):
    """What the model reads: bos, the picture, as much as there is of its caption"""
    B, T = captions.shape
    before = np.full((B, 1 + CONFIG.num_image_tokens), BOS)
    types = np.tile(np.repeat([0, 1, 0], [1, CONFIG.num_image_tokens, T]), (B, 1))
    return Inputs(np.concatenate([before, captions], 1), types, np.ones_like(types), images(pixels))


def words(ids):
    return " ".join(pictures.WORDS[i] for i in ids if i < pictures.END)
