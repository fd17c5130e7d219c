"""03 Pixels. Fill in the bodies, then: tinycogvlm learn check 03"""
import numpy as np

MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)           # of R, G, B
STD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)


def bicubic_weights(n, m):
    """The matrix that resamples n numbers to m, as Pillow's BICUBIC does      -> (m, n)

    y[i] = sum_j weights[i, j] x[j]. Output i lies at (i + 1/2) n/m, input j at j + 1/2; s = max(1, n/m). The weight is
    the cubic kernel (a = -1/2) of their distance over s. Each row is divided by its sum. float64.
    """
    raise NotImplementedError


def normalise(colours):
    """(colours / 255 - MEAN) / STD, a plane for each colour

    colours (N, N, 3) whole numbers from 0 to 255 -> (3, N, N) float32
    """
    raise NotImplementedError
