"""The bundled model's geometry, and its weights before training."""
import math

import numpy as np

from ...model.config import Config, VisionConfig
from ...model.decoder import Rotary
from ...model.parts import EMBEDDING, EXPERTS, POSITIONS, twin
from ...nn.tree import matches
from ...world.scenes import SIDE

CONFIG = Config(vocab_size=896, hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6,
                num_key_value_heads=6, max_position_embeddings=1024,
                vision=VisionConfig(hidden_size=192, num_hidden_layers=4, num_heads=6, intermediate_size=768,
                                    patch_size=14, image_size=SIDE))


def initial(config, seed=0):
    """{name: float32 array}: normal with std 0.05, biases 0, norms 1, position table of sines and cosines.

    The embedding starts with std 1, and the matrices that add to the residual stream with 0.05 / sqrt(2 L), as in
    GPT-2: after the first layers a token must still be recognisable, or nothing can be looked up by it.

    A patch's place is known from the position table alone, since all image tokens share one position in the language
    model; a small random table would be drowned out by what the patches show.
    """
    random, leaves = np.random.default_rng(seed), {}
    for name, shape in config.shapes().items():
        if name.endswith("inv_freq"):                       # rounded to float16, as the file will store it
            leaves[name] = Rotary.from_base(config.rope_base, config.head_size).inv_freq.astype(np.float16)
        elif "norm" in name and name.endswith("weight"):
            leaves[name] = np.ones(shape)
        elif name.endswith("bias"):
            leaves[name] = np.zeros(shape)
        else:
            leaves[name] = 0.05 * random.standard_normal(shape)
            if name == EMBEDDING:
                leaves[name] /= 0.05
            elif name.startswith("model.layers") and name.endswith(("expert_dense.weight", "down_proj.weight")):
                leaves[name] /= np.sqrt(2 * config.num_hidden_layers)
    leaves[POSITIONS][1:] = sines(config.vision)
    return {name: array.astype(np.float32) for name, array in leaves.items()}


def by_inputs(shapes, random):
    """{name: float32 array} of any model's {name: shape}: norms 1, biases 0, a matrix normal with std 1 / sqrt(inputs)"""
    leaves = {}
    for name, shape in shapes.items():
        if name.endswith("bias"):
            leaves[name] = np.zeros(shape)
        elif len(shape) == 1 and name.endswith(("weight", "gain")):
            leaves[name] = np.ones(shape)
        else:
            leaves[name] = random.standard_normal(shape) / math.sqrt(max(1, math.prod(shape[1:])))
    return {name: np.asarray(array, np.float32) for name, array in leaves.items()}


def sines(vision):
    """sin and cos of x and y at frequencies from one turn in 6 patches down to almost none: (grid^2, W)

    Vaswani et al. 2017 (arXiv 1706.03762), in two dimensions
    """
    y, x = np.mgrid[:vision.grid, :vision.grid].reshape(2, -1, 1)
    frequency = 100.0 ** -np.linspace(0, 1, vision.hidden_size // 4)
    return np.concatenate([f(place * frequency) for place in (x, y) for f in (np.sin, np.cos)], 1)


def twins(names):
    """{name of a visual expert's tensor: name of its twin in the language model}"""
    return {name: twin(name) for name in names if matches(name, EXPERTS)}


def copies(leaves):
    """The visual expert as a copy of the language model: {name: array}"""
    return {vision: leaves[language] for vision, language in twins(leaves).items()}
