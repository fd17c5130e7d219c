"""Where the time of a training step goes, and the floating-point operations of its matrix products."""
import time
from contextlib import contextmanager

from tinycogvlm.nn import ops
from tinycogvlm.nn.swap import current, swapped

KINDS = {"matrix products": (ops.linear,), "attention": (ops.attention,), "norms": (ops.layer_norm, ops.rms_norm),
         "activations": (ops.gelu, ops.swiglu), "rotary": (ops.rotary,), "cross-entropy": (ops.cross_entropy,),
         "embedding, patches": (ops.embedding, ops.patches, ops.interpolate_positions)}


class Stopwatch:
    """Seconds by kind of op, and the floating-point operations of matrix products, two a multiplication."""

    def __init__(self):
        self.seconds, self.work = dict.fromkeys(KINDS, 0.0), 0

    def watched(self, op, kind, forward_work, backward_work):
        def timed(function, arguments, options):
            start = time.perf_counter()
            result = function(*arguments, **options)
            self.seconds[kind] += time.perf_counter() - start
            return result

        def forward(*arguments, **options):
            y, pull = timed(op, arguments, options)
            self.work += forward_work(*arguments, **options)

            def backward(*gradients):
                self.work += backward_work(*arguments, *gradients[1:], **options)
                return timed(pull, gradients, {})
            return y, backward
        return forward


@contextmanager
def stopwatch():
    """Inside the `with`, every op that this thread runs is timed by a Stopwatch."""
    watch = Stopwatch()
    work = {ops.linear: (product, gradient_products),
            ops.attention: (attended, lambda *a, **o: 2 * attended(*a, **o))}
    nothing = (lambda *_, **__: 0,) * 2
    watched = {op: watch.watched(current(op), kind, *work.get(op, nothing))
               for kind, names in KINDS.items() for op in names}
    with swapped(watched):
        yield watch


def product(x, weight, bias=None):
    return 2 * x.size // x.shape[-1] * weight.size


def gradient_products(x, weight, *bias_and_g):
    """The product for the gradient of the input, and for that of the weight unless it is frozen"""
    return product(x, weight) * (1 + bias_and_g[-1].trains("weight"))


def attended(q, k, v, mask=None, causal=True):
    """q k^T and p v, of which a causal mask leaves half; the gradient needs twice as many, recomputed or not."""
    (B, H, T, d), S = q.shape, k.shape[2]
    return 4 * d * B * H * (T * (S - T) + T * (T + 1) // 2 if causal else T * S)
