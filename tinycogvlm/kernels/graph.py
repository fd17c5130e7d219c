"""A decoded token as a list of launches over arrays that stay where they are: on a GPU, one captured CUDA graph."""
from dataclasses import replace

import numpy as np

from ..model.decoder import KVCache
from ..nn.tree import Params
from ..storage.leaves import EmbeddingRows
from .library import gemv
from .library.attention import attention_decode, decode_buffers
from .library.rows import advance, rows
from .library.sample import choose, uniforms


class AnswerCache(KVCache):
    """A KVCache for one answer after another, which keeps the DecodeGraph over it."""

    graph = None

    def clear(self):
        """Forget the tokens of the last answer."""
        self.mask[:] = True
        self.padded = False
        self.length = 0


class DecodeGraph:
    """Chooses a token for each row of a batch, and computes the logits of the next one.

    What a step depends on is in device memory, and the step itself changes it: the chosen tokens, the counters. So each
    step is the same launches with the same arguments, and a GPU replays them without a word from the host:

        rows of the embedding table                                                 x (B, D)
        for each layer: norm, QKV, rotary, append to the cache                      q (B, H, 1, d)
                        attention to each split of the keys; the splits combined    context (B, D)
                        dense, added to x
                        norm, gate, up, SwiGLU                                      (B, F)
                        down, added to x
        norm and lm_head                                                            logits (B, V)
        the choice                                                                  tokens (B,), -1: logits not finite
        counters + 1

    On the CPU the same launches are made one by one. generate.steps is the readable twin.

    model: engine.Engine. cache: a decoder.KVCache with the prompts in it. sampling: generate.Sampling. `begin` starts
    an answer, and another one after it: what was captured holds for every answer that `serves`.
    """

    def __init__(self, model, cache, sampling):
        xp, config, (B, capacity) = model.xp, model.config, cache.mask.shape
        self.xp, self.config, self.leaves, self.captured, self.host = xp, config, model.leaves, None, None
        self.cached, self.mask = (cache.keys, cache.values), cache.mask if cache.padded else None
        self.sampling = unseeded(sampling)
        self.counters = xp.empty(3 + B, np.int32)
        # tokens in the cache, now and with the new one; tokens chosen so far; positions of the new ones
        self.length, self.keys, self.chosen, self.positions = (self.counters[part] for part in (
            slice(0, 1), slice(1, 2), slice(2, 3), slice(3, None)))
        self.tables = [table[0] for table in model.rotary(xp.arange(config.max_position_embeddings)[None], np.float32)]

        def empty(*shape, dtype=model.dtype):
            return xp.empty(shape, dtype)
        D, F, H, d, V = (config.hidden_size, config.intermediate_size, config.num_attention_heads, config.head_size,
                         config.vocab_size)
        self.uniforms = empty(capacity, B, dtype=np.float64) if sampling.temperature > 0 else None
        self.seen = empty(B, V, dtype=bool) if sampling.repetition_penalty != 1 else None
        self.x, self.q, self.a = empty(B, D), empty(B, H, 1, d), empty(B, F)
        self.attended = decode_buffers(self.q, cache.keys[0])
        self.logits, self.tokens = empty(B, V, dtype=np.float32), empty(B, dtype=np.int32)

    def serves(self, model, cache, sampling):
        """Whether an answer with this sampling is these launches, over a cache that is this graph's"""
        return (self.leaves is model.leaves and self.sampling == unseeded(sampling)
                and (self.mask is not None) == cache.padded)

    def begin(self, logits, length, positions, sampling, texts):
        """An answer after `length` tokens in the cache, whose last ones have these logits (B, V) and positions (B,).

        texts: the ids in each row's text.
        """
        self.logits[:] = logits
        self.counters[:] = self.xp.asarray([length, length + 1, 0, *(np.asarray(positions) + 1)], dtype=np.int32)
        if self.uniforms is not None:
            self.uniforms[:] = self.xp.asarray(uniforms(sampling, *self.uniforms.shape[::-1]))
        if self.seen is not None:
            self.seen[:] = False
            for row, text in enumerate(texts):
                self.seen[row, self.xp.asarray(text)] = True

    def choose(self):
        """The launch that chooses: from the logits to `tokens`"""
        choose(self.logits, self.sampling, self.uniforms, self.seen, self.chosen, self.tokens)

    def step(self):
        """The launches of one token: from the last one chosen to the next."""
        leaves, config, x, eps = self.leaves, self.config, self.x, self.config.rms_norm_eps
        p = Params(leaves).model
        if isinstance(p.embed_tokens.weight, EmbeddingRows):            # read from the file
            x[:] = p.embed_tokens.weight[self.tokens]
        else:
            rows(p.embed_tokens.weight, x.dtype, self.tokens, out=x)
        for i in range(config.num_hidden_layers):
            layer, (keys, values) = p.layers[i], (part[i] for part in self.cached)
            attention, mlp = layer.self_attn, layer.mlp.language_mlp
            gemv.qkv_rotary_append(x, layer.input_layernorm.weight, attention.language_expert_query_key_value.weight,
                                   eps, self.positions, self.length, *self.tables, keys, values, out=self.q)
            context = attention_decode(self.q, keys, values, self.keys, self.mask, self.attended).reshape(x.shape)
            gemv.dense_residual(context, attention.language_expert_dense.weight, x, out=x)
            gemv.gate_up_swiglu(x, layer.post_attention_layernorm.weight, mlp.gate_proj.weight, mlp.up_proj.weight, eps,
                                out=self.a)
            gemv.dense_residual(self.a, mlp.down_proj.weight, x, out=x)
        gemv.head(x, p.norm.weight, leaves[f"{config.head}.weight"], eps, out=self.logits)
        advance(self.counters)
        self.choose()

    def next(self):
        """Make the step. On a GPU the first is launch by launch, which compiles the kernels; the second is captured."""
        xp = self.xp
        if xp is np or getattr(self.leaves, "stream", False):    # streamed weights are elsewhere each time
            self.step()
        elif self.captured is None:
            self.step()
            stream = xp.cuda.Stream(non_blocking=True)      # which does not wait for the default stream
            with stream:
                stream.begin_capture()                      # records the launches, makes none
                self.step()
                self.captured = stream.end_capture()
        else:
            self.captured.launch()

    def reader(self):
        """Start copying the tokens to the host -> a function that waits for the copy, and returns it."""
        xp = self.xp
        if xp is np:
            return self.tokens.copy
        if self.host is None:
            from cupyx import empty_pinned                  # memory to which a GPU copies while the host goes on
            self.host, self.copied = empty_pinned(self.tokens.shape, self.tokens.dtype), xp.cuda.Event()
        self.tokens.get(out=self.host, blocking=False)
        self.copied.record()

        def read():
            self.copied.synchronize()
            return self.host.copy()
        return read


def unseeded(sampling):
    """What the launches keep of a generate.Sampling: all but the seed"""
    return replace(sampling, seed=0)
