"""What functions return in a case of a contract, and whether two of them agree."""
import numpy as np

ALIKE = 1e-5                                                # numbers of a mistake and of one who makes it, relative


def telling(right):
    """Whether a result has so many numbers that another one is not equal to it by chance."""
    parts = right if isinstance(right, tuple) else [right]
    return any(np.asarray(part).dtype.kind == "f" or np.size(part) > 2 for part in parts)


def outcome(function, arguments, right):
    """What comes back, as a list of arrays; None where the function does not apply. right: what should."""
    try:
        y = function(**{key: np.copy(value) if isinstance(value, np.ndarray) else value
                        for key, value in arguments.items()})
        return pieces(y) if isinstance(right, tuple) else [np.asarray(y)]
    except Exception:
        return None


def pieces(result):
    """A result as a list of arrays"""
    return [np.asarray(part) for part in (result if isinstance(result, (tuple, list)) else [result])]


def agrees(mine, wrong, right):
    """Whether the learner's outcome is the mistake's: True, False, or None where that says nothing of the mistake."""
    if wrong is None or mine is None or (lost(mine) and not lost(wrong)):         # it overflows as well
        return None
    if len(mine) != len(wrong) or not all(map(alike, mine, wrong)):
        return False
    right = pieces(right)
    settled = [np.where(np.isnan(part), other, part) if part.dtype.kind == "f" and part.shape == other.shape else part
               for part, other in zip(right, wrong)]
    return None if all(map(alike, settled, wrong)) else True


def lost(parts):
    return not all(np.isfinite(part).all() for part in parts if part.dtype.kind == "f")


def alike(a, b):
    if a.shape != b.shape or a.dtype == object:
        return False
    a, b = a.astype(np.float64), b.astype(np.float64)
    scale = max(1.0, np.abs(b[np.isfinite(b)]).max(initial=0))
    return bool(np.allclose(a, b, rtol=ALIKE, atol=ALIKE * scale * 1e-2, equal_nan=True))
