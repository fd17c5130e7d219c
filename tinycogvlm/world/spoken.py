"""Spoken digits with the time of every phone, by the program espeak-ng: what HuBERT's miniature learns from.

The synthetic voices are needed when the sounds are made, not afterwards: `apt-get install espeak-ng`. Its library is
called through ctypes, because only that says when each phone begins.
"""
import ctypes
from ctypes.util import find_library
from dataclasses import dataclass
from functools import cache

import numpy as np

from ..errors import UserError
from .scenes import Dice

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RATE = 16000                                                # samples a second
VOICES = ("m1", "m3", "m5", "m7", "f1", "f3", "f5", "klatt", "klatt3", "max", "steph", "adam")
UNHEARD = ("m2", "f2", "klatt2", "edward")                  # those of the test
ACCENTS = ("en-us", "en-gb-scotland", "en-gb-x-rp")

SYNCHRONOUS, PHONEME_EVENTS, UTF8 = 2, 1, 1                 # of espeak-ng's speak_lib.h
PHONEME, END = 7, 0                                         # types of an event
SPEED, PITCH = 1, 3                                         # parameters


class Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h"""
    _fields_ = [("type", ctypes.c_int), ("identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
                ("length", ctypes.c_int), ("milliseconds", ctypes.c_int), ("sample", ctypes.c_int),
                ("user_data", ctypes.c_void_p), ("name", ctypes.c_char * 8)]


@dataclass(frozen=True)
class Spoken:
    """Some digits, said by one voice"""
    digits: tuple
    voice: str
    wave: np.ndarray                    # (N,) float32, RATE samples a second
    phones: tuple                       # (second at which it begins, espeak-ng's name) of each; "" is silence

    def phone_at(self, seconds):
        """The phone that sounds at each of these times"""
        begins = np.array([begin for begin, _ in self.phones])
        return [self.phones[i][1] for i in np.maximum(np.searchsorted(begins, seconds, "right") - 1, 0)]


def say(split, number, count=1):
    """Spoken number `number` of a split: `count` digits by a voice, an accent, a speed and a pitch drawn at random

    Of the split "test" the voices are UNHEARD, of any other VOICES.
    """
    dice = Dice(f"spoken {split}", number)
    digits = tuple(dice.below(10) for _ in range(count))
    voice = f"{dice.choice(ACCENTS)}+{dice.choice(UNHEARD if split == 'test' else VOICES)}"
    return spoken(digits, voice, dice.between(130, 190), dice.between(30, 70))


def spoken(digits, voice, speed=160, pitch=50):
    """Spoken of digits: speed in words a minute, pitch from 0 to 99"""
    library, rate = espeak()
    if library.espeak_SetVoiceByName(voice.encode()):
        raise UserError(f"espeak-ng has no voice {voice!r}")
    library.espeak_SetParameter(SPEED, speed, 0)
    library.espeak_SetParameter(PITCH, pitch, 0)
    waves, phones = [], [(0.0, "")]

    def receive(samples, count, events):
        if count > 0:
            waves.append(np.ctypeslib.as_array(samples, (count,)).copy())
        i = 0
        while events[i].type != END:
            if events[i].type == PHONEME:
                phones.append((events[i].milliseconds / 1000, events[i].name.decode(errors="replace").strip("'_:,%")))
            i += 1
        return 0
    called = CALLBACK(receive)
    library.espeak_SetSynthCallback(called)
    text = " ".join(DIGITS[digit] for digit in digits).encode()
    library.espeak_Synth(text, len(text) + 1, 0, 1, 0, UTF8, None, None)
    wave = np.concatenate(waves).astype(np.float32) / 32768
    return Spoken(tuple(digits), voice, at_rate(wave, rate), tuple(phones))


CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event))


@cache
def espeak():
    """The library of espeak-ng, begun, and its samples a second"""
    name = find_library("espeak-ng")
    library = ctypes.CDLL(name) if name else None
    rate = library.espeak_Initialize(SYNCHRONOUS, 0, None, PHONEME_EVENTS) if library else -1
    if rate < 0:
        raise UserError("the synthetic voices need the program espeak-ng: apt-get install espeak-ng")
    return library, rate


def at_rate(wave, rate):
    """The wave with RATE samples a second: its Fourier transform, cut off above half that rate"""
    count = round(len(wave) * RATE / rate)
    return (np.fft.irfft(np.fft.rfft(wave)[:count // 2 + 1], count) * (count / len(wave))).astype(np.float32)
