"""58 Eyes for a language model. Fill in the bodies, then: tinycogvlm learn check 58"""
import numpy as np


def least_squares(x, y, ridge):
    """The matrix W that makes the sum of (x W^T - y)^2 + ridge W^2 smallest

    x (n, I), what a tower says, y (n, O), the embeddings of the words for it -> (O, I)
    """
    raise NotImplementedError


def low_rank(x, w, a, b):
    """y = x (W + B A)^T, without making the matrix W + B A

    x (n, I), w (O, I), a (r, I), b (O, r) -> (n, O)
    """
    raise NotImplementedError


def soft_cross_entropy(logits, best, shares):
    """The mean over the rows of -sum over k of p_k log softmax(logits)[best_k], and its gradient in the logits

    logits (n, V), best (n, K): the teacher's best tokens, different in a row; shares (n, K): how probable it finds them.
    p are a row's shares, divided by their sum -> loss scalar, gradient (n, V)
    """
    raise NotImplementedError
