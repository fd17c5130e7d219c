"""CogVLM computed by the kernels: on a GPU, or on the CPU of a machine without one."""
from contextlib import contextmanager
from functools import cache as cached

import numpy as np

from ..errors import UserError
from ..model import cogvlm, decoder, expert, generate, vit
from ..nn import ops
from ..nn.arrays import bfloat16_bits
from ..nn.swap import current, swapped
from . import ops as kernel_ops
from .graph import DecodeGraph
from .runner import gpu


class Engine(cogvlm.CogVLM):
    """CogVLM whose ops are the kernels. It gives answers; gradients are CogVLM's alone.

    leaves: norms, biases and the like are float32, float16 or bfloat16 (its bits in uint16), which is also the type of
    activations; matrices have the same type, or are bfloat16 or quantise.Quantised. Arrays are made on the GPU of the
    leaves, whichever GPU is CuPy's current one.
    """

    def __init__(self, config, leaves, *rest, **named):
        super().__init__(config, leaves, *rest, **named)
        self.gpu = gpu.number(leaves["model.norm.weight"])

    def new_cache(self, *arguments):
        with gpu.on(self.gpu):
            return super().new_cache(*arguments)

    @contextmanager
    def answering(self):
        with gpu.on(self.gpu), swapped(kernels(self.dtype)), super().answering():
            yield

    def activations(self, array):
        if self.dtype == np.uint16:
            return self.xp.asarray(bfloat16_bits(array))
        return super().activations(array)

    def steps(self, inputs, cache, positions, limit, sampling):
        """generate.steps by the launches of a DecodeGraph"""
        # The launches name no tensors, and know nothing of model/without.py; the readable twin does.
        if self.check_finite or current(cogvlm.CogVLM.hidden) is not cogvlm.CogVLM.hidden.own:
            yield from generate.steps(self, inputs, cache, positions, limit, sampling)
            return
        with gpu.on(self.gpu):
            logits = self.logits(inputs, cache, last=True, positions=positions)[:, -1]
            graph = DecodeGraph(self, logits, cache, positions[:, -1], sampling, limit, generate.texts(inputs))
            graph.choose()
        ended = np.zeros(len(logits), bool)
        for step in range(limit):
            with gpu.on(self.gpu):
                read = graph.reader()
                ahead = graph.captured is not None and step + 1 < limit
                if ahead:                                   # the GPU goes on while the host looks at the tokens
                    graph.next()
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
