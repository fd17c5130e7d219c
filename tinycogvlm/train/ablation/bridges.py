"""Which bridge between tower and language model? Twelve at equal budget, tower and language model frozen.

    all 64 tokens       linear, MLP (LLaVA), GLU (CogVLM)
    a quarter, 16       2 x 2 convolution (CogVLM2), average pool (MM1), pixel shuffle (InternVL), C- and D-Abstractor
                        (Honeybee), LDP v1 and v2 (MobileVLM), Q-Former (BLIP-2), Perceiver resampler (Flamingo)

Three of them stand before visual experts, too. Another bridge is a function and a line of BRIDGES.
"""
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial

import numpy as np

from ...model import adapter
from ...model.cogvlm import CogVLM
from ...model.config import Config
from ...model.decoder import Rotary
from ...model.parts import ADAPTER, EXPERTS, INV_FREQ, LANGUAGE, TOWER
from ...model.vit import vit
from ...nn.swap import swapped
from ...nn.tree import below, matches
from ...relatives import connectors, flamingo, qformer
from ...relatives.bert import Bert
from ...relatives.transformer import dense, dense_shapes
from ..recipe.initial import by_inputs, copies
from .comparison import Claim, Comparison
from .variants import Variant


# ----------------------------------------------------------------------------- the bridges: {name: shape}, layer(x, p)

def linear(config):
    return dense_shapes("proj", config.hidden_size, config.vision.hidden_size), partial(dense, prefix="proj.")


def mlp(config):
    names = "fc1", "fc2"
    shapes = connectors.mlp_shapes(names, config.vision.hidden_size, config.hidden_size)
    return shapes, partial(connectors.mlp, names=names)


def glu(config):
    start = "linear_proj."
    shapes = {name.removeprefix(start): shape for name, shape in adapter.shapes(config).items()
              if name.startswith(start)}
    return shapes, adapter.glu


def convolution(config):
    (shapes, _), W = glu(config), config.vision.hidden_size

    def layer(x, p):
        few, pull_conv = adapter.convolution(x, p.conv)
        y, pull_glu = adapter.glu(few, p)
        return y, lambda dy, g: pull_conv(pull_glu(dy, g), g.conv)
    return shapes | {"conv.weight": (W, W, 2, 2), "conv.bias": (W,)}, layer


def average_pool(config):
    W, D, n = widths(config)
    geometry = connectors.Pool(W, D, (n, n), (n // 2, n // 2), 2)
    return dense_shapes("proj", D, W), partial(connectors.pooled, config=geometry)


def pixel_shuffle(config):
    W, D, n = widths(config)
    geometry = connectors.Shuffle(W, D, n, 2, (n, n))
    shapes = connectors.shuffle_shapes(geometry)
    return ({name: shape for name, shape in shapes.items() if name.startswith("mlp1.")},
            partial(connectors.internvl, config=geometry))


def c_abstractor(config):
    W, D, n = widths(config)
    geometry = connectors.CAbstractor(W, W, D, 1, 2, n, n // 2, 0, positions=True, prenorm=False)
    return connectors.c_abstractor_shapes(geometry), partial(connectors.c_abstractor, config=geometry)


def d_abstractor(config):
    W, D, n = widths(config)
    geometry = connectors.DAbstractor(W, W, D, 2, config.vision.num_heads, 4, 2 * W, n, n // 2, 0, True, "query",
                                      "relu", connectors.NORM_EPS)
    return connectors.d_abstractor_shapes(geometry), partial(connectors.d_abstractor, config=geometry)


def ldp_v1(config):
    W, D, n = widths(config)
    geometry = connectors.LDP(W, D, n)
    return connectors.ldp_v1_shapes(geometry), partial(connectors.ldp_v1, config=geometry)


def ldp_v2(config):
    W, D, n = widths(config)
    geometry = connectors.LDP(W, D, n, n // 2)
    return connectors.ldp_v2_shapes(geometry), partial(connectors.ldp_v2, config=geometry)


def q_former(config):
    W, D, n = widths(config)
    blocks = Bert(W, 4 * W, 2, config.vision.num_heads, 1e-12, "gelu", "attention")
    geometry = qformer.Bridge(qformer.QFormer(blocks, W, every=1, text=False), n * n // 4, D)
    return qformer.bridge_shapes(geometry), partial(qformer.bridge, config=geometry)


def resampler(config):
    """Flamingo's: of two layers, for a quarter of the tokens"""
    W, _, n = widths(config)
    heads = config.vision.num_heads
    return flamingo.Resampler(W, 2, heads, W // heads, n * n // 4, 4 * W, "gelu", flamingo.OF_OPEN_FLAMINGO)


def perceiver(config):
    W, D, _ = widths(config)
    geometry = resampler(config)

    def layer(x, p):
        few, pull_few = flamingo.resampler(x, p.resampler, geometry)
        y, pull = dense(few, p, "proj.")
        return y, lambda dy, g: pull_few(pull(dy, g), g.resampler)
    return below("resampler", flamingo.resampler_shapes(geometry)) | dense_shapes("proj", D, W), layer


def widths(config):
    """The tower's width, the language model's, patches a side"""
    return config.vision.hidden_size, config.hidden_size, config.vision.grid


@dataclass(frozen=True)
class Bridge:
    says: str
    make: Callable                                          # Config -> {name: shape}, layer(x, p) -> y, pull(dy, g)
    side: int = 2                                           # of the square of patches that become one token


BRIDGES = {
    "linear": Bridge("linear layer (LLaVA)", linear, 1),
    "mlp": Bridge("MLP (LLaVA-1.5)", mlp, 1),
    "glu": Bridge("GLU (CogVLM)", glu, 1),
    "convolution": Bridge("2 x 2 convolution, GLU (CogVLM2)", convolution),
    "average-pool": Bridge("average pool, linear layer (MM1)", average_pool),
    "pixel-shuffle": Bridge("pixel shuffle, MLP (InternVL)", pixel_shuffle),
    "c-abstractor": Bridge("C-Abstractor (Honeybee)", c_abstractor),
    "d-abstractor": Bridge("D-Abstractor (Honeybee)", d_abstractor),
    "ldp-v1": Bridge("LDP (MobileVLM)", ldp_v1),
    "ldp-v2": Bridge("LDP v2 (MobileVLM V2)", ldp_v2),
    "q-former": Bridge("Q-Former (BLIP-2)", q_former),
    "perceiver": Bridge("Perceiver resampler (Flamingo)", perceiver),
}


def first_bridge(config, bridge, seed):
    """The parameters {name: float32 array} that a bridge starts from

    A D-Abstractor's queries start on a grid and look straight around it, each head in a direction of its own and each
    point one pixel farther: Zhu et al. 2020 (arXiv 2010.04159), appendix A.4.
    """
    leaves = by_inputs(BRIDGES[bridge].make(config)[0], np.random.default_rng(seed))
    if "reference_points" in leaves:
        n, heads = config.vision.grid // 2, config.vision.num_heads
        y, x = (np.mgrid[:n, :n].reshape(2, -1) + 0.5) / n
        leaves["reference_points"] = np.stack([x, y], -1)[None].astype(np.float32)
        angle = 2 * np.pi * np.arange(heads) / heads
        way = np.stack([np.cos(angle), np.sin(angle)], -1)
        steps = way[:, None] / abs(way).max(1)[:, None, None] * np.arange(1, 5)[:, None]        # (heads, points, 2)
        for name in leaves:
            if name.endswith(("sampling_offsets.weight", "attention_weights.weight")):
                leaves[name] = np.zeros_like(leaves[name])
            elif name.endswith("sampling_offsets.bias"):
                leaves[name] = steps.reshape(-1).astype(np.float32)
    return leaves


# --------------------------------------------------------------------------------------------------- models with them

@dataclass(frozen=True)
class Joined(Config):
    """A Config whose pictures take another number of tokens, and whose blocks may have no visual expert"""
    patches: int = 64
    with_experts: bool = False

    @property
    def num_patches(self):
        return self.patches

    @property
    def experts(self):
        return ("vision", "language") if self.with_experts else ("language",)


def joined(config, patches, with_experts=False):
    """A Config with pictures of so many tokens, boi and eoi not counted"""
    return Joined(**{field.name: getattr(config, field.name) for field in fields(Config)}, patches=patches,
                  with_experts=with_experts)


class Seeing(CogVLM):
    """A CogVLM whose pictures become tokens in another way: see(pixels, p, config) -> (N, tokens, D), pull(dy, g)"""

    def __init__(self, see, *arguments, **named):
        super().__init__(*arguments, **named)
        self.see = see

    def media_rows(self, *arguments, **named):
        def image_tokens(pixels, p, config, keep="all"):
            x, pull_see = self.see(pixels, p, config)
            y, pull_ends = adapter.between_ends(x, p)
            return y, lambda dy, g: pull_see(pull_ends(dy, g), g)
        with swapped({adapter.image_tokens: image_tokens}):
            return super().media_rows(*arguments, **named)


@dataclass(frozen=True)
class Bridged(Variant):
    """A bridge between the frozen tower and the language model; with experts, those are trained as well."""
    bridge: str = "glu"
    experts: bool = False

    def config(self, config):
        return joined(config, (config.vision.grid // BRIDGES[self.bridge].side) ** 2, self.experts)

    def begin(self, config, leaves, seed):
        leaves = leaves | copies(leaves) if self.experts else without(leaves, EXPERTS)
        return without(leaves, ADAPTER[:2]) | below("model.vision.bridge", first_bridge(config, self.bridge, seed))

    def model(self, config, leaves, tokenizer=None):
        _, layer = BRIDGES[self.bridge].make(config)

        def see(pixels, p, config):
            features, _ = vit(pixels, p, config.vision, keep=None)
            y, pull = layer(features, p.bridge)
            return y, lambda dy, g: pull(dy, g.bridge)
        return Seeing(see, config, leaves, tokenizer, Rotary(leaves[INV_FREQ]))


def without(leaves, patterns):
    """The parameters that match none of the patterns"""
    return {name: array for name, array in leaves.items() if not matches(name, patterns)}


WITH_EXPERTS = ("glu", "convolution", "q-former")
VARIANTS = (*(Bridged(name, bridge.says, bridge=name) for name, bridge in BRIDGES.items()),
            *(Bridged(f"{name}+experts", f"{BRIDGES[name].says}, with visual experts", TOWER + LANGUAGE, bridge=name,
                      experts=True) for name in WITH_EXPERTS))
CLAIMS = (
    Claim("mlp", "linear", says="an MLP connects better than a linear layer (LLaVA-1.5)"),
    Claim("pixel-shuffle", "average-pool", "loss on read", "pixel shuffle keeps what an average loses (InternVL)"),
    Claim("pixel-shuffle", "average-pool", says="pixel shuffle keeps what an average loses (InternVL)"),
    Claim("pixel-shuffle", "ldp-v2", says="pixel shuffle keeps what an average loses, an MLP in both (InternVL)"),
    Claim("c-abstractor", "perceiver", "loss on box", "abstractors keep the place that resamplers lose (Honeybee)"),
    Claim("d-abstractor", "perceiver", "loss on box", "abstractors keep the place that resamplers lose (Honeybee)"),
    Claim("c-abstractor", "q-former", "loss on box", "abstractors keep the place that resamplers lose (Honeybee)"),
    Claim("ldp-v2", "average-pool", "loss on box",
          "a depthwise convolution gives pooled tokens their place back (MobileVLM V2, which has an MLP, too)"),
    Claim("ldp-v2", "ldp-v1", says="pooling and a convolution do better than strided blocks (MobileVLM V2)"),
    Claim("glu", "convolution", says="more tokens are better than fewer (MM1)"),
    Claim("glu+experts", "glu", says="deep fusion is better than a bridge alone (CogVLM)"),
    Claim("convolution+experts", "convolution", says="deep fusion is better than a bridge alone (CogVLM)"),
    Claim("q-former+experts", "q-former", says="deep fusion is better than a bridge alone (CogVLM)"),
)
COMPARISON = Comparison("Which bridge between tower and language model?", VARIANTS, "mlp", CLAIMS, samples=6_000,
                        kinds=("caption", "box", "at box", "grounded", "read"),
                        measured=("caption", "box", "box at 0.75", "at box", "read"), losses=("caption", "box", "read"))
