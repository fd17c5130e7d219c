"""Contracts of gradients: what differences of an op's specification give."""
import numpy as np

from .contract import Contract, random
from .ops import CONTRACTS


def numerical_gradient(f, x, step=1e-5):
    """df/dx_i = (f(x + step e_i) - f(x - step e_i)) / (2 step)         f: array -> number, x (...) -> (...)"""
    gradient = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        ahead, behind = x.copy(), x.copy()
        ahead[place] += step
        behind[place] -= step
        gradient[place] = (f(ahead) - f(behind)) / (2 * step)
    return gradient


def gradient_contract(name, op, wanted, applies=lambda arguments: True):
    """f(dy, *arguments of op) -> the gradients of sum(dy * y) with respect to the arguments `wanted`.

    The cases are the op's small ones that have all of `wanted` and for which `applies(arguments)` is true. A loss,
    which is one number, has no dy.
    """
    contract = CONTRACTS[op]

    def cases():
        for label, arguments in contract.cases():
            count = sum(value.size for value in arguments.values() if isinstance(value, np.ndarray))
            if count < 200 and not label.startswith("large") and set(wanted) <= set(arguments) and applies(arguments):
                y = contract.spec(**arguments)
                yield label, ({"dy": random(*y.shape, seed=9)} if np.ndim(y) else {}) | arguments

    def spec(dy=1.0, **arguments):
        def loss(argument):
            return lambda value: float(np.sum(dy * contract.spec(**arguments | {argument: value})))

        def step(argument):
            return 1e-4 * min(1, np.abs(arguments[argument]).max() or 1)
        found = tuple(numerical_gradient(loss(name), arguments[name], step(name)) for name in wanted)
        return found if len(found) > 1 else found[0]
    return Contract(name, spec, cases, {"float64": 1e-6, "float32": 1e-4})
