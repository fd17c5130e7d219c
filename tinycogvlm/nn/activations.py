"""Activations beside ops.gelu, ops.silu and ops.swiglu: each y = f(x) for every number, and its pullback."""
import math

from .ops import elementwise, sigmoid
from .swap import op

ROOT = math.sqrt(2 / math.pi)                               # of gelu_tanh
FAR = 16                                                    # where its gate is 0 or 1, to rounding, and x^3 no overflow


@op
def relu(x):
    """y = max(x, 0)                                        x (...) -> (...)   The slope at 0 is 0, as in torch."""
    def forward(x, y, xp):
        xp.maximum(x, 0, out=y)

    def backward(x, dy, dx, xp):
        xp.multiply(dy, x > 0, out=dx)
    return elementwise(forward, x), lambda dy: elementwise(backward, x, dy)


@op
def squared_relu(x):
    """y = max(x, 0)^2                                      x (...) -> (...)   So et al. 2021 (arXiv 2109.08668, "Primer")"""
    def forward(x, y, xp):
        xp.maximum(x, 0, out=y)
        y *= y

    def backward(x, dy, dx, xp):
        xp.maximum(x, 0, out=dx)
        dx *= 2
        dx *= dy
    return elementwise(forward, x), lambda dy: elementwise(backward, x, dy)


@op
def quick_gelu(x):
    """y = x / (1 + exp(-1.702 x))                          x (...) -> (...)   OpenAI's CLIP (arXiv 2103.00020)

    An approximation of GELU that is off by up to 0.02: weights trained with one are not right with the other.
    """
    def forward(x, y, xp):
        xp.multiply(x, sigmoid(1.702 * x, xp), out=y)

    def backward(x, dy, dx, xp):                            # with s = sigmoid(1.702 x): s (1 + 1.702 x (1 - s)) dy
        s = sigmoid(1.702 * x, xp)
        xp.subtract(1, s, out=dx)
        dx *= 1.702 * x
        dx += 1
        dx *= s
        dx *= dy
    return elementwise(forward, x), lambda dy: elementwise(backward, x, dy)


@op
def gelu_tanh(x):
    """y = x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2            x (...) -> (...)   SigLIP, and GELU in JAX

    Hendrycks & Gimpel 2016 (arXiv 1606.08415), their approximation, off by up to 5e-4. With sigmoid(2 u) in the place
    of (1 + tanh(u)) / 2 no digit of the lower tail is lost.
    """
    def gate(x, xp):                                        # s = sigmoid(2 u)
        return sigmoid((2 * ROOT) * (x + 0.044715 * (x * x * x)), xp)

    def forward(x, y, xp):
        xp.multiply(x, gate(xp.clip(x, -FAR, FAR), xp), out=y)

    def backward(x, dy, dx, xp):                            # s (1 + x (1 - s) 2 u') dy
        x = xp.clip(x, -FAR, FAR)
        s = gate(x, xp)
        xp.subtract(1, s, out=dx)
        dx *= (2 * ROOT) * x * (1 + 3 * 0.044715 * (x * x))
        dx += 1
        dx *= s
        dx *= dy
    return elementwise(forward, x), lambda dy: elementwise(backward, x, dy)


@op
def logistic(x):
    """y = 1 / (1 + exp(-x)), the sigmoid                    x (...) -> (...)"""
    def forward(x, y, xp):
        y[...] = sigmoid(x, xp)

    def backward(y, dy, dx, xp):
        xp.subtract(1, y, out=dx)
        dx *= y
        dx *= dy
    y = elementwise(forward, x)
    return y, lambda dy: elementwise(backward, y, dy)


@op
def tanh(x):
    """y = tanh(x)                                          x (...) -> (...)"""
    def forward(x, y, xp):
        xp.tanh(x, out=y)

    def backward(y, dy, dx, xp):                            # (1 - y^2) dy
        xp.multiply(y, y, out=dx)
        xp.subtract(1, dx, out=dx)
        dx *= dy
    y = elementwise(forward, x)
    return y, lambda dy: elementwise(backward, y, dy)


@op
def hard_sigmoid(x):
    """y = min(max(x + 3, 0), 6) / 6                        x (...) -> (...)   Howard et al. 2019 (arXiv 1905.02244)

    MobileNetV3's sigmoid of straight lines. The slope at -3 and 3 is 0, as in torch.
    """
    def forward(x, y, xp):
        xp.clip(x / 6 + 0.5, 0, 1, out=y)

    def backward(x, dy, dx, xp):
        xp.multiply(dy, (abs(x) < 3) / x.dtype.type(6), out=dx)
    return elementwise(forward, x), lambda dy: elementwise(backward, x, dy)


@op
def hard_swish(x):
    """y = x min(max(x + 3, 0), 6) / 6                      x (...) -> (...)   Howard et al. 2019 (arXiv 1905.02244)"""
    def forward(x, y, xp):
        xp.multiply(x, xp.clip(x / 6 + 0.5, 0, 1), out=y)

    def backward(x, dy, dx, xp):                            # x / 3 + 1/2 between -3 and 3; beyond them 0 and 1
        xp.multiply(dy, xp.where(abs(x) < 3, x / 3 + 0.5, x > 0), out=dx)
    return elementwise(forward, x), lambda dy: elementwise(backward, x, dy)
