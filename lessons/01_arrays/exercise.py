"""01 Arrays. Fill in the bodies, then: tinycogvlm learn check 01"""
import numpy as np


def linear(x, weight, bias=None):
    """y = x W^T + b                        x (..., I), weight (O, I), bias (O,) -> (..., O)

    x may have any number of leading axes; bias may be None.
    """
    raise NotImplementedError


def numerical_gradient(f, x, step=1e-5):
    """The partial derivatives of f at x, by central differences        x (...) -> (...)

    f takes an array of x's shape and returns one number. x itself must not change.
    """
    raise NotImplementedError


def linear_gradients(dy, x, weight, bias):
    """The gradients of sum(dy * linear(x, weight, bias)) with respect to x, weight and bias

    dy (..., O), x (..., I), weight (O, I), bias (O,) -> dx (..., I), dweight (O, I), dbias (O,)
    """
    raise NotImplementedError
