"""CLAP on sounds made of numbers: three words never heard together are told apart, because a text is its words.

Wu et al. 2022 (arXiv 2211.06687). Every sound has a pitch, a movement and a rhythm; nine of the 27 combinations never
come in training, though any two of their words do. Both towers are those of relatives/clap.py, tiny. Measured: how often, of all 27
texts, a fresh sound's own is the nearest, for texts of the training and for new ones. In the run `whole` the text tower
reads a text as one token, as a classifier would: what is known of "falling" then says nothing about new texts.
"""
import numpy as np

from ...inputs import audio
from ...nn.tree import Gradients, Params, below, matches
from ...relatives import clap
from ...relatives.bert import Bert
from ...world import sounds
from ..recipe.initial import by_inputs
from .miniature import Miniature, trained

WORDS = tuple(dict.fromkeys(word for text in sounds.WORDS for word in text))
START = clap.PADDING + 1                                    # the first token, whose vector becomes the text's
VOCABULARY = START + 1 + len(WORDS) + len(sounds.WORDS)     # words, and texts as one token
CONFIG = clap.Config(clap.HTSAT(mels=32, side=64, patch=4, width=16, depths=(2, 1), heads=(2, 4), window=4, mlp=2,
                                eps=1e-5, activation="gelu"),
                     Bert(32, 64, 1, 2, 1e-5, "gelu"), VOCABULARY, 4 + START, 32)
HOP, FRAMES = sounds.RATE // 128, 128                       # two of the square's sides
FILTERS = audio.mel_filters(CONFIG.audio.mels, 1024, sounds.RATE, 50, 6000, "htk")
RATE = 2e-3
LEARNED, ASKED = 40, 20                                     # sounds of each text to learn from, and fresh ones


def mels(texts, random):
    """The spectrogram of a sound for each text             -> (B, 1, T, M) float32, decibels"""
    waves = [sounds.tone(text, random) for text in texts]
    return np.stack([audio.clap_log_mel(wave, FILTERS, HOP)[:FRAMES] for wave in waves])[:, None].astype(np.float32)


def ids(texts, whole):
    """Token ids of texts, word by word or `whole`          -> (B, T)"""
    if whole:
        first = START + 1 + len(WORDS)
        return np.array([[START, first + sounds.WORDS.index(text)] for text in texts])
    return np.array([[START, *(START + 1 + WORDS.index(word) for word in text)] for text in texts])


def start(seed):
    """A CLAP before training, whose batch norm knows how loud the bands are"""
    leaves = by_inputs(clap.shapes(CONFIG), np.random.default_rng(seed))
    leaves |= {name: np.full((), np.log(1 / 0.07), np.float32) for name in ("logit_scale_a", "logit_scale_t")}
    some, norm = mels(sounds.HEARD, np.random.default_rng([seed, 2 ** 33])), "audio_model.audio_encoder.batch_norm"
    return leaves | below(norm, {"running_mean": some.mean((0, 1, 2)), "running_var": some.var((0, 1, 2))})


def learn(run, settings, seed):
    whole = settings["whole"]
    read = ids(sounds.HEARD, whole)
    names = [name for name in clap.shapes(CONFIG) if not matches(name, clap.BUFFERS)]

    def loss(leaves, batch):
        p = Params(leaves)
        sound, pull_sound = clap.audio_features(batch, p, CONFIG)
        text, pull_text = clap.text_features(read, read != clap.PADDING, p, CONFIG)
        y, pull_loss = clap.plain_loss(sound, text, p)

        def pull():
            g = Gradients(names)
            dsound, dtext = pull_loss(1.0, g)
            pull_sound(dsound, g)
            pull_text(dtext, g)
            return g.leaves
        return y, pull
    random = np.random.default_rng([seed, 2 ** 32])
    learned, which = np.stack([mels(sounds.HEARD, random) for _ in range(LEARNED)]), np.arange(len(sounds.HEARD))

    def data(step):                                         # one sound of every text, so that no two are alike
        return learned[np.random.default_rng([seed, step]).integers(LEARNED, size=len(which)), which]
    after = trained(run, start(seed), data, loss, settings["steps"], RATE, len(which))
    return {"heard together": told_apart(after, sounds.HEARD, whole, random),
            "never together": told_apart(after, sounds.UNHEARD, whole, random)}


def told_apart(leaves, texts, whole, random):
    """The share of fresh sounds of these texts whose own, among all texts, is the nearest"""
    p, all_ids = Params(leaves), ids(sounds.WORDS, whole)
    text, _ = clap.text_features(all_ids, all_ids != clap.PADDING, p, CONFIG)
    truth = np.array([sounds.WORDS.index(one) for one in texts])
    rounds = [clap.audio_features(mels(texts, random), p, CONFIG)[0] @ text.T for _ in range(ASKED)]
    return float(np.mean([cosines.argmax(1) == truth for cosines in rounds]))


RUNS = {"words": dict(whole=False, steps=400), "whole": dict(whole=True, steps=400)}
SOUNDS = Miniature("sounds", "CLAP (Wu et al. 2022): words never heard together are told apart, since a text is made of "
                   "words.", 2, RUNS, learn)
