"""53 Eleven ways, solved"""
import numpy as np


def at_equal_work(samples, losses, work):
    least = (samples[:, -1] * work).min()
    found = [np.interp(least / w, seen, loss) for w, seen, loss in zip(work, samples, losses)]
    return np.array(found, losses.dtype)
