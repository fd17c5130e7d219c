"""Sounds to waves, and waves to the log-mel spectrograms that Whisper and CLAP read.

A wave is one channel of numbers, as a rule from -1 to 1. WAV files are read here; other formats by the package
soundfile, and other sample rates by soxr, both in the extra tinycogvlm[audio].
"""
import math
import os
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..errors import UserError
from ..nn.arrays import namespace
from ..nn.swap import op
from ..storage.reading import open_file

EXTRA = "pip install 'tinycogvlm[audio]'"
BLOCK = 1 << 20                                             # samples of each channel that are decoded at a time
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE                       # codes in a WAV file's header
FRAMES = 3000                                               # of a spectrum that are computed at a time
QUIETEST = 1e-10                                            # power that the logarithm still tells from silence


# -------------------------------------------------------------------------------------------------------------- files

@dataclass(frozen=True)
class Sound:
    """A sound among the parts of a prompt: one channel of 16000 samples a second, as `load` gives it"""
    wave: np.ndarray


def load(sound, rate=16000):
    """A sound as one channel of `rate` samples a second                -> (N,) float32

    sound: a path, a file open for reading bytes, or an array (N,) or (N, channels) that has this rate already.

    Channels are averaged. Whole numbers become -1 to 1, those of an array as well (uint8, int16 or int32, as in a WAV
    file); floats stay what they are, even beyond 1 (a louder wave moves a spectrogram as a whole). Hours of sound are
    decoded a block at a time: what stays in memory is the result.
    Raises UserError, which names the file, for one that is no sound, is empty, or holds NaN or infinity.
    """
    if isinstance(sound, np.ndarray):
        wave, name = numbers(sound), "the sound"
        wave = wave.mean(1) if wave.ndim == 2 and wave.size else wave
    elif not isinstance(sound, (str, os.PathLike)) and not hasattr(sound, "tell"):
        raise UserError(f"a sound is a path, an open file or an array, not {type(sound).__name__}")
    else:
        name = str(sound) if isinstance(sound, (str, os.PathLike)) else getattr(sound, "name", "the sound")
        with opened(sound) as file:
            wave = decoded(file, name, rate)
    if wave.ndim != 1 or not wave.size:
        raise UserError(f"{name}: holds no sound: the shape of its samples is {wave.shape}")
    finite = np.isfinite(wave)
    if not finite.all():
        raise UserError(f"{name}: holds NaN or infinity, first after {finite.argmin() / rate:.2f} seconds")
    return wave


def numbers(array):
    """An array of any shape as float32, whole numbers from -1 to 1"""
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    if array.dtype.name not in ("uint8", "int16", "int32"):
        raise UserError(f"the sound is an array of {array.dtype}; pass floats, or uint8, int16 or int32 as a WAV file "
                        "has them")
    little = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return DECODERS[PCM, 8 * array.itemsize](little).reshape(array.shape)


@contextmanager
def opened(sound):
    """The file of a path, closed in the end; or the open file that was given"""
    if not isinstance(sound, (str, os.PathLike)):
        yield sound
        return
    with open_file(sound) as file:
        yield file


def decoded(file, name, rate):
    """The wave of an open file"""
    found = wav(file, name)
    its_rate, blocks = found if found else by_soundfile(file, name)
    if its_rate != rate:
        blocks = resampled(blocks, its_rate, rate, name)
    waves = list(blocks)
    return np.concatenate(waves) if waves else np.zeros(0, np.float32)


def wav(file, name):
    """(rate, blocks of the wave) of a WAV file of 8 to 32 bits or floats; None where it is anything else"""
    start = file.tell()
    riff, _, kind = struct.unpack("<4sI4s", file.read(12).ljust(12, b"\0"))
    layout = None
    while (riff, kind) == (b"RIFF", b"WAVE"):
        chunk, size = struct.unpack("<4sI", file.read(8).ljust(8, b"\0"))
        if chunk == b"data" and layout:
            return layout[0], samples(file, size, *layout[1:])
        if chunk == b"fmt ":
            head = file.read(size + size % 2)[:26].ljust(26, b"\0")
            code, channels, rate, _, _, bits = struct.unpack("<HHIIHH", head[:16])
            code = struct.unpack("<H", head[24:])[0] if code == EXTENSIBLE else code
            if (code, bits) not in DECODERS:
                break
            if not channels or not rate:
                raise UserError(f"{name}: its header says {channels} channels and {rate} samples a second")
            layout = rate, channels, bits // 8, DECODERS[code, bits]
        elif chunk == b"\0\0\0\0":
            raise UserError(f"{name}: damaged, or no sound: the WAV file ends before its samples")
        else:
            file.seek(size + size % 2, os.SEEK_CUR)
    file.seek(start)
    return None


def samples(file, size, channels, width, decode):
    """Blocks of the wave in `size` bytes of a file, or in what there is of them"""
    while size > 0:
        content = file.read(min(size, BLOCK * channels * width))
        size = size - len(content) if content else 0
        whole = len(content) // (channels * width) * channels * width
        if whole:
            yield decode(content[:whole]).reshape(-1, channels).mean(1, dtype=np.float32)


def whole_numbers(kind, offset=0):
    """bytes -> float32 from -1 to 1"""
    def decode(content):
        numbers = np.frombuffer(content, kind)
        return (numbers.astype(np.float32) - offset) / np.float32(2 ** (8 * numbers.itemsize - 1))
    return decode


def three_bytes(content):
    numbers = np.zeros((len(content) // 3, 4), np.uint8)
    numbers[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)                # the high bytes of 32 bits
    return whole_numbers("<i4")(numbers.tobytes())


DECODERS = {(PCM, 8): whole_numbers("u1", 128), (PCM, 16): whole_numbers("<i2"), (PCM, 24): three_bytes,
            (PCM, 32): whole_numbers("<i4"), (FLOAT, 32): lambda content: np.frombuffer(content, "<f4"),
            (FLOAT, 64): lambda content: np.frombuffer(content, "<f8").astype(np.float32)}


def by_soundfile(file, name):
    """(rate, blocks of the wave) of a file in any format that soundfile knows"""
    try:
        import soundfile
    except ImportError:
        raise UserError(f"{name}: is no WAV file of 8 to 32 bits; other formats need soundfile: {EXTRA}") from None
    try:
        found = soundfile.SoundFile(file)
    except (soundfile.SoundFileError, TypeError) as error:
        raise UserError(f"{name}: damaged, or no sound ({getattr(error, 'error_string', error)})") from None

    def blocks():
        try:
            while len(block := found.read(BLOCK, "float32", always_2d=True)):
                yield block.mean(1)
        except soundfile.SoundFileError as error:
            raise UserError(f"{name}: damaged ({getattr(error, 'error_string', error)})") from None
    return found.samplerate, blocks()


def resampled(blocks, before, after, name):
    """Blocks of a wave, from `before` to `after` samples a second"""
    try:
        import soxr
    except ImportError:
        raise UserError(f"{name}: has {before} samples a second; for {after} soxr is needed: {EXTRA}") from None
    stream = soxr.ResampleStream(before, after, 1, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


# -------------------------------------------------------------------------------------------------------- mel spectra

def slaney(mel):
    """Frequency of a mel: 200/3 Hz a mel up to 1000 Hz, above a factor of 6.4 in 27 mels (Slaney's Auditory Toolbox)"""
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * math.log(6.4) / 27))


def slaney_mel(hertz):
    return hertz * 3 / 200 if hertz < 1000 else 15 + math.log(hertz / 1000) * 27 / math.log(6.4)


def htk(mel):
    """Frequency of a mel: 700 (10^(mel / 2595) - 1), as in the Hidden Markov Model Toolkit"""
    return 700 * (10 ** (mel / 2595) - 1)


def htk_mel(hertz):
    return 2595 * math.log10(1 + hertz / 700)


@lru_cache
def mel_filters(mels, n_fft, rate, low=0.0, high=None, scale="slaney"):
    """How much of every frequency each mel band takes                  -> (mels, n_fft / 2 + 1)

    Triangles between frequencies that are equally far apart in mels. scale: "slaney", where a triangle's area is 1, or
    "htk", where its height is.
    """
    to_mel, to_hertz = (slaney_mel, slaney) if scale == "slaney" else (htk_mel, htk)
    edges = to_hertz(np.linspace(to_mel(low), to_mel(rate / 2 if high is None else high), mels + 2))
    frequencies = np.arange(n_fft // 2 + 1) * rate / n_fft
    left, centre, right = (edges[i:i + mels, None] for i in range(3))
    triangles = np.maximum(0, np.minimum((frequencies - left) / (centre - left), (right - frequencies)
                                         / (right - centre)))
    return triangles * 2 / (right - left) if scale == "slaney" else triangles


@op
def mel_power(wave, filters, hop):
    """y[t] = filters |F(window x[t hop - n / 2 ... t hop + n / 2])|^2  wave (N,), filters (mels, n / 2 + 1) -> (T, mels)

    F is the discrete Fourier transform over n samples, T = N // hop + 1; the window is Hann's for periods,
    (1 - cos(2 pi i / n)) / 2. Around the wave stands its mirror image. The pullback computes the spectrum again.
    """
    xp, N, n = namespace(wave), len(wave), 2 * (filters.shape[1] - 1)
    if n // 2 >= N:
        raise UserError(f"a wave of {N} samples is too short: a spectrum takes more than {n // 2}")
    window = ((1 - xp.cos(2 * math.pi * xp.arange(n) / n)) / 2).astype(wave.dtype)
    mirrored = abs(xp.arange(-(n // 2), N + n // 2))
    mirrored = xp.where(mirrored < N, mirrored, 2 * (N - 1) - mirrored)
    filters, T = xp.asarray(filters, wave.dtype), N // hop + 1

    def blocks():
        for start in range(0, T, FRAMES):
            stop = min(start + FRAMES, T)
            places = mirrored[xp.arange(start, stop)[:, None] * hop + xp.arange(n)]     # of each frame's samples
            yield slice(start, stop), places, xp.fft.rfft(wave[places] * window)
    y = xp.empty((T, len(filters)), wave.dtype)
    for rows, _, spectrum in blocks():
        y[rows] = (spectrum.real ** 2 + spectrum.imag ** 2).astype(wave.dtype, copy=False) @ filters.T

    def pull(dy):
        dwave = xp.zeros_like(wave)
        for rows, places, spectrum in blocks():
            dspectrum = 2 * (dy[rows] @ filters) * spectrum
            dspectrum[:, 1:-1] /= 2                         # irfft counts these twice, for the negative frequencies
            dframes = xp.fft.irfft(dspectrum, n) * n * window
            xp.add.at(dwave, places, dframes.astype(wave.dtype, copy=False))
        return dwave
    return y, pull


@op
def whisper_log_mel(wave, filters):
    """y = (max(m, max m - 8) + 4) / 4, m = log10(mel_power), without its last frame    (N,) -> (mels, N // 160)

    The wave has 16000 samples a second; filters: mel_filters(80 or 128, 400, 16000). The floor is 80 dB below the
    loudest of all frames, so that of one window depends on what stands in it.
    """
    xp = namespace(wave)
    power, pull_power = mel_power(wave, filters, 160)
    power = power[:-1]
    log = xp.log10(xp.maximum(power, QUIETEST))
    floor = log.max() - 8
    y = (xp.maximum(log, floor) + 4) / 4

    def pull(dy):
        dlog = dy.T / 4
        dfloor = dlog[log < floor].sum()
        dlog = xp.where(log < floor, 0, dlog)               # new, one row after the other
        dlog.reshape(-1)[log.argmax()] += dfloor
        dpower = xp.zeros((len(power) + 1, power.shape[1]), wave.dtype)
        dpower[:-1] = xp.where(power > QUIETEST, dlog / (xp.maximum(power, QUIETEST) * math.log(10)), 0)
        return pull_power(dpower)
    return y.T, pull


def clap_log_mel(wave, filters, hop=480):
    """y = 10 log10(mel_power), decibels                    (N,) -> (N // hop + 1, mels)

    The wave has 48000 samples a second; filters: mel_filters(64, 1024, 48000, 50, 14000).
    """
    xp = namespace(wave)
    return 10 * xp.log10(xp.maximum(mel_power(wave, filters, hop)[0], QUIETEST))


def mfcc(wave, rate=16000):
    """13 cepstral coefficients of every hundredth of a second, their changes, and the changes of these      -> (T, 39)

    The cosine transform of the logarithms of 26 mel bands (HTK's), 25 ms each: Davis & Mermelstein 1980. A change is the
    slope of the line through five frames. What HuBERT's first clusters are made of.
    """
    power, _ = mel_power(np.asarray(wave, np.float64), mel_filters(26, rate // 40, rate, scale="htk"), rate // 100)
    log, k = np.log(np.maximum(power, QUIETEST)), np.arange(13)[:, None]
    cosines = np.cos(math.pi * k * (np.arange(26) + 0.5) / 26) * np.sqrt(np.where(k, 2, 1) / 26)
    coefficients = log @ cosines.T
    changes = slopes(coefficients)
    return np.concatenate([coefficients, changes, slopes(changes)], 1)


def slopes(x):
    """The slope at each row of x (T, D) of the line through it and two rows on either side; the ends are repeated"""
    padded = np.concatenate([x[:1], x[:1], x, x[-1:], x[-1:]])
    return sum(i * (padded[2 + i:len(x) + 2 + i] - padded[2 - i:len(x) + 2 - i]) for i in (1, 2)) / 10
