"""Lesson 01: a matrix product, its gradients, and gradients by finite differences."""
import numpy as np

from ...contracts import CONTRACTS, Contract, random
from ...contracts.gradients import gradient_contract, numerical_gradient
from ...nn import ops
from ..exercise import Exercise, forward, pullback


def is_matrix(arguments):
    return arguments["weight"].ndim == 2


# -------------------------------------------------------------------------------------------------------------- linear

def fit_linear(mine, otherwise):
    return lambda x, weight, bias=None: (mine(x, weight.reshape(len(weight), -1), bias), None)


TOY = dict(x=np.array([[1.0, 2, 3], [4, 5, 6]]), weight=np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]),
           bias=np.array([0.0, 0, 0, 10]))
LINEAR = Exercise(CONTRACTS["linear"].narrowed("linear", is_matrix), forward(ops.linear), (ops.linear,),
                  part="linear", place=ops.linear, fit=fit_linear, toy=TOY)


@LINEAR.mistake("The bias is missing.")
def bias_missing(x, weight, bias=None):
    return x @ weight.T


@LINEAR.mistake("The bias is subtracted; the equation adds it.")
def bias_subtracted(x, weight, bias=None):
    return x @ weight.T - (0 if bias is None else bias)


@LINEAR.mistake(
    "Each entry of the first axis of x is taken for a row, but x may have several leading axes: "
    "x.reshape(-1, x.shape[-1]) makes them one, and @ or einsum's ... needs no loop at all.")
def rows_of_the_first_axis_alone(x, weight, bias=None):
    y = np.array([[(row * w).sum() for w in weight] for row in x])
    return y if bias is None else y + bias


# -------------------------------------------------------------------------------------------------- numerical_gradient

class Known:
    """A function of an array whose gradient is known."""

    def __init__(self, f, gradient):
        self.f, self.gradient = f, gradient

    def __call__(self, x):
        return self.f(x)


def numerical_gradient_cases():
    weight = random(2, 3)
    yield "x^2, one number", dict(f=Known(lambda x: x[0] ** 2, lambda x: 2 * x), x=np.array([3.0]))
    yield "sum of squares", dict(f=Known(lambda x: (x * x).sum(), lambda x: 2 * x), x=random(4))
    yield "sum of cubes", dict(f=Known(lambda x: (x ** 3).sum(), lambda x: 3 * x * x), x=random(5))
    yield "product of all", dict(f=Known(np.prod, lambda x: np.prod(x) / x), x=random(3) + 2)
    yield "a matrix", dict(f=Known(lambda x: (weight * np.sin(x)).sum(), lambda x: weight * np.cos(x)), x=random(2, 3))


NUMERICAL_GRADIENT = Exercise(
    Contract("numerical_gradient", lambda f, x: f.gradient(x), numerical_gradient_cases, {"float64": 1e-7}),
    numerical_gradient, (numerical_gradient,))


ALL_AT_ONCE = "All entries are moved at once: each partial derivative moves ONE entry of x."


@NUMERICAL_GRADIENT.mistake(ALL_AT_ONCE)
def one_slope_for_all(f, x, step=1e-5):
    return np.array((f(x + step) - f(x - step)) / (2 * step))


@NUMERICAL_GRADIENT.mistake(ALL_AT_ONCE)
def all_entries_moved(f, x, step=1e-5):
    return np.full(x.shape, (f(x + step) - f(x - step)) / (2 * step))


@NUMERICAL_GRADIENT.mistake(
    "A whole row of the matrix is moved at once: len(x) counts the rows; np.ndindex(x.shape) gives every place.")
def a_row_at_once(f, x, step=1e-5):
    gradient = numerical_gradient(f, x)
    return np.broadcast_to(gradient.reshape(len(x), -1).sum(1).reshape(-1, *[1] * (x.ndim - 1)), x.shape)


@NUMERICAL_GRADIENT.mistake("This is twice the gradient: from x - step to x + step it is 2 steps, not one.")
def divided_by_one_step(f, x, step=1e-5):
    return 2 * numerical_gradient(f, x)


@NUMERICAL_GRADIENT.mistake("This is half the gradient: one step to one side, divided by two steps.")
def half_a_difference(f, x, step=1e-5):
    return numerical_gradient(f, x) / 2


@NUMERICAL_GRADIENT.mistake("The sign is wrong: it is f(x + step) - f(x - step), not the reverse.")
def difference_reversed(f, x, step=1e-5):
    return -numerical_gradient(f, x)


@NUMERICAL_GRADIENT.mistake(
    "This is a one-sided difference, (f(x + step) - f(x)) / step, whose error is of the order of the step; the "
    "central one, (f(x + step) - f(x - step)) / (2 step), has an error of the order of its square.")
def one_sided(f, x, step=1e-5):
    gradient = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        ahead = x.copy()
        ahead[place] += step
        gradient[place] = (f(ahead) - f(x)) / step
    return gradient


# ---------------------------------------------------------------------------------------------------- linear_gradients

def fit_linear_gradients(mine, otherwise):
    def linear(x, weight, bias=None):
        y, _ = otherwise(x, weight, bias)
        matrix = weight.reshape(len(weight), -1)
        zeros = np.zeros(len(weight), x.dtype) if bias is None else bias

        def pull(dy, g):
            dx, dweight, dbias = mine(dy=dy, x=x, weight=matrix, bias=zeros)
            g.add("weight", lambda: dweight.reshape(weight.shape))
            if bias is not None:
                g.add("bias", lambda: dbias)
            return dx
        return y, pull
    return linear


LINEAR_GRADIENTS = Exercise(
    gradient_contract("linear_gradients", "linear", ("x", "weight", "bias"), is_matrix),
    pullback(ops.linear, "x", "weight", "bias"), (ops.linear,),
    part="linear_gradients", place=ops.linear, fit=fit_linear_gradients, runs="gradient",
    toy=dict(dy=np.array([[1.0, 1, 1, 1], [2, 2, 2, 2]]), **TOY))


@LINEAR_GRADIENTS.mistake(
    "dbias lacks the sum over rows: the one bias was added to every row, so its gradient is the sum of dy over all "
    "rows, of shape (O,).")
def broadcast_sum_missing(dy, x, weight, bias):
    dx, dweight, _ = LINEAR_GRADIENTS.package(dy=dy, x=x, weight=weight, bias=bias)
    return dx, dweight, dy


@LINEAR_GRADIENTS.mistake(
    "dbias is summed over the first axis only: the bias was broadcast over every axis but the last.")
def summed_over_the_first_axis(dy, x, weight, bias):
    dx, dweight, _ = LINEAR_GRADIENTS.package(dy=dy, x=x, weight=weight, bias=bias)
    return dx, dweight, dy.sum(0)


@LINEAR_GRADIENTS.mistake(
    "dbias is one number, the sum of all of dy; each bias has its own, summed over the rows: (O,).")
def one_number_for_all_biases(dy, x, weight, bias):
    dx, dweight, _ = LINEAR_GRADIENTS.package(dy=dy, x=x, weight=weight, bias=bias)
    return dx, dweight, dy.sum()


@LINEAR_GRADIENTS.mistake("dbias is a mean over the rows; the gradient of a sum is a sum.")
def mean_of_the_rows(dy, x, weight, bias):
    dx, dweight, dbias = LINEAR_GRADIENTS.package(dy=dy, x=x, weight=weight, bias=bias)
    return dx, dweight, dy.reshape(-1, dy.shape[-1]).mean(0)


@LINEAR_GRADIENTS.mistake("dweight is transposed: it has the shape of weight, (O, I), so dy^T x and not x^T dy.")
def weight_transposed(dy, x, weight, bias):
    dx, dweight, dbias = LINEAR_GRADIENTS.package(dy=dy, x=x, weight=weight, bias=bias)
    return dx, dweight.T, dbias
