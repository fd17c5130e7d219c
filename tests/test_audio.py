"""Sounds: what every kind of WAV file holds, what is refused and how, mel filters, spectra and their gradient."""
import io
import struct
import sys
import tracemalloc
import wave

import numpy as np
import pytest

from tinycogvlm.errors import UserError
from tinycogvlm.inputs import audio

SOUND = np.array([0.0, 0.5, -0.25, 0.75, -1.0, 0.125], np.float32)


def wav(samples, code=1, bits=16, channels=1, rate=16000, extensible=False, before=b""):
    """The bytes of a WAV file; samples: bytes"""
    head = struct.pack("<HHIIHH", 0xFFFE if extensible else code, channels, rate, rate * channels * bits // 8,
                       channels * bits // 8, bits)
    if extensible:
        head += struct.pack("<HHIH14s", 22, bits, 0, code, bytes(14))
    chunks = before + b"fmt " + struct.pack("<I", len(head)) + head + b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def as_bits(bits):
    """SOUND as whole numbers of so many bits"""
    numbers = np.round(SOUND.astype(float) * 2 ** (bits - 1)).astype(np.int64)
    if bits == 8:
        return (numbers + 128).astype(np.uint8).tobytes()
    return b"".join(int(number).to_bytes(bits // 8, "little", signed=True) for number in numbers)


@pytest.mark.parametrize("content", [
    wav(as_bits(8), bits=8), wav(as_bits(16)), wav(as_bits(24), bits=24), wav(as_bits(32), bits=32),
    wav(SOUND.tobytes(), 3, 32), wav(SOUND.astype(float).tobytes(), 3, 64), wav(as_bits(24), bits=24, extensible=True),
    wav(as_bits(16), before=b"LIST" + struct.pack("<I", 3) + b"abc\0"),
    wav(as_bits(16)).replace(b"data" + struct.pack("<I", 12), b"data" + struct.pack("<I", 0xFFFFFFFF)),
    wav(as_bits(16) + b"\1").replace(struct.pack("<I", 13), struct.pack("<I", 14)),
], ids=["8", "16", "24", "32", "float", "double", "extensible", "with a list", "of unknown length", "cut short"])
def test_every_kind_of_wav_holds_the_same(content, tmp_path):
    (tmp_path / "a.wav").write_bytes(content)
    for sound in (tmp_path / "a.wav", str(tmp_path / "a.wav"), io.BytesIO(content)):
        found = audio.load(sound)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, SOUND)


def test_what_python_writes_is_read(tmp_path):
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((2, 2, 16000, 0, "NONE", ""))
        file.writeframes(np.array([[1000, 3000], [-32768, -32768], [32767, 32767]], "<i2").tobytes())
    np.testing.assert_array_equal(audio.load(tmp_path / "a.wav"), np.float32([2000, -32768, 32767]) / 32768)


def test_loud_floats_stay_as_they_are():
    """And clipped whole numbers are no error."""
    loud = np.float32([1.5, -3, 0.5])
    np.testing.assert_array_equal(audio.load(io.BytesIO(wav(loud.tobytes(), 3, 32))), loud)
    np.testing.assert_array_equal(audio.load(loud), loud)
    np.testing.assert_array_equal(audio.load(np.stack([loud, -loud], 1)), np.zeros(3))
    np.testing.assert_array_equal(audio.load(io.BytesIO(wav(b"\xff\x7f" * 9))), np.full(9, 32767 / 32768, np.float32))


@pytest.mark.parametrize("content, said", [
    (b"", "soundfile"), (b"RIFF", "soundfile"), (b"ID3 an mp3" * 9, "soundfile"), (wav(b"", 7, 8), "soundfile"),
    (wav(as_bits(16), rate=44100), "44100 samples a second; for 16000 soxr is needed: pip install 'tinycogvlm[audio]'"),
    (wav(b""), "holds no sound"), (wav(as_bits(16))[:36], "the WAV file ends before its samples"),
    (wav(as_bits(16), channels=0), "0 channels"), (wav(as_bits(16), rate=0), "0 samples a second"),
    (wav(np.float32([0, np.nan]).tobytes(), 3, 32), "NaN or infinity, first after 0.00 seconds"),
    (wav(np.float32([0] * 8000 + [np.inf]).tobytes(), 3, 32), "NaN or infinity, first after 0.50 seconds")])
def test_what_is_no_sound_is_refused_in_a_sentence(content, said, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    monkeypatch.setitem(sys.modules, "soxr", None)
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(UserError) as error:
        audio.load(tmp_path / "a.wav")
    assert said in str(error.value) and str(error.value).startswith(str(tmp_path / "a.wav"))


def test_no_file_and_no_samples(tmp_path):
    for sound in (tmp_path / "none.wav", tmp_path, np.zeros(0), np.zeros((2, 2, 2))):
        with pytest.raises(UserError):
            audio.load(sound)


@pytest.mark.parametrize("kind", ["uint8", "<i2", ">i2", "int32"])
def test_an_array_of_whole_numbers_is_what_a_file_of_them_is(kind):
    kind = np.dtype(kind)
    array = np.frombuffer(as_bits(8 * kind.itemsize), kind.newbyteorder("<")).astype(kind)
    np.testing.assert_array_equal(audio.load(array), SOUND)
    np.testing.assert_array_equal(audio.load(np.stack([array, array], 1)), SOUND)


@pytest.mark.parametrize("sound, said", [
    (np.array(["a"]), "an array of <U1; pass floats"), (np.array([1j]), "an array of complex128"),
    (np.array([True]), "an array of bool"), (np.array([1]), "an array of int64"), (np.zeros((3, 0)), "holds no sound"),
    (None, "a sound is a path, an open file or an array, not NoneType"), ([0.1, 0.2], "not list"), (b"abc", "not bytes")])
def test_what_is_neither_a_file_nor_a_wave(sound, said):
    with pytest.raises(UserError) as error:
        audio.load(sound)
    assert said in str(error.value)


def test_an_hour_is_decoded_a_block_at_a_time(tmp_path):
    """Ten minutes in stereo: besides the result and a copy of it there is room for a few blocks, not for the file."""
    seconds = 600
    (tmp_path / "a.wav").write_bytes(wav(bytes(seconds * 16000 * 4), channels=2))
    tracemalloc.start()
    assert len(audio.load(tmp_path / "a.wav")) == seconds * 16000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 4 * seconds * 16000 + 32 * audio.BLOCK


def test_other_rates():
    soxr = pytest.importorskip("soxr", reason="soxr is not installed, so nothing is resampled: pip install soxr")
    assert soxr
    time = np.arange(48000) / 48000
    found = audio.load(io.BytesIO(wav((np.sin(2 * np.pi * 440 * time) * 0.5).astype("<f4").tobytes(), 3, 32, rate=48000)))
    assert len(found) == 16000
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    np.testing.assert_allclose(found[200:-200], expected[200:-200], rtol=0, atol=1e-4)


def test_other_formats(tmp_path):
    try:
        import soundfile
    except (ImportError, OSError):
        pytest.skip("soundfile is not installed, so only WAV files are read: pip install soundfile")
    soundfile.write(tmp_path / "a.flac", SOUND[:5] * 0.5, 16000, subtype="PCM_16")
    np.testing.assert_allclose(audio.load(tmp_path / "a.flac"), SOUND[:5] * 0.5, rtol=0, atol=2 / 32768)
    (tmp_path / "b.flac").write_bytes(b"fLaC and then nothing")
    with pytest.raises(UserError, match="b.flac: damaged, or no sound [(][A-Z][^<>]*[)]$"):
        audio.load(tmp_path / "b.flac")


# ------------------------------------------------------------------------------------------------------------- spectra

def test_a_mel_is_where_the_scales_say():
    """1000 Hz is mel 15 of Slaney's and 1000 of HTK's; both scales are turned back."""
    assert audio.slaney_mel(1000) == 15 and audio.htk_mel(1000) == pytest.approx(1000, abs=0.02)
    for hertz in (20.0, 440.0, 999.0, 1001.0, 8000.0):
        assert audio.slaney(audio.slaney_mel(hertz)) == pytest.approx(hertz)
        assert audio.htk(audio.htk_mel(hertz)) == pytest.approx(hertz)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_filters_are_triangles(scale):
    """A fine comb of frequencies sees the area 1 of Slaney's and the height 1 of HTK's."""
    filters = audio.mel_filters(20, 1 << 16, 16000, 100.0, 7000.0, scale)
    step = 16000 / (1 << 16)
    sizes = filters.sum(1) * step if scale == "slaney" else filters.max(1)
    np.testing.assert_allclose(sizes, 1, rtol=0.01)
    frequencies = np.arange(filters.shape[1]) * step
    assert not filters[:, (frequencies < 99) | (frequencies > 7001)].any()


def test_mel_power_by_its_definition():
    """The sum over a window at its place, of a wave with its mirror image around it."""
    random, n, hop = np.random.default_rng(0), 8, 3
    x, filters = random.standard_normal(20), random.random((2, 5))
    mirrored = np.concatenate([x[4:0:-1], x, x[-2:-6:-1]])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
    expected = np.array([[sum(filters[m, k] * abs(sum(window[i] * mirrored[t * hop + i] * np.exp(-2j * np.pi * i * k / n)
                                                      for i in range(n))) ** 2 for k in range(5)) for m in range(2)]
                         for t in range(7)])
    np.testing.assert_allclose(audio.mel_power(x, filters, hop)[0], expected, rtol=1e-12)


def test_blocks_change_nothing(monkeypatch):
    random = np.random.default_rng(1)
    x, filters, dy = random.standard_normal(2000), audio.mel_filters(5, 64, 16000), random.standard_normal((101, 5))
    whole, pull = audio.mel_power(x, filters, 20)
    dx = pull(dy)
    monkeypatch.setattr(audio, "FRAMES", 7)
    parts, pull = audio.mel_power(x, filters, 20)
    np.testing.assert_allclose(parts, whole, rtol=1e-12)
    np.testing.assert_allclose(pull(dy), dx, rtol=1e-9, atol=1e-12)


def test_silence_is_finite_and_has_no_gradient():
    wave_, filters = np.zeros(1600, np.float32), audio.mel_filters(80, 400, 16000)
    y, pull = audio.whisper_log_mel(wave_, filters)
    np.testing.assert_allclose(y, -1.5, atol=1e-6)              # (log10(1e-10) + 4) / 4
    assert y.shape == (80, 10) and not pull(np.ones_like(y)).any()
    np.testing.assert_allclose(audio.clap_log_mel(wave_, audio.mel_filters(64, 1024, 48000)), -100, atol=1e-4)


def test_a_wave_too_short_for_a_spectrum():
    with pytest.raises(UserError, match="200 samples is too short: a spectrum takes more than 200"):
        audio.whisper_log_mel(np.zeros(200), audio.mel_filters(80, 400, 16000))


def test_a_tone_is_loudest_in_its_own_band():
    filters = audio.mel_filters(80, 400, 16000)
    for hertz in (320, 1000, 5000):
        tone = np.sin(2 * np.pi * hertz * np.arange(16000) / 16000)
        loudest = audio.whisper_log_mel(tone, filters)[0][:, 50].argmax()
        assert filters[loudest, round(hertz / 40)] == filters[:, round(hertz / 40)].max()
