"""The paper's argument for the visual expert, at equal numbers of trained parameters: p-tuning, LoRA, the expert.

CogVLM's paper compares ways to align pictures with a frozen language model to ways of fine-tuning: what only passes
through the input is like p-tuning, learned vectors before the text (Liu et al. 2021, arXiv 2103.10385); what changes
every layer is like LoRA (Hu et al. 2021, arXiv 2106.09685), which does better. Here all three are trained on top of the
same adapter. In p-tuning the vectors are made by a small network, so that they can have as many parameters as wanted.
"""
import math
from dataclasses import dataclass, replace

import numpy as np

from ...inputs.examples import NOTHING
from ...model.cogvlm import CogVLM
from ...model.decoder import Rotary
from ...model.parts import EXPERTS, INV_FREQ, LANGUAGE, TOWER
from ...model.route import position_ids
from ...nn import ops
from ...nn.tree import Params, below, matches
from ...relatives.transformer import dense, dense_shapes
from ...storage import lora
from ..recipe.initial import CONFIG, by_inputs, copies, twins
from .comparison import Claim, Comparison
from .variants import Variant

PROMPTS = "prompts"                                         # the group of p-tuning's parameters
MATRICES = "*.language_expert_*.weight", "*.language_mlp.*.weight"      # of the language model's blocks: LoRA's targets


class Prompted(CogVLM):
    """A CogVLM before whose every sequence stand learned vectors, at the position of bos, which all tokens see."""

    def prompts(self):
        """(K, D) = f(E W_1^T + b_1) W_2^T + b_2, and pull(dy, g)"""
        p = Params(self.leaves)[PROMPTS]
        h, pull_first = dense(p.table, p, "first.")
        a, pull_gelu = ops.gelu(h)
        y, pull_second = dense(a, p, "second.")

        def pull(dy, g):
            dtable = pull_first(pull_gelu(pull_second(dy, g)), g)
            g.add("table", lambda: dtable)
        return y, pull

    @property
    def count(self):
        return len(self.leaves[f"{PROMPTS}.table"])

    def new_cache(self, batch, capacity):
        return super().new_cache(batch, capacity + self.count)

    def hidden(self, inputs, cache=None, positions=None, keep="all"):
        if cache is not None and cache.length:              # they are in the cache
            return super().hidden(inputs, cache, positions, keep)
        K = self.count
        positions = position_ids(inputs.types, inputs.mask) if positions is None else np.asarray(positions)
        before = lambda array, value: np.pad(array, ((0, 0), (K, 0)), constant_values=value)
        longer = replace(inputs, ids=before(inputs.ids, 0), types=before(inputs.types, 0), mask=before(inputs.mask, 1))
        h, pull_hidden = super().hidden(longer, cache, before(positions, 0), keep)

        def pull(dh, g):
            whole = np.zeros(h.shape, dh.dtype)
            whole[:, K:] = dh
            pull_hidden(whole, g)
        return h[:, K:], pull

    def embed(self, inputs, route, keep="all"):
        x, pull_embed = super().embed(inputs, route, keep)
        if route.first:
            return x, pull_embed
        x[:, :self.count], pull_prompts = self.prompts()

        def pull(dx, g):
            pull_prompts(dx[:, :self.count].sum(0), g[PROMPTS])
            dx[:, :self.count] = 0
            pull_embed(dx, g)
        return x, pull


@dataclass(frozen=True)
class Prompts(Variant):
    """The adapter, and learned vectors before the text; the experts stay copies"""
    frozen: tuple = TOWER + LANGUAGE + EXPERTS
    count: int = 32                                         # vectors
    inside: int = 0                                         # width of the network that makes them

    def begin(self, config, leaves, seed):
        D = config.hidden_size
        shapes = {"table": (self.count, D), **dense_shapes("first", self.inside, D),
                  **dense_shapes("second", D, self.inside)}
        return super().begin(config, leaves, seed) | by_inputs(below(PROMPTS, shapes), np.random.default_rng(seed))

    def model(self, config, leaves, tokenizer=None):
        return Prompted(config, leaves, tokenizer, Rotary(leaves[INV_FREQ]))


@dataclass(frozen=True)
class LowRank(Variant):
    """The adapter, and LoRA on every matrix of the language model's blocks, which image tokens share"""
    rank: int = 0

    def begin(self, config, leaves, seed):
        return leaves | self.adapter(leaves, seed).leaves

    def adapter(self, leaves, seed=0):
        """The lora.Adapter among the leaves, or a new one"""
        plain = {name: array for name, array in leaves.items() if not name.endswith((lora.A, lora.B))}
        new = lora.start(plain, MATRICES, self.rank, alpha=2.0 * self.rank, seed=seed)
        return lora.Adapter({name: leaves.get(name, array) for name, array in new.leaves.items()}, new.rank, new.alpha)

    def model(self, config, leaves, tokenizer=None):
        adapter = self.adapter(leaves)
        merged = lora.merge({name: leaves[name] for name in leaves if name not in adapter.leaves}, adapter)
        return CogVLM(config, merged | copies(merged), tokenizer, Rotary(leaves[INV_FREQ]))

    def loss(self, config, leaves, part):
        (inputs, labels), model, adapter = part, self.model(config, leaves), self.adapter(leaves)
        others = [name for name in leaves if matches(name, TOWER + LANGUAGE) and name not in set(adapter.targets)]
        value, pull = model.loss(inputs, labels, others)

        def pull_both():
            gradients = pull()
            for vision, language in twins(gradients).items():
                gradients[language] = gradients[language] + gradients.pop(vision)
            thin = lora.gradients(adapter, {name: gradients.pop(name) for name in adapter.targets})
            return gradients | thin
        return value, int((labels != NOTHING).sum()), pull_both, {}


def of_equal_size(config):
    """The three variants, with as many trained parameters as the visual expert of this geometry has"""
    shapes = config.shapes()
    expert = {name: shape for name, shape in shapes.items() if matches(name, EXPERTS)}
    wanted = sum(map(math.prod, expert.values()))
    D = config.hidden_size
    rank = round(wanted / sum(sum(shapes[twin]) for twin in twins(expert).values()))
    inside = round((wanted - Prompts.count * D - D) / (2 * D + 1))
    return (Variant("full", "visual expert"), LowRank("lora", f"LoRA of rank {rank}", rank=rank),
            Prompts("p-tuning", f"p-tuning, {Prompts.count} vectors", inside=inside))


CLAIMS = (Claim("full", "p-tuning", says="to change every layer is better than to add to the input (CogVLM)"),
          Claim("lora", "p-tuning", says="to change every layer is better than to add to the input (CogVLM)"))
COMPARISON = Comparison("The visual expert, LoRA and p-tuning, with as many trained parameters", of_equal_size(CONFIG),
                        "full", CLAIMS, samples=6000)
