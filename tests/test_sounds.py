"""Sounds made of numbers, digits said by espeak-ng, and the miniatures that learn from them."""
import json
from ctypes.util import find_library

import numpy as np
import pytest

from tinycogvlm.errors import UserError
from tinycogvlm.inputs.audio import Sound
from tinycogvlm.nn.tree import Params
from tinycogvlm.train.miniatures import hearing, sounds as clap, speech
from tinycogvlm.train.miniatures.miniature import perform
from tinycogvlm.world import sounds, spoken

speaks = pytest.mark.skipif(not find_library("espeak-ng"), reason="espeak-ng is not installed")


# What is heard

def frequencies(wave):
    """The strongest frequency of each twentieth of a second, 0 where it is silent"""
    parts = wave.reshape(20, -1) * np.hanning(len(wave) // 20)
    spectra = np.abs(np.fft.rfft(parts, 16000))
    return np.where(np.abs(parts).max(1) > 0.25 * np.abs(parts).max(), spectra.argmax(1), 0)


@pytest.mark.parametrize("words", sounds.WORDS, ids=" ".join)
def test_a_tone_is_what_its_words_say(words):
    pitch, move, rhythm = words
    for seed in range(3):
        wave = sounds.tone(words, np.random.default_rng(seed))
        assert wave.shape == (sounds.RATE,) and wave.dtype == np.float32 and 0.29 < np.abs(wave).max() < 1.2
        heard = frequencies(wave)
        begin, end = (heard[half][heard[half] > 0].mean() for half in (slice(0, 7), slice(13, 20)))
        assert {"falling": end < 0.8 * begin, "level": 0.9 < end / begin < 1.1, "rising": end > 1.25 * begin}[move]
        low, high = sounds.PITCH[pitch]
        assert 0.8 * low < heard[heard > 0].mean() < 1.25 * high
        loud = np.abs(wave).reshape(400, -1).max(1) > 0.15 * np.abs(wave).max()
        begun = int((loud[1:] & ~loud[:-1]).sum())
        assert {"steady": begun == 0, "slow": 2 <= begun <= 4, "fast": 7 <= begun <= 9}[rhythm]


def test_what_is_never_heard_together():
    assert len(sounds.WORDS) == 27 and len(sounds.UNHEARD) == 9 and set(sounds.HEARD).isdisjoint(sounds.UNHEARD)
    for pair in (0, 1), (0, 2), (1, 2):                     # any two of the words are heard together
        for some in sounds.HEARD, sounds.UNHEARD:
            assert len({tuple(words[i] for i in pair) for words in some}) == 9


def test_every_thing_sounds_different():
    """Of 12 things the nearest spectrum, of the mean of others, is the own one nearly always"""
    mel = lambda thing, seed: hearing.hearing.Ear().spectrogram(sounds.heard([thing], np.random.default_rng(seed)))[0]
    known = np.stack([np.mean([mel(thing, seed).mean(1) for seed in range(4)], 0) for thing in sounds.VOICES])
    right = [((known - mel(thing, seed).mean(1)) ** 2).sum(1).argmin() == i
             for i, thing in enumerate(sounds.VOICES) for seed in range(10, 14)]
    assert np.mean(right) > 0.6


def test_things_are_heard_one_after_the_other():
    wave = sounds.heard(["dog", "bell"], np.random.default_rng(0))
    assert wave.shape == (2 * sounds.SLOT,) and wave.dtype == np.float32
    for half in wave.reshape(2, -1):
        begin, *_, end = np.flatnonzero(half)
        assert 0.79 * 16000 < end - begin < 1.21 * 16000 and np.abs(half).max() > 0.25
    again = sounds.heard(["dog", "bell"], np.random.default_rng(0))
    np.testing.assert_array_equal(again, wave)


# What is said

@speaks
def test_digits_are_said_with_their_phones():
    said = spoken.spoken((7, 2), "en-us+m3")
    names = [name for _, name in said.phones if name]
    assert names == ["s", "E", "v", "@", "n", "t", "u"] and said.digits == (7, 2)
    begins = [begin for begin, _ in said.phones]
    assert begins == sorted(begins) and begins[-1] <= len(said.wave) / spoken.RATE + 0.05
    assert said.phone_at([0, begins[2], begins[2] + 1e-3, 99]) == [said.phones[0][1], names[1], names[1], ""]
    assert said.wave.dtype == np.float32 and 0.05 < np.abs(said.wave).max() < 1


@speaks
def test_speed_and_pitch_are_heard():
    def pitch_of(said):
        """Hertz, by the lag of the highest autocorrelation"""
        wave = said.wave.astype(float)
        alike = np.fft.irfft(np.abs(np.fft.rfft(wave, 2 * len(wave))) ** 2)
        lags = np.arange(spoken.RATE // 400, spoken.RATE // 60)
        return spoken.RATE / lags[alike[lags].argmax()]
    low, high = (spoken.spoken((9, 9), "en-us+m3", pitch=pitch) for pitch in (20, 80))
    assert pitch_of(high) > 1.2 * pitch_of(low)
    assert len(spoken.spoken((9, 9), "en-us+m3", 120).wave) > 1.2 * len(spoken.spoken((9, 9), "en-us+m3", 200).wave)


@speaks
def test_every_split_has_its_voices():
    drawn = {split: {spoken.say(split, number).voice for number in range(30)} for split in ("heard", "test")}
    assert drawn["heard"].isdisjoint(drawn["test"])
    assert spoken.say("heard", 3, 2).digits == spoken.say("heard", 3, 2).digits and len(spoken.say("x", 0, 3).digits) == 3
    with pytest.raises(UserError, match="no voice 'nobody'"):
        spoken.spoken((1,), "nobody")


def test_without_espeak_one_is_told(monkeypatch):
    monkeypatch.setattr(spoken, "find_library", lambda name: None)
    spoken.espeak.cache_clear()
    with pytest.raises(UserError, match="apt-get install espeak-ng"):
        spoken.spoken((1,), "en-us")
    spoken.espeak.cache_clear()


def test_another_rate_keeps_the_frequencies():
    wave = np.sin(2 * np.pi * 441 * np.arange(22050) / 22050) + np.sin(2 * np.pi * 10000 * np.arange(22050) / 22050)
    found = spoken.at_rate(wave, 22050)
    np.testing.assert_allclose(found, np.sin(2 * np.pi * 441 * np.arange(16000) / 16000), atol=1e-5)


# The miniatures

def test_texts_are_their_words_or_one_token():
    ids = clap.ids(sounds.WORDS, False)
    assert ids.shape == (27, 4) and len(np.unique(ids, axis=0)) == 27 and len(np.unique(ids)) == 10
    whole = clap.ids(sounds.WORDS, True)
    assert whole.shape == (27, 2) and len(np.unique(whole[:, 1])) == 27
    assert not set(ids.ravel()) & set(whole[:, 1]) and max(ids.max(), whole.max()) < clap.VOCABULARY
    assert clap.clap.PADDING not in ids


def test_a_batch_norm_begins_with_what_is_heard():
    leaves, random = clap.start(0), np.random.default_rng(5)
    norm = Params(leaves).audio_model.audio_encoder.batch_norm
    bands = (clap.mels(sounds.HEARD, random)[:, 0] - norm.running_mean) / np.sqrt(norm.running_var)
    assert abs(bands.mean()) < 0.3 and abs(bands.std() - 1) < 0.2      # the sounds are of other loudness


def test_purity_is_the_share_of_the_commonest_phone():
    assert speech.purity(np.array([[0, 0, 0, 1]]), np.array([[2, 2, 1, 0]])) == 0.75
    assert speech.purity(np.array([[0, 1, 2, 3]]), np.array([[1, 1, 1, 1]])) == 1


def test_a_linear_map_tells_what_is_linear():
    random = np.random.default_rng(0)
    centres, digits = random.standard_normal((10, 20)), np.arange(100) % 10
    x = centres[digits][:, None] + 0.1 * random.standard_normal((100, 5, 20))
    assert speech.probe(x, digits, x[::-1], digits[::-1]) == 1
    assert speech.probe(0 * x, digits, x, digits) == 0.1


def test_hubert_s_frames_are_as_many_as_its_convolutions_make():
    waves = np.random.default_rng(0).standard_normal((2, speech.SAMPLES)).astype(np.float32)
    found = speech.features(speech.start(0), waves)
    assert found.shape == (2, speech.FRAMES, 64) and speech.mfccs(waves).shape == (2, speech.FRAMES, 39)
    said_twice = speech.second(np.arange(8000.0))
    assert np.array_equal(said_twice[8000:], said_twice[:8000])
    assert abs(said_twice.mean()) < 1e-9 and abs(said_twice.std() - 1) < 1e-9


def quick_recordings(folder, split, count, digits):
    random = np.random.default_rng(count)
    return (random.standard_normal((8, speech.SAMPLES)).astype(np.float32), np.arange(8),
            random.integers(0, 5, (8, speech.FRAMES)))


def test_the_second_iteration_guesses_the_clusters_of_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(speech, "recordings", quick_recordings)
    with pytest.raises(UserError, match="the run mfcc makes it"):
        perform(speech.SPEECH, tmp_path, 1, ["first"], steps=1)
    guessed, loss = [], speech.loss

    def noted(leaves, batch):
        guessed.append(batch)
        return loss(leaves, batch)
    monkeypatch.setattr(speech, "loss", noted)
    table = perform(speech.SPEECH, tmp_path, 1, steps=1)
    assert all(f"| {name} | 1 |" in table for name in speech.RUNS) and len(guessed) == 2
    waves, _, _ = quick_recordings(None, None, speech.HEARD, None)
    for (chosen, targets, _), name in zip(guessed, ("mfcc", "first")):
        clusters = np.load(tmp_path / f"speech-clusters-{name}-0.npy")
        rows = [int(np.flatnonzero((waves == wave).all(1))[0]) for wave in chosen]
        assert np.array_equal(targets, clusters[rows]) and clusters.max() < speech.CLUSTERS


@speaks
def test_recordings_are_made_once(tmp_path, monkeypatch):
    waves, digits, phones = speech.recordings(tmp_path, "test", 3, 1)
    assert waves.shape == (3, speech.SAMPLES) and phones.shape == (3, speech.FRAMES) and len(set(phones.ravel())) > 4
    np.testing.assert_allclose(waves.std(1), 1, atol=1e-3)
    assert [spoken.say("test", number).digits[0] for number in range(3)] == digits.tolist()
    monkeypatch.setattr(spoken, "say", None)
    np.testing.assert_array_equal(speech.recordings(tmp_path, "test", 3, 1)[0], waves)


def test_clap_learns_in_a_few_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(clap, "ASKED", 1)
    monkeypatch.setattr(clap, "LEARNED", 1)
    assert "| words | 1 |" in perform(clap.SOUNDS, tmp_path, 1, ["words"], steps=2)
    measured = json.loads((tmp_path / "sounds-words-0.json").read_text())["measured"]
    assert all(0 <= share <= 1 for share in measured.values()) and set(measured) == {"heard together", "never together"}


def test_conversations_about_sounds():
    pictured = [hearing.drawn("test", number, 2, picture=True) for number in range(12)]
    for media, turns in pictured:
        turns = dict(turns)
        names = turns.pop(hearing.HEAR).lower().strip(".").replace("an ", "a ").removeprefix("a ").split(" and a ")
        assert len(media) == 2 and len(names) == 2 and set(names) <= set(sounds.VOICES) and hearing.SEE in turns
        del turns[hearing.SEE]
        [(question, answer)] = turns.items()
        assert (answer == "Yes.") == any(f" {name}?" in question for name in names)
        assert any(isinstance(medium, Sound) and len(medium.wave) == 2 * sounds.SLOT for medium in media)
    assert {isinstance(media[0], Sound) for media, _ in pictured} == {True, False}
    assert len({dict(turns)[hearing.HEAR] for _, turns in pictured}) > 9
    assert {turns[0][0] for _, turns in pictured} >= {hearing.HEAR, hearing.SEE}
    alone, _ = hearing.drawn("test", 0, 1, picture=False)
    assert len(alone) == 1 and len(alone[0].wave) == sounds.SLOT


@pytest.mark.parametrize("expert", ["sound", pytest.param("vision", marks=pytest.mark.slow),
                                    pytest.param("language", marks=pytest.mark.slow)])
def test_a_model_learns_to_hear_and_nothing_else_changes(expert, tmp_path, monkeypatch):
    for name, number in dict(BATCH=2, ASKED=2).items():
        monkeypatch.setattr(hearing, name, number)
    model, answered = hearing.bundled(), []
    monkeypatch.setattr(hearing, "measured", lambda ears: answered.append(ears) or {"one": 0.5})
    perform(hearing.EARS, tmp_path, 1, [expert], steps=2)
    [ears] = answered
    begun = hearing.start(model, ears.config.ear, 0)
    assert all(np.array_equal(ears.leaves[name], model.leaves[name]) for name in model.leaves)
    last, (dense, mlp) = f"layers.{model.config.num_hidden_layers - 1}.", ("sound_expert_dense", "sound_mlp")
    unread = {name for name in begun if last in name and (dense in name or mlp in name)}    # no text sees what they make
    assert {name for name in begun if np.array_equal(ears.leaves[name], begun[name])} == unread
    assert (any(".sound_" in name for name in begun)) == (expert == "sound")
    again = hearing.hearing.load(tmp_path / f"ears-{expert}-0", model)
    assert again.config == ears.config and set(again.leaves) == set(ears.leaves)


def test_answers_about_sounds_are_counted(monkeypatch):
    monkeypatch.setattr(hearing, "ASKED", 3)
    model, asked = hearing.bundled(), []
    ears = hearing.hearing.hear(model, hearing.hearing.Ear(), {})

    def answers(model, rows, limit):
        asked.extend(rows)
        return [hearing.generate.Answer(text, [], 0, 0, 0, "stop") for text in said]
    said = [dict(hearing.drawn("test", number, 1, True)[1])[hearing.HEAR] for number in range(2)] + ["A dragon."]
    monkeypatch.setattr(hearing.generate, "answers", answers)
    assert hearing.right(ears, hearing.HEAR, 1, picture=True) == pytest.approx(2 / 3)
    hearing.right(ears, hearing.SEE, 1, picture=True, sound=False)
    assert [sorted(kind for kind, _ in row.media) for row in asked] == [["image", "sound"]] * 3 + [["image"]] * 3


