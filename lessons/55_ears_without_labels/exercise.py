"""55 Ears without labels. Fill in the bodies, then: tinycogvlm learn check 55"""
import numpy as np


def hidden(starts, frames, length):
    """Which frames are hidden                              starts (n,) -> (frames,) bool

    A span of `length` frames begins at each of `starts`. Spans may overlap, and one may reach beyond the end.
    """
    raise NotImplementedError


def k_means_round(x, centres):
    """One round of k-means: each centre becomes the mean of the rows of x that are nearest to it

    x (N, D), centres (K, D) -> (K, D). A centre with no rows stays where it is.
    """
    raise NotImplementedError


def masked_loss(features, codes, targets, hidden, temperature):
    """HuBERT's loss: the mean, over hidden frames, of -log softmax(logits)[target]

    features (T, D), codes (K, D), targets (T,) below K, hidden (T,) bool -> scalar

    The logits of a frame are the cosines between its features and each code, divided by the temperature.
    """
    raise NotImplementedError
