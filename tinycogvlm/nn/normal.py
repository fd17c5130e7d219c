"""The normal distribution's tail for whole arrays, without SciPy: what the exact GELU needs."""
import math
from functools import lru_cache

import numpy as np

from .arrays import namespace

MILLS_CENTRE = 3                                            # the a at which t, below, is 0


def normal_tail(a):
    """The upper tail Q(a) = 1 - Phi(a) and the density phi(a) of the standard normal distribution, for a >= 0

    Accurate to rounding: in float64 relative to Q, in float32 and float16 relative to 1. Q = phi M, where Mills' ratio
    M falls smoothly from sqrt(pi/2) to 0 and is close to a polynomial in t = (a - c) / (a + c).
    """
    xp, c = namespace(a), MILLS_CENTRE
    coefficients = mills_polynomial(24) if a.dtype == np.float64 else mills_polynomial(7, even=False)
    t = a - c
    t /= a + c
    mills = coefficients[-1] * t
    for coefficient in coefficients[-2:0:-1]:               # Horner
        mills += coefficient
        mills *= t
    mills += coefficients[0]
    with np.errstate(over="ignore"):                        # float16: exp(-inf) = 0 is right
        density = a * a
    density *= -0.5
    xp.exp(density, out=density)
    density *= 1 / math.sqrt(2 * math.pi)
    mills *= density
    return mills, density


@lru_cache
def logit_polynomial():
    """Coefficients, lowest first, of h in log(Phi(x) / (1 - Phi(x))) = x h(x^2), an odd function, fitted for |x| < 6

    Errors count as they change x Phi(x): by 7e-8 at most. Beyond 6 h goes on rising, and Phi(x) is 0 or 1.
    """
    t = np.cos((np.arange(64) + 0.5) * np.pi / 64)          # Chebyshev nodes
    squares = 18 * (1 + t)
    h, weight = np.empty(64), np.empty(64)
    for i, x in enumerate(np.sqrt(squares)):
        tail = math.erfc(x / math.sqrt(2)) / 2
        h[i] = (math.log1p(-tail) - math.log(tail)) / x
        weight[i] = x * x * tail * (1 - tail) + 1e-9
    fit = np.polynomial.Chebyshev.fit(squares, h, 6, w=weight, domain=[0, 36])
    return [float(c) for c in fit.convert(kind=np.polynomial.Polynomial).coef]


@lru_cache
def mills_polynomial(degree, even=True):
    """Coefficients, lowest first, of the polynomial in t that fits Mills' ratio M(a) = Q(a) / phi(a) for all a >= 0

    even: whether errors count alike everywhere. Otherwise they count by sqrt(phi(a)), since Q = phi M, and a third
    fewer terms do.
    """
    def mills(a):
        if a < 5:
            return math.erfc(a / math.sqrt(2)) * math.exp(a * a / 2) * math.sqrt(math.pi / 2)
        fraction = a                                        # Laplace's continued fraction a + 1/(a + 2/(a + 3/...))
        for k in range(200, 0, -1):
            fraction = a + k / fraction
        return 1 / fraction
    t = np.cos((np.arange(64) + 0.5) * np.pi / 64)          # Chebyshev nodes
    a = MILLS_CENTRE * (1 + t) / (1 - t)
    weight = None if even else np.exp(-a * a / 4) + 1e-9
    fit = np.polynomial.chebyshev.chebfit(t, [mills(x) for x in a], degree, w=weight)
    return [float(c) for c in np.polynomial.chebyshev.cheb2poly(fit)]
