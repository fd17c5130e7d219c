"""Lesson 54: mel bands, Whisper's log-mel spectrogram, convolution over time."""
import numpy as np

from ...contracts import Contract, random
from ...contracts.contract import TOLERANCE
from ...inputs import audio
from ...nn.convolution import convolution1d
from ..exercise import Exercise

# ----------------------------------------------------------------------------------------------------------- triangles


def triangles(edges, frequencies):
    """Band m rises from 0 at edge m to 1 at edge m + 1 and falls to 0 at edge m + 2"""
    y = np.zeros((len(edges) - 2, len(frequencies)), edges.dtype)
    for m, (left, centre, right) in enumerate(zip(edges, edges[1:], edges[2:])):
        for k, f in enumerate(frequencies):
            if left < f <= centre:
                y[m, k] = (f - left) / (centre - left)
            elif centre < f < right:
                y[m, k] = (right - f) / (right - centre)
    return y


def triangles_cases():
    yield "edges 0, 2, 4, 8", dict(edges=np.array([0.0, 2, 4, 8]), frequencies=np.arange(9.0))
    yield "80 Hz steps", dict(edges=np.array([0.0, 90, 200, 350, 600, 1000]), frequencies=80 * np.arange(14.0))
    yield "an empty band", dict(edges=np.array([0.0, 1, 2, 50]), frequencies=40 * np.arange(3.0))


def package_triangles(edges, frequencies):
    left, centre, right = (edges[i:len(edges) - 2 + i, None] for i in range(3))
    return np.maximum(0, np.minimum((frequencies - left) / (centre - left), (right - frequencies) / (right - centre)))


TRIANGLES = Exercise(Contract("triangles", triangles, triangles_cases, TOLERANCE), package_triangles,
                     (audio.mel_filters,))


@TRIANGLES.mistake("Outside its triangle a band is negative here; it must be 0 there: np.maximum(0, ...).")
def triangles_not_cut(edges, frequencies):
    left, centre, right = (edges[i:len(edges) - 2 + i, None] for i in range(3))
    return np.minimum((frequencies - left) / (centre - left), (right - frequencies) / (right - centre))


@TRIANGLES.mistake("The larger of the two slopes is taken; a triangle lies below both: np.minimum.")
def triangles_maximum(edges, frequencies):
    left, centre, right = (edges[i:len(edges) - 2 + i, None] for i in range(3))
    return np.maximum(0, np.maximum((frequencies - left) / (centre - left), (right - frequencies) / (right - centre)))


@TRIANGLES.mistake("A band is 0 or 1 here, up to its centre; it is to rise and to fall in straight lines.")
def triangles_of_boxes(edges, frequencies):
    return ((frequencies > edges[:-2, None]) & (frequencies < edges[1:-1, None])).astype(edges.dtype)


@TRIANGLES.mistake("The axes are exchanged: a row for each band, a column for each frequency.")
def triangles_transposed(edges, frequencies):
    return package_triangles(edges, frequencies).T


@TRIANGLES.mistake("Each band is divided by its width, so that its area is 1; here its height is to be 1.")
def triangles_of_area_1(edges, frequencies):
    return package_triangles(edges, frequencies) * 2 / (edges[2:] - edges[:-2])[:, None]


# ------------------------------------------------------------------------------------------------------------- log_mel

def log_mel(power):
    """m = log10(max(power, 1e-10)), not below its largest minus 8;  y = (m + 4) / 4, a row for each band"""
    m = np.log10(np.maximum(power, 1e-10))
    return ((np.maximum(m, m.max() - 8) + 4) / 4).T


def log_mel_cases():
    yield "powers of ten", dict(power=np.array([[1.0, 1e-3, 1e-6], [1e-9, 1e-12, 1e-1]]))
    yield "loud", dict(power=1e4 * random(5, 3, seed=1) ** 2)
    yield "silence", dict(power=np.zeros((2, 3)))


def package_log_mel(power):
    m = np.log10(np.maximum(power, audio.QUIETEST))
    return ((np.maximum(m, m.max() - 8) + 4) / 4).T


def fit_log_mel(mine, otherwise):
    return lambda wave, filters: (mine(audio.mel_power(wave, filters, 160)[0][:-1]), None)


LOG_MEL = Exercise(Contract("log_mel", log_mel, log_mel_cases, TOLERANCE), package_log_mel, (audio.whisper_log_mel,),
                   place=audio.whisper_log_mel, fit=fit_log_mel)


@LOG_MEL.mistake("The natural logarithm is taken; Whisper's is that of base 10.")
def log_mel_natural(power):
    m = np.log(np.maximum(power, 1e-10))
    return ((np.maximum(m, m.max() - 8) + 4) / 4).T


@LOG_MEL.mistake("The floor, 8 below the largest, is missing.")
def log_mel_without_floor(power):
    return ((np.log10(np.maximum(power, 1e-10)) + 4) / 4).T


@LOG_MEL.mistake("Each frame has a floor of its own here; it is 8 below the largest number of all.")
def log_mel_floor_of_each_frame(power):
    m = np.log10(np.maximum(power, 1e-10))
    return ((np.maximum(m, m.max(1, keepdims=True) - 8) + 4) / 4).T


@LOG_MEL.mistake("The result has a row for each frame; Whisper's convolution wants a row for each band: .T")
def log_mel_not_turned(power):
    return log_mel(power).T


@LOG_MEL.mistake("Decibels, ten times the logarithm, are CLAP's; Whisper's has no factor of 10.")
def log_mel_in_decibels(power):
    m = 10 * np.log10(np.maximum(power, 1e-10))
    return ((np.maximum(m, m.max() - 8) + 4) / 4).T


@LOG_MEL.mistake("(m + 4) / 4 is missing, or a part of it: the numbers are to lie around 0 to 1.")
def log_mel_not_scaled(power):
    m = np.log10(np.maximum(power, 1e-10))
    return np.maximum(m, m.max() - 8).T


# ------------------------------------------------------------------------------------------------------------ convolve

def convolve(x, weight, bias, stride):
    """y[b, o, t] = sum over c and j of weight[o, c, j] x[b, c, t stride + j - 1] + bias[o]; x is 0 outside"""
    B, C, N = x.shape
    O, _, J = weight.shape
    T = (N + 2 - J) // stride + 1
    y = np.zeros((B, O, T), x.dtype)
    for b in range(B):
        for o in range(O):
            for t in range(T):
                y[b, o, t] = bias[o]
                for j in range(J):
                    if 0 <= t * stride + j - 1 < N:
                        y[b, o, t] += (weight[o, :, j] * x[b, :, t * stride + j - 1]).sum()
    return y


def convolve_cases():
    yield "one channel", dict(x=np.arange(1.0, 7).reshape(1, 1, 6), weight=np.array([[[1.0, 10, 100]]]),
                              bias=np.zeros(1), stride=1)
    yield "every second", dict(x=np.arange(1.0, 7).reshape(1, 1, 6), weight=np.array([[[1.0, 10, 100]]]),
                               bias=np.array([0.5]), stride=2)
    yield "an odd length", dict(x=random(2, 3, 7), weight=random(4, 3, 3, seed=1), bias=random(4, seed=2), stride=2)


def package_convolve(x, weight, bias, stride):
    return convolution1d.own(x, weight, bias, stride, padding=1)[0]


def fit_convolve(mine, otherwise):
    def run(x, weight, bias=None, stride=1, padding=0, groups=1):
        if groups == 1 and padding == 1 and bias is not None:
            return mine(x, weight, bias, stride), None
        return otherwise(x, weight, bias, stride, padding, groups)
    return run


CONVOLVE = Exercise(Contract("convolve", convolve, convolve_cases, TOLERANCE), package_convolve, (convolution1d,),
                    place=convolution1d, fit=fit_convolve)


@CONVOLVE.mistake("The kernel is turned round. That is a convolution in mathematics; in networks nothing is turned.")
def convolve_turned(x, weight, bias, stride):
    return package_convolve(x, weight[:, :, ::-1], bias, stride)


@CONVOLVE.mistake("The zero at the beginning and at the end is missing: the first output sees x[0] under weight[..., 1].")
def convolve_without_zeros(x, weight, bias, stride):
    return convolution1d.own(x, weight, bias, stride)[0]


@CONVOLVE.mistake("The bias is missing.")
def convolve_without_bias(x, weight, bias, stride):
    return package_convolve(x, weight, 0 * bias, stride)


@CONVOLVE.mistake("The stride is not used: every output is there, not every stride-th.")
def convolve_without_stride(x, weight, bias, stride):
    return package_convolve(x, weight, bias, 1)


@CONVOLVE.mistake("Every stride-th output is taken, but from the second on; the first is output 0.")
def convolve_from_the_second(x, weight, bias, stride):
    return package_convolve(x, weight, bias, 1)[:, :, stride - 1::stride]


@CONVOLVE.mistake("Both zeros stand at the end; one belongs before the first frame.")
def convolve_zeros_at_the_end(x, weight, bias, stride):
    return convolution1d.own(np.pad(x, ((0, 0), (0, 0), (0, 2))), weight, bias, stride)[0]
