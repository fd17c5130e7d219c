"""Which implementation the model's ops have: the one place that decides.

The model calls an op as what its module has by that name: ops.rms_norm, expert.routed. `installed` puts others there
for as long as its block lasts: the CUDA kernels (`kernels`), or a learner's own functions (learn/parts.py).
"""
from contextlib import contextmanager
from functools import lru_cache

from ..model import cogvlm, expert, vit
from ..nn import ops


@contextmanager
def installed(places):
    """places: [((module, name), fit)]; `fit(what the module has there)` is what it has until the end of the block."""
    before = []
    try:
        for (module, name), fit in places:
            package = getattr(module, name)
            before.append((module, name, package))
            setattr(module, name, fit(package))
        yield
    finally:
        for module, name, package in reversed(before):
            setattr(module, name, package)


@lru_cache
def kernels(dtype):
    """The places of every op that has kernels, for activations of `dtype`, float32 or float16. For answers: without
    pullbacks. What is left to NumPy and CuPy is residual sums, copies and the image's position table."""
    from . import ops as by_kernel
    functions = {(ops, name): getattr(by_kernel, name)
                 for name in ("linear", "layer_norm", "rms_norm", "gelu", "swiglu", "rotary", "attention")}
    functions |= {(ops, "embedding"): by_kernel.embedding(dtype), (expert, "routed"): by_kernel.routed,
                  (vit, "patch_embedding"): by_kernel.patch_embedding, (cogvlm, "head"): by_kernel.head}
    return [(place, lambda package, kernel=kernel: kernel) for place, kernel in functions.items()]
