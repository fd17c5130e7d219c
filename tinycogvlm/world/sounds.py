"""Sounds made of numbers, and the words for them: tones for CLAP's miniature, things that can be heard for CogVLM's.

Loudness, length, pitch and overtones are drawn anew for every sound, within what the word allows.
"""
import numpy as np

SLOT = 19200                                                # samples of a thing that is heard
RATE = 16000                                                # samples a second
PITCH = {"low": (150, 250), "middle": (450, 650), "high": (1200, 1700)}     # hertz
MOVE = {"falling": -1.2, "level": 0.0, "rising": 1.2}       # octaves a second
RHYTHM = {"steady": 0, "slow": 3, "fast": 8}                # beeps a second; 0: without a pause
WORDS = tuple((pitch, move, rhythm) for pitch in PITCH for move in MOVE for rhythm in RHYTHM)
UNHEARD = tuple(words for i, words in enumerate(WORDS) if (i // 9 + i // 3 + i) % 3 == 0)   # never in training
HEARD = tuple(words for words in WORDS if words not in UNHEARD)


def tone(words, random):
    """A second of a (pitch, move, rhythm)                  -> (RATE,) float32          random: a NumPy generator"""
    pitch, move, rhythm = words
    t = np.arange(RATE) / RATE
    octaves = MOVE[move] * random.uniform(0.8, 1.2) * (t - 0.5)
    wave = sung(random.uniform(*PITCH[pitch]) * 2 ** octaves, random.uniform(0, 0.5, 3))
    beeps = RHYTHM[rhythm] * random.uniform(0.9, 1.1)
    wave *= (np.sin(2 * np.pi * (beeps * t + random.uniform())) > 0) if beeps else 1
    return noisy(wave, random)


def sung(hertz, overtones=()):
    """A wave whose frequency is hertz (N,) at each sample, with the loudness of the second, third ... overtone"""
    phase = 2 * np.pi * np.cumsum(hertz) / RATE
    return np.sin(phase) + sum(loud * np.sin((i + 2) * phase) for i, loud in enumerate(overtones))


def noisy(wave, random):
    """Of a random loudness, over a little noise"""
    wave = wave / np.abs(wave).max() * random.uniform(0.3, 1) + random.uniform(0, 0.03) * random.standard_normal(len(wave))
    return wave.astype(np.float32)


# What can be heard: (t, random) -> wave. t: the seconds from its beginning, (N,)

def bark(t, random):
    """A dog: two short falling yelps"""
    gate = (t % 0.5 < 0.16) * np.exp(-8 * (t % 0.5))
    return gate * (sung(500 * 2 ** (-3 * (t % 0.5)), (0.8, 0.6, 0.4)) + 0.5 * random.standard_normal(len(t)))


def meow(t, random):
    """A cat: up, then long down"""
    return np.sin(np.pi * t) * sung(600 + 350 * np.sin(np.pi * np.minimum(1, 1.4 * t)), (0.6, 0.5))


def moo(t, random):
    """A cow: low, long, nearly level"""
    return np.sin(np.pi * t) ** 0.5 * sung(140 + 25 * np.sin(np.pi * t), (0.9, 0.7, 0.6, 0.3))


def croak(t, random):
    """A frog: low pulses, thirty a second, in two bursts"""
    return (t % 0.5 < 0.3) * (np.sin(2 * np.pi * 30 * t) > 0.3) * sung(np.full(len(t), 320.0), (0.7, 0.5))


def roar(t, random):
    """A lion: low noise that swells"""
    return np.sin(np.pi * t) * smooth(random.standard_normal(len(t)), 60) * (1 + 0.5 * np.sin(2 * np.pi * 18 * t))


def hoot(t, random):
    """An owl: one short and one long pure tone"""
    return ((t < 0.2) | ((t > 0.35) & (t < 0.85))) * sung(400 - 40 * t)


def hum(t, random):
    """A bee: a low tone with many overtones that trembles"""
    return sung(230 + 12 * np.sin(2 * np.pi * 7 * t), 0.9 ** np.arange(1, 12))


def ring(t, random):
    """A bell: partials that no tone has, dying away"""
    return sum(np.exp(-(3 + i) * t) * np.sin(2 * np.pi * 880 * ratio * t)
               for i, ratio in enumerate((1, 2.41, 3.9, 5.3)))


def tick(t, random):
    """A clock: clicks, four a second"""
    return np.exp(-250 * (t % 0.25)) * np.sin(2 * np.pi * 2500 * t)


def neigh(t, random):
    """A horse: high, falling, in a quick trill"""
    return np.sin(np.pi * t) * sung(1100 - 550 * t + 90 * np.sin(2 * np.pi * 14 * t), (0.6, 0.4))


def oink(t, random):
    """A pig: two short grunts, rising"""
    return (t % 0.45 < 0.22) * (sung(180 + 700 * (t % 0.45), (0.9, 0.8, 0.7)) + 0.4 * random.standard_normal(len(t)))


def cluck(t, random):
    """A chicken: quick high chirps"""
    return (t % 0.16 < 0.07) * sung(900 + 3000 * (t % 0.16), (0.5,))


VOICES = {"dog": bark, "cat": meow, "cow": moo, "frog": croak, "lion": roar, "owl": hoot, "bee": hum, "bell": ring,
          "clock": tick, "horse": neigh, "pig": oink, "chicken": cluck}


def smooth(wave, width):
    """The mean of each `width` neighbours"""
    return np.convolve(wave, np.full(width, width ** -0.5), "same")


def heard(things, random):
    """The sounds of some names of VOICES, one after the other -> a wave of 1.2 seconds each

    Each lasts a second, or up to a fifth more or less, somewhere in its 1.2 seconds.
    """
    wave = np.zeros(len(things) * SLOT, np.float32)
    for i, thing in enumerate(things):
        count = int(RATE * random.uniform(0.8, 1.2))
        begin = i * SLOT + random.integers(SLOT - count + 1)
        wave[begin:begin + count] = noisy(VOICES[thing](np.arange(count) / count, random), random)
    return wave
