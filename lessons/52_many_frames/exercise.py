"""52 Many frames. Fill in the bodies, then: tinycogvlm learn check 52"""
import numpy as np


def nearest_frames(times, most):
    """Which frame is shown for each whole second 0, 1, 2, ...       times (N,) -> (S,)

    times says when each frame begins, in seconds, rising. S, the number of seconds, is that of the last frame, rounded,
    and one more, but at most `most`. For each second the number of the frame whose time is nearest; of two equally
    near ones, the earlier. Half a second is rounded as Python does it.
    """
    raise NotImplementedError


def film_sequence(seconds, text, image_tokens, bos, pad):
    """Ids and types of bos, each frame and its second, the text        text (T,) -> ids (N,), types (N,)

    seconds is a list with an array of token ids for each frame: its second in words. A frame takes image_tokens places,
    which hold the id pad; its second follows. types is 0 for bos and all words, 1 for the places of the first frame,
    2 for those of the second frame, and so on.
    """
    raise NotImplementedError
