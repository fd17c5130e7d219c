"""Lesson 52: many frames: which ones a model sees, and how they become one sequence with their seconds."""
from types import SimpleNamespace

import numpy as np
from PIL import Image

from ...contracts import Contract
from ...contracts.contract import EXACT
from ...inputs import prompt, video
from ..exercise import Exercise

# ------------------------------------------------------------------------------------------------------ nearest_frames


def nearest_frames(times, most):
    """Second by second, the frame that is nearest; of two as near, the earlier"""
    found, second = [], 0
    while second < most and second <= round(float(times[-1])):
        best = 0
        for frame in range(len(times)):
            if abs(times[frame] - second) < abs(times[best] - second):
                best = frame
        found.append(best)
        second += 1
    return np.array(found)


def nearest_frames_cases():
    yield "a frame every 0.7 seconds", dict(times=0.7 * np.arange(5), most=24)
    yield "a frame every 4 seconds", dict(times=4.0 * np.arange(3), most=24)
    yield "half a second at the end", dict(times=np.array([0, 1.25, 2.5]), most=24)
    yield "30 frames a second", dict(times=np.arange(100) / 30, most=24)
    yield "a film that is cut", dict(times=0.5 * np.arange(60), most=6)
    yield "uneven times", dict(times=np.array([0, 0.2, 0.9, 3.1, 3.2, 5.9]), most=24)
    yield "one frame", dict(times=np.zeros(1), most=24)


def package_nearest_frames(times, most):
    return np.array(video.chosen(times, None, "chat", most))


NEAREST_FRAMES = Exercise(Contract("nearest_frames", nearest_frames, nearest_frames_cases, EXACT),
                          package_nearest_frames, (video.chosen,))


def of_seconds(times, most, pick):
    return np.array([pick(second) for second in range(min(most, round(float(times[-1])) + 1))])


@NEAREST_FRAMES.mistake("This is the last frame before each second; the nearest one may come after it.")
def frame_before(times, most):
    return of_seconds(times, most, lambda second: int((times <= second).sum()) - 1)


@NEAREST_FRAMES.mistake("This is the first frame after each second; the nearest one may come before it.")
def frame_after(times, most):
    return of_seconds(times, most, lambda second: min(int((times < second).sum()), len(times) - 1))


@NEAREST_FRAMES.mistake("Seconds are multiplied by a rate of frames; look for the nearest time instead: films are uneven.")
def by_the_rate(times, most):
    rate = len(times) / times[-1] if times[-1] else 1
    return of_seconds(times, most, lambda second: int(second * rate))


@NEAREST_FRAMES.mistake("This is the nearest second for each frame; the nearest frame for each second is wanted.")
def seconds_for_frames(times, most):
    seconds = np.arange(min(most, round(float(times[-1])) + 1))
    return np.abs(times - seconds[:, None]).argmin(0)


@NEAREST_FRAMES.mistake("The last second is missing: with frames up to second 3 there are 0, 1, 2 and 3.")
def last_second_missing(times, most):
    return nearest_frames(times, min(most, round(float(times[-1]))))


@NEAREST_FRAMES.mistake("The time of the last frame is rounded down; it should go to the nearest second.")
def end_rounded_down(times, most):
    return nearest_frames(times, min(most, int(times[-1]) + 1))


@NEAREST_FRAMES.mistake("The film is not cut: at most `most` frames are shown.")
def not_cut(times, most):
    return nearest_frames(times, 10 ** 6)


@NEAREST_FRAMES.mistake("These are times of frames; the numbers of the frames are wanted.")
def times_instead(times, most):
    return times[nearest_frames(times, most)]


@NEAREST_FRAMES.mistake("Of two frames that are as near, the later one is taken; it should be the earlier.")
def later_of_two(times, most):
    return of_seconds(times, most,
                      lambda second: len(times) - 1 - int(np.abs(times[::-1] - second).argmin()))


@NEAREST_FRAMES.mistake("These are frames 0, 1, 2, ... in their order, whatever their times are.")
def every_frame(times, most):
    return np.arange(min(most, len(times)))


# ------------------------------------------------------------------------------------------------------- film_sequence

def film_sequence(seconds, text, image_tokens, bos, pad):
    """bos; for each frame its places and then its second; the text"""
    ids, types = [bos], [0]
    for k in range(len(seconds)):
        for _ in range(image_tokens):
            ids.append(pad)
            types.append(k + 1)
        for token in seconds[k].tolist():
            ids.append(token)
            types.append(0)
    for token in text.tolist():
        ids.append(token)
        types.append(0)
    return np.array(ids), np.array(types)


def film_sequence_cases():
    def case(seconds, text, image_tokens=3, bos=1, pad=0):
        return dict(seconds=[np.array(ids, np.int64) for ids in seconds], text=np.array(text, np.int64),
                    image_tokens=image_tokens, bos=bos, pad=pad)
    yield "two frames", case([[7], [8]], [20, 21])
    yield "seconds of one and two tokens", case([[9], [4, 5], [4, 6]], [20])
    yield "one frame", case([[7]], [30, 31, 32], 5)
    yield "frames without seconds", case([[], []], [20])
    yield "no text", case([[7], [8]], [])
    yield "another tokenizer's ids", case([[40], [41]], [42], 4, 128, 130)


def package_film_sequence(seconds, text, image_tokens, bos, pad):
    """As prompt.build does, for words that are ids already and frames of one pixel."""
    config = SimpleNamespace(bos_token_id=bos, pad_token_id=pad, num_image_tokens=image_tokens,
                             max_position_embeddings=999, vision=SimpleNamespace(image_size=1),
                             traits=SimpleNamespace(bos=True))
    words = {str(k): ids.tolist() for k, ids in enumerate(seconds)} | {"": text.tolist()}
    tokenizer = SimpleNamespace(encode=lambda letters: words[letters])
    clip = video.Video([Image.new("RGB", (1, 1))] * len(seconds))
    inputs = prompt.build.own(config, tokenizer, "", [clip])
    return inputs.ids[0], inputs.types[0]


FILM_SEQUENCE = Exercise(Contract("film_sequence", film_sequence, film_sequence_cases, EXACT), package_film_sequence,
                         (prompt.build, video.Video))


@FILM_SEQUENCE.mistake("Each second stands before its frame; there it has not seen the frame. It should follow it.")
def second_before_frame(seconds, text, image_tokens, bos, pad):
    ids, types = [bos], [0]
    for k, second in enumerate(seconds):
        ids += [*second, *[pad] * image_tokens]
        types += [0] * len(second) + [k + 1] * image_tokens
    return np.array([*ids, *text]), np.array([*types, *[0] * len(text)])


@FILM_SEQUENCE.mistake("The frames run together: number their places 1, 2, ..., so that they can be told apart.")
def frames_alike(**arguments):
    ids, types = film_sequence(**arguments)
    return ids, (types > 0).astype(int)


@FILM_SEQUENCE.mistake("The seconds are missing: without them a model cannot know when something happens.")
def seconds_missing(seconds, **more):
    return film_sequence(seconds=[ids[:0] for ids in seconds], **more)


@FILM_SEQUENCE.mistake("All seconds come after the last frame; each should follow its own.")
def seconds_at_the_end(seconds, text, **more):
    return film_sequence(seconds=[ids[:0] for ids in seconds], text=np.concatenate([*seconds, text]), **more)


@FILM_SEQUENCE.mistake("The seconds are words, and words have type 0; here they count as part of their frame.")
def seconds_typed_as_frames(seconds, text, image_tokens, bos, pad):
    ids, _ = film_sequence(seconds, text, image_tokens, bos, pad)
    types = [0, *[k + 1 for k, second in enumerate(seconds) for _ in range(image_tokens + len(second))]]
    return ids, np.array([*types, *[0] * len(text)])


@FILM_SEQUENCE.mistake("Frames are numbered from 0 here; 0 is text, so the first frame has 1.")
def frames_from_zero(**arguments):
    ids, types = film_sequence(**arguments)
    return ids, np.maximum(types - 1, 0)


@FILM_SEQUENCE.mistake("The text comes before the frames; it should follow them.")
def text_first(seconds, text, image_tokens, bos, pad):
    ids, types = film_sequence(seconds, text[:0], image_tokens, bos, pad)
    return np.concatenate([ids[:1], text, ids[1:]]), np.concatenate([types[:1], 0 * text, types[1:]])


@FILM_SEQUENCE.mistake("bos is missing: every row begins with it.")
def no_bos(**arguments):
    return tuple(array[1:] for array in film_sequence(**arguments))


@FILM_SEQUENCE.mistake("Two places too many for each frame: image_tokens counts boi and eoi already.")
def frame_ends_twice(image_tokens, **more):
    return film_sequence(image_tokens=image_tokens + 2, **more)
