"""52 Many frames: a solution"""
import numpy as np


def nearest_frames(times, most):
    seconds = np.arange(min(most, round(float(times[-1])) + 1))
    return np.abs(times - seconds[:, None]).argmin(1)


def film_sequence(seconds, text, image_tokens, bos, pad):
    ids, types = [bos], [0]
    for k, second in enumerate(seconds):
        ids += [pad] * image_tokens + list(second)
        types += [k + 1] * image_tokens + [0] * len(second)
    return np.array([*ids, *text]), np.array([*types, *[0] * len(text)])
