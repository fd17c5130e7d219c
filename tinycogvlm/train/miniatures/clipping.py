"""NFNet's adaptive gradient clipping: with it, learning rates at which the net diverges without.

Brock et al. 2021 (arXiv 2102.06171): a net without normalisation takes the large learning rates of large batches only
if no unit's gradient is longer than a share of its weights. A small NFNet names the upper left thing of small pictures,
one of 24, by SGD with Nesterov's momentum in batches of 256. The last layer is never clipped, as in the paper.
"""
from dataclasses import replace

import numpy as np

from ...nn import ops
from ...nn.swap import swapped
from ...nn.trace import recording
from ...nn.tree import Gradients, Params
from ...relatives import nfnet
from ..recipe.initial import by_inputs
from . import pictures
from .miniature import Miniature, trained

CLASSES = len(pictures.COLOURS) * len(pictures.SHAPES)
CONFIG = nfnet.Config((8, 8, 16, 16), (32, 64), (2, 3), (0.5, 0.5), (8, 8), 0.5, 128, CLASSES, 0.2, "gelu", 1e-5,
                      floor=False)
STEPS, BATCH, ASKED = 64, 256, 512
RATES, SHARES = (0.05, 0.2, 0.8, 3.2), (0.0, 0.02, 0.1)           # 0: no clipping


def start(seed, config=CONFIG):
    """Parameters before training: every block adds nothing at first, the last layer is small"""
    leaves = by_inputs(nfnet.shapes(config), np.random.default_rng(seed))
    leaves = {name: np.ones_like(array) if name.endswith("gain") else array for name, array in leaves.items()}
    leaves |= {name: np.zeros_like(array) for name, array in leaves.items() if name.endswith("skipinit_gain")}
    return leaves | {"head.fc.weight": 0.1 * leaves["head.fc.weight"]}


def examples(random, count):
    """pixels, and for each picture the number of its first thing's colour and shape"""
    places, colours, shapes = pictures.drawn(random, count)
    return pictures.pixels(random, places, colours, shapes), colours[:, 0] * len(pictures.SHAPES) + shapes[:, 0]


def loss(leaves, batch):
    pixels, labels = batch
    logits, _, pull_net = nfnet.nfnet(pixels, Params(leaves), CONFIG)
    y, pull_loss = ops.cross_entropy(logits, labels)

    def pull():
        g = Gradients(leaves)
        pull_net(pull_loss(1.0), None, g)
        return g.leaves
    return y, pull


def learn(run, settings, seed):
    """The share of right answers; None if the loss became infinite"""
    after = trained(run, start(seed), lambda step: examples(np.random.default_rng([seed, step]), BATCH), loss,
                    settings["steps"], settings["rate"], BATCH, momentum=0.9, longest=1e9, warmup=5,
                    adaptive=settings["share"], unclipped=("head.fc.*",))
    if after is None:
        return {"right": None}
    pixels, labels = examples(np.random.default_rng([seed, 2 ** 32]), ASKED)
    with np.errstate(all="ignore"):
        logits, _, _ = nfnet.nfnet(pixels, Params(after), CONFIG)
    return {"right": float((logits.argmax(-1) == labels).mean())}


RUNS = {f"rate {rate}, {f'clipped at {share}' if share else 'not clipped'}": dict(rate=rate, share=share, steps=STEPS)
        for rate in RATES for share in SHARES}
CLIPPING = Miniature(
    "clipping", "NFNet (Brock et al. 2021): clipping each unit's gradient by its weights makes large rates possible.",
    4, RUNS, learn)


# ------------------------------------------------------------------------------------------------------------ variance

DEEP = replace(CONFIG, widths=(32,), depths=(8,), bottlenecks=(0.5,), groups=(8,), alpha=1.0)


def variances(without=None, seed=0):
    """The variance of each of eight blocks' outputs to noise, before training; all of a block is added, so that it shows

    without: None, "beta", "gamma" or "standardisation", which is left out. Planned is 2 after the first block and 1
    more after each of the others: see nfnet.blocks.
    """
    config, swaps = DEEP, {}
    if without == "gamma":                                  # promised to the weights, which do not have it either
        config = replace(DEEP, gamma_in_weights=True)
        swaps[nfnet.standardised] = lambda weight, gain, _: nfnet.standardised.own(weight, gain, DEEP)
    elif without == "beta":
        swaps[nfnet.block] = lambda x, p, config, stride, beta: nfnet.block.own(x, p, config, stride, 1.0)
    elif without == "standardisation":
        swaps[nfnet.standardised] = lambda weight, gain, _: (weight * gain, None)
    leaves = start(seed, config)
    leaves |= {name: np.ones_like(array) for name, array in leaves.items() if name.endswith("skipinit_gain")}
    noise = np.random.default_rng([seed, 1]).standard_normal((16, 3, 64, 64), np.float32)
    with swapped(swaps), recording() as records:
        nfnet.nfnet(noise, Params(leaves), config)
    return [float(array.var()) for name, array in records.items() if "block" in name]
