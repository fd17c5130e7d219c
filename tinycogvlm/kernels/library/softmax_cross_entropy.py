"""ops.cross_entropy and its gradient by softmax_cross_entropy.cu. Only tests call it: an Engine has no loss."""
import numpy as np

from ...nn.arrays import namespace
from ..runner.loader import load_ours
from .launch import C_TYPES, THREADS, contiguous


def cross_entropy(logits, labels, weights=None, dloss=1.0, in_place=False, version=3, **options):
    """ops.cross_entropy -> the loss (float32 scalar), dlogits (N, V)        logits (N, V), labels (N,), weights (N,)

    dloss: the gradient with respect to the loss. in_place: dlogits overwrite the logits. If all labels are -100, the
    loss is NaN, the mean of nothing, and the gradient 0; a label that is not a token gives NaN, too.
    """
    xp, (N, V) = namespace(logits), logits.shape
    logits, = contiguous(logits)
    dlogits = logits if in_place else xp.empty(logits.shape, logits.dtype)
    weights = xp.where(labels != -100, xp.float32(1) if weights is None else weights, xp.float32(0)).astype(np.float32)
    with np.errstate(invalid="ignore"):
        share = weights / weights.sum()
    if version == 3 and V % (16 // logits.itemsize):
        version = 2                                         # rows do not begin at multiples of 16 bytes
    losses = xp.empty(N, np.float32)
    load_ours("softmax_cross_entropy.cu", f"cross_entropy_v{version}<{C_TYPES[logits.dtype]}>", **options)(
        (-(-N // THREADS) if version == 1 else N,), (THREADS,),
        (logits, labels.astype(np.int64), share * np.float32(dloss), losses, dlogits, np.int32(N), np.int32(V)))
    return (losses * share).sum(), dlogits
