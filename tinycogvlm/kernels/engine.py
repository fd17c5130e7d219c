"""CogVLM computed by the kernels: on a GPU, or on the CPU of a machine without one."""
from collections import deque
from contextlib import contextmanager, suppress
from functools import cache as cached

import numpy as np

from ..errors import UserError
from ..model import cogvlm, decoder, expert, generate, vit
from ..nn import ops
from ..nn.arrays import bfloat16_bits
from ..nn.swap import current, swapped
from . import ops as kernel_ops
from .graph import AnswerCache, DecodeGraph
from .runner import gpu


class Engine(cogvlm.CogVLM):
    """CogVLM whose ops are the kernels. It gives answers; gradients are CogVLM's alone.

    leaves: norms, biases and the like are float32, float16 or bfloat16 (its bits in uint16), which is also the type of
    activations; matrices have the same type, or are bfloat16 or quantise.Quantised. Arrays are made on the GPU of the
    leaves, whichever GPU is CuPy's current one.
    The cache and the captured graph of one answer are kept for the next: don't exchange leaves between answers.
    """

    def __init__(self, config, leaves, *rest, **named):
        super().__init__(config, leaves, *rest, **named)
        self.gpu, self.kept = gpu.number(leaves["model.norm.weight"]), deque(maxlen=1)

    def new_cache(self, *arguments):
        self.kept.clear()                                   # its memory is free for this one
        with gpu.on(self.gpu):
            return super().new_cache(*arguments)

    def answer_cache(self, batch, capacity):
        """The last answer's cache, if it is large enough, and with it the captured graph; else a new one.

        For a single row on a GPU that is one for the whole context, which the plan has counted.
        """
        cache = None
        with suppress(IndexError):
            cache = self.kept.pop()                         # so no other thread has it
        if cache is None or cache.mask.shape[0] != batch or cache.mask.shape[1] < capacity:
            cache = None                                    # its memory is free for the new one
            if batch == 1 and self.gpu is not None:
                capacity = max(capacity, self.config.max_position_embeddings)
            with gpu.on(self.gpu):
                return AnswerCache(self.config, batch, capacity, self.xp, self.dtype)
        with gpu.on(self.gpu):
            cache.clear()
        return cache

    @contextmanager
    def answering(self):
        with gpu.on(self.gpu), swapped(kernels(self.dtype)), super().answering():
            yield

    def activations(self, array):
        if self.dtype == np.uint16:
            return self.xp.asarray(bfloat16_bits(array))
        return super().activations(array)

    def steps(self, inputs, cache, positions, limit, sampling):
        """generate.steps by the launches of a DecodeGraph; an AnswerCache is then free for another answer."""
        # The launches name no tensors, and know nothing of model/without.py; the readable twin does.
        if self.check_finite or current(cogvlm.CogVLM.hidden) is not cogvlm.CogVLM.hidden.own:
            yield from generate.steps(self, inputs, cache, positions, limit, sampling)
            return
        with gpu.on(self.gpu):
            logits = self.logits(inputs, cache, last=True, positions=positions)[:, -1]
            graph = self.graph(cache, sampling)
            graph.begin(logits, cache.length, positions[:, -1], sampling, generate.texts(inputs))
            graph.choose()
        try:
            yield from self.chosen(graph, cache, limit)
        finally:
            if isinstance(cache, AnswerCache):
                self.kept.append(cache)

    def graph(self, cache, sampling):
        """The DecodeGraph over a cache with prompts in it: the kept one if it serves, with what it has captured"""
        kept = cache.graph if isinstance(cache, AnswerCache) else None
        if kept and kept.serves(self, cache, sampling):
            return kept
        graph = DecodeGraph(self, cache, sampling)
        if isinstance(cache, AnswerCache):
            cache.graph = graph
        return graph

    def chosen(self, graph, cache, limit):
        """The ids that the graph chooses, (B,) a step"""
        ended = np.zeros(cache.mask.shape[0], bool)
        for step in range(limit):
            with gpu.on(self.gpu):
                read = graph.reader()
                ahead = graph.captured is not None and step + 1 < limit
                if ahead:                                   # the GPU goes on while the host looks at the tokens
                    graph.next()
                    cache.advance(1)
                tokens = read()
            if (tokens[~ended] < 0).any():
                raise UserError(generate.NOT_FINITE)
            ids = np.where(ended, self.config.eos_token_id, tokens).astype(np.int64)
            yield ids
            ended |= np.isin(ids, self.config.eos_token_ids)
            if ended.all():
                cache.advance(-ahead)                       # the step too many is forgotten
                return
            if not ahead and step + 1 < limit:
                with gpu.on(self.gpu):
                    graph.next()
                cache.advance(1)

    def loss(self, *arguments, **named):
        raise UserError("a model with kernels gives answers, not gradients; train one without them")


@cached
def kernels(dtype):
    """{op: its kernel} for answers in activations of `dtype`; a kernel has no pullback.

    What is left to NumPy and CuPy: copies, and the interpolated position table.
    """
    names = ("linear", "residual", "layer_norm", "rms_norm", "gelu", "swiglu", "rotary", "attention")
    return {getattr(ops, name): getattr(kernel_ops, name) for name in names} | {
        ops.embedding: kernel_ops.embedding(dtype), expert.routed: kernel_ops.routed,
        vit.patch_embedding: kernel_ops.patch_embedding, vit.block: kernel_ops.vit_block,
        decoder.LayerCache.append: kernel_ops.append, cogvlm.head: kernel_ops.head}
