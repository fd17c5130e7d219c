"""55 Ears without labels: a solution"""
import numpy as np


def hidden(starts, frames, length):
    y = np.zeros(frames, bool)
    for start in starts:
        y[start:start + length] = True
    return y


def k_means_round(x, centres):
    distances = ((x[:, None] - centres) ** 2).sum(-1)
    labels, y = distances.argmin(1), centres.copy()
    for i in range(len(centres)):
        if (labels == i).any():
            y[i] = x[labels == i].mean(0)
    return y


def masked_loss(features, codes, targets, hidden, temperature):
    x, targets = features[hidden], targets[hidden]
    x = x / np.sqrt((x ** 2).sum(-1, keepdims=True))
    codes = codes / np.sqrt((codes ** 2).sum(-1, keepdims=True))
    logits = x @ codes.T / temperature
    logits = logits - logits.max(-1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -log_p[np.arange(len(targets)), targets].mean()
