"""HuBERT on digits said by synthetic voices: two iterations of guessing clusters, without a label in training.

Hsu et al. 2021 (arXiv 2106.07447): a model guesses, for hidden stretches of speech, clusters of MFCCs; a second one
guesses clusters of what the first one found, and finds more. Labels only judge: `purity` is the share of frames that
belong to their cluster's commonest phone (section 5.4); `digits` is how many digits of unheard voices a linear map tells,
learned from a few labelled ones, by the mean of all features or by how often each cluster occurs.
"""
from functools import partial

import numpy as np

from ...errors import UserError
from ...inputs import audio
from ...nn.trace import recording
from ...nn.tree import Gradients, Params
from ...relatives import hubert
from ...relatives.transformer import Transformer
from ...storage import atomic
from ...world import spoken
from ..recipe.initial import by_inputs
from .miniature import Miniature, trained

CONFIG = hubert.Config(((32, 40, 20), (64, 8, 4), (64, 4, 4)), conv_bias=False, by_frame=False,
                       transformer=Transformer(64, 256, 2, 4, hubert.NORM_EPS, "gelu", hubert.HUGGING_FACE.block),
                       pre_norm=True, reach=16, groups=4, masked=True, codes=(32,), code_width=32)
SAMPLES = spoken.RATE                                       # of each recording: one second, cut, or said again
FRAMES, HOP = 49, SAMPLES // 50                             # what the convolutions make of it
HEARD, LABELLED, ASKED = 600, 50, 300                       # recordings: three digits each; one; one by unheard voices
CLUSTERS, BATCH, RATE = CONFIG.codes[0], 8, 2e-3
RIDGE = 10.0                                                # penalty of the linear map's squared weights
BEFORE = {"first": "mfcc", "second": "first"}               # whose clusters are guessed


def second(wave):
    """A wave of one second                                 -> (SAMPLES,) of mean 0 and variance 1"""
    wave = np.resize(wave, SAMPLES)
    return (wave - wave.mean()) / wave.std()


def recordings(folder, split, count, digits):
    """Sounds of a file, made if it is not there: waves (count, SAMPLES), first digits, phone of each frame (count, T)"""
    path = folder / f"spoken-{split}.npz"
    if not path.exists():
        sounds = [spoken.say(split, number, digits) for number in range(count)]
        names = sorted({name for sound in sounds for _, name in sound.phones})
        middles = (np.arange(FRAMES) * HOP + HOP) / spoken.RATE
        phones = [[names.index(name) for name in sound.phone_at(middles % (len(sound.wave) / spoken.RATE))]
                  for sound in sounds]
        with atomic.replacing(path) as file:
            np.savez_compressed(file, waves=np.array([second(sound.wave) for sound in sounds], np.float16),
                                digits=[sound.digits[0] for sound in sounds], phones=phones)
    with np.load(path) as found:
        return found["waves"].astype(np.float32), found["digits"], found["phones"]


# ------------------------------------------------------------------------------------------------------------ learning

def start(seed):
    """A HuBERT before training"""
    leaves, names = by_inputs(hubert.shapes(CONFIG), np.random.default_rng(seed)), CONFIG.names
    direction = leaves[f"{names.positions}.{names.direction}"]
    length = np.sqrt((direction ** 2).sum((0, 1), keepdims=True))
    return leaves | {f"{names.positions}.{names.size}": length}


def batch(waves, targets, seed, step):
    """Some waves, their frames' clusters, and which frames are hidden"""
    random = np.random.default_rng([seed, step])
    chosen = random.choice(len(waves), BATCH, replace=False)
    return waves[chosen], targets[chosen], hubert.spans(BATCH, FRAMES, random, share=0.65)


def loss(leaves, batch):
    """The mean over all hidden frames"""
    waves, targets, hidden = batch
    total, pull_loss = hubert.loss(waves, [targets], hidden, Params(leaves), CONFIG)
    count = float(hidden.sum())

    def pull():
        g = Gradients(leaves)
        pull_loss(1 / count, g)
        return g.leaves
    return total / count, pull


def learn(run, settings, seed):
    """Train, if this run trains; keep the clusters for the next one; measure"""
    name = settings["features"]
    heard, labelled, asked = (recordings(run.folder, *which) for which in (
        ("heard", HEARD, 3), ("labelled", LABELLED, 1), ("test", ASKED, 1)))
    find = mfccs
    if name != "mfcc":
        leaves = start(seed)
        if name in BEFORE:
            targets = clusters_file(run, BEFORE[name], seed)
            if not targets.exists():
                raise UserError(f"{targets}: missing; the run {BEFORE[name]} makes it")
            make = partial(batch, heard[0], np.load(targets), seed)
            leaves = trained(run, leaves, make, loss, settings["steps"], RATE, BATCH)
        find = partial(features, leaves)
    found, some, others = (find(waves) for waves, _, _ in (heard, labelled, asked))
    centres = hubert.k_means(found[:, ::5].reshape(-1, found.shape[-1]), CLUSTERS, np.random.default_rng(seed))
    clusters, units, other_units = (nearest(x, centres) for x in (found, some, others))
    with atomic.replacing(clusters_file(run, name, seed)) as file:
        np.save(file, clusters)
    each = np.eye(CLUSTERS)
    return {"purity": purity(clusters, heard[2]), "digits by features": probe(some, labelled[1], others, asked[1]),
            "digits by clusters": probe(each[units], labelled[1], each[other_units], asked[1])}


def clusters_file(run, name, seed):
    """Where a run leaves the cluster of each frame that was heard"""
    return run.folder / f"speech-clusters-{name}-{seed}.npy"


# ------------------------------------------------------------------------------------------------------------- judging

def features(leaves, waves):
    """What the last block finds in each frame of waves (B, N)      -> (B, T, W)"""
    found = []
    for first in range(0, len(waves), 50):
        with recording() as records:
            hubert.features(waves[first:first + 50], Params(leaves), CONFIG)
        found.append(records[f"hidden{CONFIG.transformer.layers}"])
    return np.concatenate(found)


def mfccs(waves):
    """The MFCCs of each frame, scaled to variance 1        (B, N) -> (B, T, 39)"""
    found = np.stack([audio.mfcc(wave)[1:2 * FRAMES:2] for wave in waves])
    return found / found.std((0, 1))


def nearest(x, centres):
    """The cluster of every frame                           x (B, T, W) -> (B, T)"""
    return hubert.clusters(x.reshape(-1, x.shape[-1]), centres).reshape(x.shape[:2])


def purity(clusters, phones):
    """The share of frames that belong to their cluster's commonest phone"""
    together = np.zeros((clusters.max() + 1, phones.max() + 1))
    np.add.at(together, (clusters.reshape(-1), phones.reshape(-1)), 1)
    return float(together.max(1).sum() / together.sum())


def probe(x, digits, y, asked):
    """The share of right digits by a linear map of mean features: ridge regression to one-hot rows

    x (B, T, W) and digits (B,) to learn from, y (A, T, W) and asked (A,) to be judged by.
    """
    x, y = x.mean(1), y.mean(1)
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    x, y = (np.pad((z - mean) / deviation, ((0, 0), (0, 1)), constant_values=1) for z in (x, y))
    weight = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ np.eye(10)[digits])
    return float(((y @ weight).argmax(1) == asked).mean())


RUNS = {"random": dict(features="random"), "mfcc": dict(features="mfcc"),
        "first": dict(features="first", steps=3000), "second": dict(features="second", steps=3000)}
SPEECH = Miniature("speech", "HuBERT (Hsu et al. 2021): guessing hidden clusters finds phones and digits without a label,"
                   " and guessing its own clusters finds more.", 9, RUNS, learn)
