"""cupy.fft, as far as the package uses it: single precision stays single."""
import numpy as np

from .arrays import ours, result


def rfft(a, n=None, axis=-1, norm=None):
    ours(a)
    found = np.fft.rfft(a._numpy, n, axis, norm)
    return result(lambda: found, found.shape, np.complex64 if a.dtype == np.float32 else np.complex128, a)


def irfft(a, n=None, axis=-1, norm=None):
    ours(a)
    found = np.fft.irfft(a._numpy, n, axis, norm)
    return result(lambda: found, found.shape, np.float32 if a.dtype == np.complex64 else np.float64, a)
