"""54 From a waveform to words: a solution"""
import numpy as np


def triangles(edges, frequencies):
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.maximum(0, np.minimum((frequencies - left) / (centre - left), (right - frequencies) / (right - centre)))


def log_mel(power):
    m = np.log10(np.maximum(power, 1e-10))
    m = np.maximum(m, m.max() - 8)
    return ((m + 4) / 4).T


def convolve(x, weight, bias, stride):
    T = (x.shape[2] - 1) // stride + 1
    x = np.pad(x, ((0, 0), (0, 0), (1, 1)))
    y = sum(weight[:, :, j] @ x[:, :, j:j + (T - 1) * stride + 1:stride] for j in range(3))
    return y + bias[:, None]
