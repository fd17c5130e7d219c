"""54 From a waveform to words. Fill in the bodies, then: tinycogvlm learn check 54"""
import numpy as np


def triangles(edges, frequencies):
    """How much of each frequency a mel band takes          edges (M + 2,), frequencies (K,) -> (M, K)

    Band m rises in a straight line from 0 at edges[m] to 1 at edges[m + 1], falls to 0 at edges[m + 2], and is 0
    outside.
    """
    raise NotImplementedError


def log_mel(power):
    """Whisper's spectrogram: y = (m + 4) / 4               power (T, M) -> (M, T)

    m = log10(power), where power is at least 1e-10, and m is at least its largest number minus 8.
    """
    raise NotImplementedError


def convolve(x, weight, bias, stride):
    """y[b, o, t] = sum over c and j of weight[o, c, j] x[b, c, t stride + j - 1] + bias[o]

    x (B, C, N), weight (O, C, 3), bias (O,) -> (B, O, T). x counts as 0 before its beginning and after its end; T is
    (N - 1) // stride + 1.
    """
    raise NotImplementedError
