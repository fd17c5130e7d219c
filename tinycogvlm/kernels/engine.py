"""CogVLM by way of the kernels: on a GPU, and on the CPU of a machine without one."""
from functools import lru_cache

import numpy as np

from ..errors import UserError
from ..model import cogvlm, expert, generate, vit
from ..nn import ops
from ..nn.arrays import to_numpy
from ..nn.swap import swapped
from . import ops as kernel_ops
from .graph import Decoder


class Engine(cogvlm.CogVLM):
    """CogVLM whose ops are the kernels, for answers: gradients are CogVLM's alone.

    leaves: activations' parameters (norms, biases, ...) are float32 or float16, which is then the activations' type;
    matrices are of the same type, bfloat16 as its bits in uint16, or quantise.Quantised.
    """

    def logits(self, *arguments, **named):
        with swapped(kernels(self.dtype)):
            return super().logits(*arguments, **named)

    def steps(self, inputs, cache, positions, limit, sampling=generate.Sampling()):
        """generate.steps, a token by the launches of decode.Decoder"""
        if self.check_finite:                               # the launches name no tensors; the readable twin does
            yield from generate.steps(self, inputs, cache, positions, limit, sampling)
            return
        logits = self.logits(inputs, cache, last=True, positions=positions)[:, -1]
        generate.check_finite(logits)
        decoder = Decoder(self, logits, cache, positions[:, -1], sampling, limit, generate.texts(inputs))
        ended, config = np.zeros(len(logits), bool), self.config
        decoder.choose()
        for step in range(limit):
            ids = np.where(ended, config.eos_token_id, to_numpy(decoder.tokens)).astype(np.int64)
            going = ~ended
            ended |= np.isin(ids, config.eos_token_ids)
            last = ended.all() or step == limit - 1
            if self.xp is np or last:                       # a GPU is asked after the prompt and at the end alone
                generate.check_finite(decoder.logits[self.xp.asarray(going)])
            yield ids
            if last:
                return
            decoder.next()

    def loss(self, *arguments, **named):
        raise UserError("the kernels of a model give answers, not gradients; train one without them")


@lru_cache
def kernels(dtype):
    """{op: its kernel} for answers in activations of `dtype`, float32 or float16; a kernel has no pullback.

    What is left to NumPy and CuPy: residual sums, copies, and the interpolated position table.
    """
    names = ("linear", "layer_norm", "rms_norm", "gelu", "swiglu", "rotary", "attention")
    return {getattr(ops, name): getattr(kernel_ops, name) for name in names} | {
        ops.embedding: kernel_ops.embedding(dtype), expert.routed: kernel_ops.routed,
        vit.patch_embedding: kernel_ops.patch_embedding, cogvlm.head: kernel_ops.head}
