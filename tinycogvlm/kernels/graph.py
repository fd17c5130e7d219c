"""A decoded token as a list of launches over arrays that stay where they are: on a GPU, one captured CUDA graph."""
import numpy as np

from ..nn.tree import Params
from ..storage.leaves import EmbeddingRows
from .library import gemv
from .library.attention import attention_decode, decode_buffers
from .library.rows import advance, rows
from .library.sample import choose, uniforms


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

    model: engine.Engine. logits (B, V): of the prompts, which `cache` (a decoder.KVCache) holds. positions (B,): of
    their last tokens. sampling: generate.Sampling, for `limit` tokens. texts: the ids in each row's text.
    """

    def __init__(self, model, logits, cache, positions, sampling, limit, texts):
        xp, config, B = model.xp, model.config, len(logits)
        self.model, self.cache, self.sampling, self.captured, self.host = model, cache, sampling, None, None
        counters = [cache.length, cache.length + 1, 0, *(np.asarray(positions) + 1)]
        self.counters = xp.asarray(counters, dtype=np.int32)
        # tokens in the cache, now and with the new one; tokens chosen so far; positions of the new ones
        self.length, self.keys, self.chosen, self.positions = (self.counters[part] for part in (
            slice(0, 1), slice(1, 2), slice(2, 3), slice(3, None)))
        self.tables = [table[0] for table in model.rotary(xp.arange(config.max_position_embeddings)[None], np.float32)]
        self.uniforms = self.seen = None
        if sampling.temperature > 0:
            self.uniforms = xp.asarray(uniforms(sampling, B, limit))
        if sampling.repetition_penalty != 1:
            self.seen = xp.zeros((B, config.vocab_size), bool)
            for row, text in enumerate(texts):
                self.seen[row, xp.asarray(text)] = True

        def empty(*shape, dtype=model.dtype):
            return xp.empty(shape, dtype)
        D, F, H, d = config.hidden_size, config.intermediate_size, config.num_attention_heads, config.head_size
        self.x, self.q, self.a = empty(B, D), empty(B, H, 1, d), empty(B, F)
        self.attended = decode_buffers(self.q, cache.keys[0])
        self.logits, self.tokens = xp.ascontiguousarray(logits), empty(B, dtype=np.int32)

    def choose(self):
        """The launch that chooses: from the logits to `tokens`"""
        choose(self.logits, self.sampling, self.uniforms, self.seen, self.chosen, self.tokens)

    def step(self):
        """The launches of one token: from the last one chosen to the next."""
        leaves, cache, config = self.model.leaves, self.cache, self.model.config
        eps = config.rms_norm_eps
        p, x, mask = Params(leaves).model, self.x, cache.mask if cache.padded else None
        if isinstance(p.embed_tokens.weight, EmbeddingRows):            # read from the file
            x[:] = p.embed_tokens.weight[self.tokens]
        else:
            rows(p.embed_tokens.weight, x.dtype, self.tokens, out=x)
        for i in range(config.num_hidden_layers):
            layer, keys, values = p.layers[i], cache.keys[i], cache.values[i]
            attention, mlp = layer.self_attn, layer.mlp.language_mlp
            gemv.qkv_rotary_append(x, layer.input_layernorm.weight, attention.language_expert_query_key_value.weight,
                                   eps, self.positions, self.length, *self.tables, keys, values, out=self.q)
            context = attention_decode(self.q, keys, values, self.keys, mask, self.attended).reshape(x.shape)
            gemv.dense_residual(context, attention.language_expert_dense.weight, x, out=x)
            gemv.gate_up_swiglu(x, layer.post_attention_layernorm.weight, mlp.gate_proj.weight, mlp.up_proj.weight, eps,
                                out=self.a)
            gemv.dense_residual(self.a, mlp.down_proj.weight, x, out=x)
        gemv.head(x, p.norm.weight, leaves[f"{config.head}.weight"], eps, out=self.logits)
        advance(self.counters)
        self.choose()

    def next(self):
        """Make the step. On a GPU the first is launch by launch, which compiles the kernels; the second is captured."""
        xp, leaves = self.model.xp, self.model.leaves
        if xp is np or getattr(leaves, "stream", False):    # streamed weights are elsewhere each time
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
        self.cache.advance(1)

    def reader(self):
        """Start copying the tokens to the host -> a function that waits for the copy, and returns it."""
        xp = self.model.xp
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
