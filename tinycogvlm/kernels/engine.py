"""CogVLM by way of the kernels: on a GPU, and on the CPU of a machine without one."""
import numpy as np

from ..errors import UserError
from ..model import generate
from ..model.cogvlm import CogVLM
from ..nn.arrays import to_numpy
from .graph import Decoder
from .implementation import installed, kernels


class Engine(CogVLM):
    """CogVLM whose ops are the kernels, for answers: gradients are CogVLM's alone.

    leaves: activations' parameters (norms, biases, ...) are float32 or float16, which is then the activations' type;
    matrices are of the same type, bfloat16 as its bits in uint16, or quantise.Quantised.
    """

    def logits(self, *arguments, **named):
        with installed(kernels(self.dtype)):
            return super().logits(*arguments, **named)

    def steps(self, inputs, cache, positions, limit, sampling=generate.Sampling()):
        """generate.steps, a token by the launches of decode.Decoder"""
        logits = self.logits(inputs, cache, last=True, positions=positions)[:, -1]
        decoder = Decoder(self, logits, cache, positions[:, -1], sampling, limit, generate.texts(inputs))
        ended, eos = np.zeros(len(logits), bool), self.config.eos_token_id
        decoder.choose()
        for step in range(limit):
            ids = np.where(ended, eos, to_numpy(decoder.tokens)).astype(np.int64)
            yield ids
            ended |= ids == eos
            if ended.all() or step == limit - 1:
                return
            decoder.next()

    def loss(self, *arguments, **named):
        raise UserError("the kernels of a model give answers, not gradients; train one without them")
