"""19 Fine-tune it yourself. Fill in the bodies, then: tinycogvlm learn check 19"""
import numpy as np


def lora_merge(w, a, b, alpha):
    """W' = W + s B A with s = alpha / r

    w (O, I), a (r, I), b (O, r) -> (O, I)
    """
    raise NotImplementedError


def lora_gradients(dw, a, b, alpha):
    """The gradients of a loss with respect to A and B, from that with respect to W' = W + s B A; s = alpha / r

    dw (O, I), a (r, I), b (O, r) -> da (r, I), db (O, r)
    """
    raise NotImplementedError
