"""03 Pixels: a solution"""
import numpy as np

MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)           # of R, G, B
STD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)


def bicubic_weights(n, m):
    d = np.abs(np.arange(n) + 0.5 - (np.arange(m)[:, None] + 0.5) * n / m) / max(1, n / m)
    near = 1.5 * d ** 3 - 2.5 * d ** 2 + 1
    far = -0.5 * d ** 3 + 2.5 * d ** 2 - 4 * d + 2
    weights = np.where(d <= 1, near, np.where(d < 2, far, 0))
    return weights / weights.sum(1, keepdims=True)


def normalise(colours):
    fractions = colours.astype(np.float32) / np.float32(255)
    return ((fractions - MEAN) / STD).transpose(2, 0, 1)
