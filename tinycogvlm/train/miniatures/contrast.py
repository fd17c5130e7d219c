"""CLIP's softmax against SigLIP's sigmoid, from batch 4 to batch 256; and SigLIP's bias.

Zhai et al. 2023 (arXiv 2303.15343): the sigmoid loss works at any batch, better than the softmax at small ones, and
its bias must begin at -10. Both pairs of towers here have one block of width 32, and see as many pairs whatever the
batch is, but in the last two rows. Measured: how often the right one of 512 captions is the nearest to its picture.
"""
import numpy as np

from ...nn import more_ops
from ...nn.tree import Gradients, Params
from ...relatives import clip, siglip
from ...relatives.transformer import Transformer
from ..recipe.initial import by_inputs
from . import pictures
from .miniature import Miniature, trained

WIDTH, PATCH, ASKED = 32, 4, 512
SEEN = 40_000                                               # pairs
RATE = {4: 1e-3, 16: 3e-3, 64: 3e-3, 256: 3e-3}             # the better of these two at each batch


def tower(eps, activation, causal=False):
    return Transformer(WIDTH, 4 * WIDTH, 1, 4, eps, activation, causal=causal)


CLIP = clip.Config(clip.ViT(tower(1e-5, "quick_gelu"), PATCH, pictures.SIDE),
                   clip.Text(tower(1e-5, "quick_gelu", causal=True), pictures.VOCABULARY, pictures.LENGTH, pictures.END),
                   WIDTH)
SIGLIP = siglip.Config(tower(1e-6, "gelu_pytorch_tanh"), PATCH, pictures.SIDE, 3, tower(1e-6, "gelu_pytorch_tanh"),
                       pictures.VOCABULARY, pictures.LENGTH, WIDTH)


def start(settings, seed):
    """model module, geometry, parameters before training"""
    module, config = (clip, CLIP) if settings["loss"] == "softmax" else (siglip, SIGLIP)
    leaves = by_inputs(module.shapes(config), np.random.default_rng(seed))
    leaves["logit_scale"] = np.full_like(leaves["logit_scale"], np.log(1 / 0.07 if module is clip else 10))
    if module is siglip:
        leaves["logit_bias"] = np.full(1, settings["bias"], np.float32)
    return module, config, leaves


def learn(run, settings, seed):
    module, config, leaves = start(settings, seed)

    def loss(leaves, batch):
        y, pull_loss = module.loss(*batch, Params(leaves), config)

        def pull():
            g = Gradients(leaves)
            pull_loss(1.0, g)
            return g.leaves
        return y, pull
    batch = settings["batch"]
    after = trained(run, leaves, lambda step: pictures.pairs(np.random.default_rng([seed, step]), batch), loss,
                    settings["seen"] // batch, settings["rate"], batch)
    return {"R@1": recall(module, config, after, seed), "scale": float(np.exp(after["logit_scale"]).item())}


def recall(module, config, leaves, seed):
    """The share of pictures to which, of 512 captions, their own is the nearest"""
    pixels, ids = pictures.pairs(np.random.default_rng([seed, 2 ** 32]), ASKED, distinct=True)
    p = Params(leaves)
    if module is clip:
        image, _ = clip.image_features(pixels, p, config, keep=None)
        text, _ = clip.text_features(ids, p, config, keep=None)
    else:
        image, _ = siglip.image_features(pixels, p.vision_model, config, keep=None)
        text, _ = siglip.text_features(ids, p.text_model, config, keep=None)
    cosines = more_ops.normalise(image)[0] @ more_ops.normalise(text)[0].T
    return float((cosines.argmax(1) == np.arange(ASKED)).mean())


def run(loss, batch, seen=SEEN, bias=-10.0):
    return dict(loss=loss, batch=batch, seen=seen, rate=RATE[batch]) | ({"bias": bias} if loss == "sigmoid" else {})


RUNS = {f"{loss}-{batch}": run(loss, batch) for batch in RATE for loss in ("softmax", "sigmoid")}
RUNS |= {f"{loss}-256-longer": run(loss, 256, 4 * SEEN) for loss in ("softmax", "sigmoid")}
RUNS |= {"sigmoid-16-bias-0": run("sigmoid", 16, bias=0.0)}
CONTRAST = Miniature(
    "contrast", "SigLIP (Zhai et al. 2023): a sigmoid on each pair does as well as a softmax over the batch, better "
    "where batches are small, if its bias begins at -10.", 15, RUNS, learn)
