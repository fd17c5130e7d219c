"""The language model around the experts: the decoder block, the rotary tables, the key-value cache."""
from dataclasses import dataclass

import numpy as np

from ..nn import ops
from ..nn.arrays import namespace, round_to
from ..nn.swap import op
from ..nn.trace import record
from ..nn.tree import below
from . import expert


def shapes(config):
    """{name: shape} of a block's tensors, below model.layers.<i>"""
    norm = {"weight": (config.hidden_size,)}
    return ({"self_attn.rotary_emb.inv_freq": (config.head_size // 2,)} | expert.shapes(config)
            | below("input_layernorm", norm) | below("post_attention_layernorm", norm))


def block(x, p, route, rope, config, cache=None):
    """A pre-norm decoder block: x + attention(norm(x)), then x + mlp(norm(x))              (B, T, D) -> (B, T, D)

    route, rope, cache: as in expert.attention. The norms are RMSNorm and shared by both experts.
    """
    eps = config.rms_norm_eps
    h, pull_norm1 = ops.rms_norm(x, p.input_layernorm.weight, eps)
    record("input_norm", h)
    a, pull_attention = expert.attention(h, p.self_attn, route, rope, config, cache)
    x1 = ops.residual(x, a)
    h, pull_norm2 = ops.rms_norm(x1, p.post_attention_layernorm.weight, eps)
    record("post_norm", h)
    m, pull_mlp = expert.routed(expert.mlp, h, p.mlp, "mlp", route)
    record("mlp_out", m)
    x2 = ops.residual(x1, m)
    record("out", x2)

    def pull(dx2, g):
        dx1 = dx2 + pull_norm2(pull_mlp(dx2, g.mlp), g.post_attention_layernorm)
        return dx1 + pull_norm1(pull_attention(dx1, g.self_attn), g.input_layernorm)
    return x2, pull


@dataclass(frozen=True)
class Rotary:
    """cos and sin of the rotary embedding's angles, position * inv_freq with inv_freq_i = base^(-2i/d)

    Su et al. 2021 (arXiv 2104.09864). Checkpoints store inv_freq in 2 bytes, and the original computes the tables in
    the type that it finds: at position 330 a bfloat16 cosine is off by up to 0.96.

    tables: None for float32 tables of `inv_freq`; "bfloat16" or "float16" to round at every step, as the original does.
    """
    inv_freq: np.ndarray                                    # (d/2,) float32
    tables: str | None = None

    @classmethod
    def from_base(cls, base, head_size, scaling=None):
        """The exact frequencies of a base, such as 10000; scaling: see `slowed`."""
        inv_freq = 1 / np.float32(base) ** (np.arange(0, head_size, 2, dtype=np.float32) / head_size)
        return cls(slowed(inv_freq, *scaling) if scaling else inv_freq)

    def __call__(self, positions, dtype):
        """positions (B, T) -> cos and sin (B, T, d/2) in `dtype`"""
        xp = namespace(positions)
        if self.tables:                                     # on the host: the roundings are NumPy's
            host = positions if xp is np else positions.get()
            angles = round_to(round_to(host.astype(np.float32), self.tables)[..., None] * self.inv_freq, self.tables)
            return tuple(xp.asarray(round_to(f(angles), self.tables), dtype=dtype) for f in (np.cos, np.sin))
        angles = positions.astype(xp.float32)[..., None] * xp.asarray(self.inv_freq)
        angles = angles.astype(np.result_type(dtype, np.float32))
        return xp.cos(angles).astype(dtype, copy=False), xp.sin(angles).astype(dtype, copy=False)


def slowed(inv_freq, factor, low, high, context):
    """Llama 3.1's frequencies for a longer context than the `context` that it was first trained with    (d/2,) -> (d/2,)

    What turns more than `high` times in that context stays, what turns less than `low` times is divided by `factor`, and
    what lies between is a mixture: as transformers computes rope_type "llama3".
    """
    turns = context * inv_freq / np.float32(2 * np.pi)
    kept = ((turns - low) / (high - low)).clip(0, 1)
    return (inv_freq * (kept + (1 - kept) / factor)).astype(np.float32)


class KVCache:
    """The keys and values of every layer for up to `capacity` tokens, allocated once; `length` tokens are in it.

    A forward pass reserves its tokens, appends their keys and values layer by layer, and advances at the end.

    mask (B, capacity): bool, False for padding among the cached tokens. padded: whether there is any.
    """

    def __init__(self, config, batch, capacity, xp=np, dtype=np.float32):
        shape = (config.num_hidden_layers, batch, config.num_key_value_heads, capacity, config.head_size)
        self.keys, self.values = xp.empty(shape, dtype), xp.empty(shape, dtype)
        self.mask, self.padded, self.length = xp.ones((batch, capacity), bool), False, 0

    def reserve(self, tokens, mask=None):
        """Check that `tokens` more fit, and hide their padding: mask (B, tokens), None for none. Raises ValueError."""
        stop = self.length + tokens
        if stop > self.mask.shape[1]:
            raise ValueError(f"the cache holds {self.mask.shape[1]} tokens; {self.length} are in it and {tokens} came")
        if mask is not None:
            self.mask[:, self.length:stop] = mask
            self.padded = True

    def advance(self, tokens):
        """Every layer has appended the reserved tokens: they now lie before the next ones."""
        self.length += tokens

    def layer(self, i, first=0):
        """The LayerCache of layer i, for the reserved tokens from the `first` on."""
        return LayerCache(self, i, self.length + first)


@dataclass
class LayerCache:
    """One layer's part of a KVCache."""
    cache: KVCache
    i: int
    start: int                                              # the tokens before those that come

    @op
    def append(self, k, v):
        """k, v (B, G, T, d) after the cached ones -> all keys and all values (B, G, S, d), mask (B, S) or None"""
        cache, start, stop = self.cache, self.start, self.start + k.shape[2]
        cache.keys[self.i, :, :, start:stop], cache.values[self.i, :, :, start:stop] = k, v
        mask = cache.mask[:, :stop] if cache.padded else None
        return cache.keys[self.i, :, :, :stop], cache.values[self.i, :, :, :stop], mask
