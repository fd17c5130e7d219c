"""58 Eyes for a language model, solved"""
import numpy as np


def least_squares(x, y, ridge):
    squares = x.T @ x + ridge * np.eye(x.shape[1], dtype=x.dtype)
    return np.linalg.solve(squares, x.T @ y).T


def low_rank(x, w, a, b):
    return x @ w.T + x @ a.T @ b.T


def soft_cross_entropy(logits, best, shares):
    p = np.zeros_like(logits)
    np.put_along_axis(p, best, shares / shares.sum(-1, keepdims=True), -1)
    x = logits - logits.max(-1, keepdims=True)
    log_q = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return -(p * log_q).sum(-1).mean(), (np.exp(log_q) - p) / len(logits)
