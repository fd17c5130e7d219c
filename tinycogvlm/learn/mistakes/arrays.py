"""Lesson 01: arrays, and gradients by finite differences."""
import numpy as np

from .table import mistake, right


@mistake("linear", says="The bias is missing.")
def bias_missing(x, weight, bias=None):
    return x @ weight.T


@mistake("linear", says="The bias is subtracted; the equation adds it.")
def bias_subtracted(x, weight, bias=None):
    return x @ weight.T - (0 if bias is None else bias)


@mistake("numerical_gradient", says="One step for all entries at once: each partial derivative moves ONE entry of x.")
def all_entries_moved(f, x, step=1e-5):
    return np.full(x.shape, (f(x + step) - f(x - step)) / (2 * step))


@mistake("numerical_gradient", says="This is twice the gradient: from x - step to x + step it is 2 steps, not one.")
def divided_by_one_step(f, x, step=1e-5):
    return 2 * right("numerical_gradient", f=f, x=x)


@mistake("numerical_gradient", says="This is half the gradient: a step on one side only, divided by two steps.")
def half_a_difference(f, x, step=1e-5):
    return right("numerical_gradient", f=f, x=x) / 2


@mistake("numerical_gradient", says="The sign is the wrong way round: f(x + step) - f(x - step), not the reverse.")
def difference_reversed(f, x, step=1e-5):
    return -right("numerical_gradient", f=f, x=x)


@mistake("numerical_gradient",
         says="This is a difference on one side, (f(x + step) - f(x)) / step, whose error is of the order of the "
              "step; the central one, (f(x + step) - f(x - step)) / (2 step), errs by the step's square.")
def one_sided(f, x, step=1e-5):
    gradient = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        ahead = x.copy()
        ahead[place] += step
        gradient[place] = (f(ahead) - f(x)) / step
    return gradient


@mistake("linear_gradients",
         says="dbias lacks the broadcast sum: the one bias was added to every row, so its gradient is the sum of "
              "dy over all rows, of shape (O,).")
def broadcast_sum_missing(dy, x, weight, bias):
    dx, dweight, _ = right("linear_gradients", dy=dy, x=x, weight=weight, bias=bias)
    return dx, dweight, dy


@mistake("linear_gradients",
         says="dbias is summed over the first axis only: every axis but the last was broadcast over.")
def summed_over_the_first_axis(dy, x, weight, bias):
    dx, dweight, _ = right("linear_gradients", dy=dy, x=x, weight=weight, bias=bias)
    return dx, dweight, dy.sum(0)


@mistake("linear_gradients", says="dbias is a mean over the rows; a gradient of a sum is a sum.")
def mean_of_the_rows(dy, x, weight, bias):
    dx, dweight, dbias = right("linear_gradients", dy=dy, x=x, weight=weight, bias=bias)
    return dx, dweight, dy.reshape(-1, dy.shape[-1]).mean(0)


@mistake("linear_gradients",
         says="dweight is transposed: it has the shape of weight, (O, I), so dy^T x and not x^T dy.")
def weight_transposed(dy, x, weight, bias):
    dx, dweight, dbias = right("linear_gradients", dy=dy, x=x, weight=weight, bias=bias)
    return dx, dweight.T, dbias
