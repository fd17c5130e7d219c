"""The language model around the experts: the block, the rotary tables, the key-value cache."""
from dataclasses import dataclass

import numpy as np

from ..nn import ops
from ..nn.arrays import namespace, round_to
from ..nn.swap import op
from ..nn.trace import record
from ..nn.tree import below
from . import expert


def shapes(config):
    """{name: shape} of a block's tensors, below one of model.layers."""
    norm = {"weight": (config.hidden_size,)}
    return ({"self_attn.rotary_emb.inv_freq": (config.head_size // 2,)} | expert.shapes(config)
            | below("input_layernorm", norm) | below("post_attention_layernorm", norm))


def block(x, p, route, rope, config, cache=None):
    """x + attention(norm(x)), then x + mlp(norm(x)), experts inside        (B, T, D) -> (B, T, D)"""
    eps = config.rms_norm_eps
    h, pull_norm1 = ops.rms_norm(x, p.input_layernorm.weight, eps)
    record("input_norm", h)
    a, pull_attention = expert.attention(h, p.self_attn, route, rope, config, cache)
    x1 = x + a
    h, pull_norm2 = ops.rms_norm(x1, p.post_attention_layernorm.weight, eps)
    record("post_norm", h)
    m, pull_mlp = expert.routed(expert.mlp, h, p.mlp, "mlp", route)
    record("mlp_out", m)
    x2 = x1 + m
    record("out", x2)

    def pull(dx2, g):
        dx1 = dx2 + pull_norm2(pull_mlp(dx2, g.mlp), g.post_attention_layernorm)
        return dx1 + pull_norm1(pull_attention(dx1, g.self_attn), g.input_layernorm)
    return x2, pull


@dataclass(frozen=True)
class Rotary:
    """Angles of the rotary embedding: position * inv_freq, inv_freq_i = base^(-2i/d).

    Checkpoints store inv_freq in 2 bytes, and the original also computes the tables in the type it finds, so that at
    position 330 a bfloat16 cosine is off by up to 0.96. `tables` None is float32 tables from the inv_freq given;
    "bfloat16" or "float16" rounds like the original at every step.
    """
    inv_freq: np.ndarray                                    # (d/2,) float32
    tables: str = None

    @classmethod
    def from_base(cls, base, head_size):
        return cls(1 / np.float32(base) ** (np.arange(0, head_size, 2, dtype=np.float32) / head_size))

    def __call__(self, positions, dtype):
        """positions (B, T) -> cos, sin (B, T, d/2)"""
        xp = namespace(positions)
        if self.tables:                                     # the roundings are NumPy's: done on the host
            host = positions if xp is np else positions.get()
            angles = round_to(round_to(host.astype(np.float32), self.tables)[..., None] * self.inv_freq, self.tables)
            return tuple(xp.asarray(round_to(f(angles), self.tables), dtype=dtype) for f in (np.cos, np.sin))
        angles = positions.astype(xp.float32)[..., None] * xp.asarray(self.inv_freq)
        angles = angles.astype(np.result_type(dtype, np.float32))
        return xp.cos(angles).astype(dtype, copy=False), xp.sin(angles).astype(dtype, copy=False)


class KVCache:
    """Keys and values of every layer for up to `capacity` tokens, allocated once.

    mask (B, capacity): which of the cached tokens are real, not padding. `length` tokens are in it.
    """

    def __init__(self, config, batch, capacity, xp=np, dtype=np.float32):
        shape = (config.num_hidden_layers, batch, config.num_key_value_heads, capacity, config.head_size)
        self.keys, self.values = xp.empty(shape, dtype), xp.empty(shape, dtype)
        self.mask, self.padded, self.length = xp.ones((batch, capacity), bool), False, 0

    def start(self, route):
        """Make room for a forward pass: its padding is hidden from every layer."""
        tokens = route.types.shape[1]
        if self.length + tokens > self.mask.shape[1]:
            raise ValueError(f"the cache holds {self.mask.shape[1]} tokens; {self.length} are in it and {tokens} came")
        if route.mask is not None:
            self.mask[:, self.length:self.length + tokens], self.padded = route.mask, True

    def layer(self, i):
        return LayerCache(self, i)


@dataclass
class LayerCache:
    cache: KVCache
    i: int

    @op
    def append(self, k, v):
        """k, v (B, G, T, d) behind the cached ones -> all keys, all values (B, G, S, d), mask (B, S) or None"""
        cache, start = self.cache, self.cache.length
        stop = start + k.shape[2]
        cache.keys[self.i, :, :, start:stop], cache.values[self.i, :, :, start:stop] = k, v
        mask = cache.mask[:, :stop] if cache.padded else None
        return cache.keys[self.i, :, :, :stop], cache.values[self.i, :, :, :stop], mask
