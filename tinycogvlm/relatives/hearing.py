"""A CogVLM that hears: what is done for images in Wang et al. 2023 (arXiv 2311.03079), done for sounds as well.

An ear (Whisper's encoder) and an adapter make tokens of a sound, between a boi and an eoi of its own; an expert of its
own in every block computes them. The language model and all that sees stay as they are, so texts and pictures are
answered as before, bit for bit. No paper's model: train/miniatures/hearing.py measures what it is worth.
"""
import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..inputs import audio
from ..model import adapter
from ..model.cogvlm import CogVLM
from ..model.parts import HEARING
from ..model.route import Route
from ..nn.swap import op
from ..nn.trace import record, scope
from ..nn.tree import Params, below, matches
from ..storage.atomic import Together
from ..storage.checkpoint import Checkpoint
from ..storage.reading import read_json
from ..storage.safetensors_file import write_tensors
from . import whisper
from .transformer import Transformer

RATE, HOP = 16000, 160                                      # samples a second, and a frame of the spectrogram
EXPERTS = "sound", "vision", "language"
WEIGHTS, SETTINGS = "ears.safetensors", "ears.json"


@dataclass(frozen=True)
class Ear:
    """What a model hears with."""
    mels: int = 40
    width: int = 64
    mlp: int = 256
    layers: int = 1
    heads: int = 4
    pooled: int = 5                     # frames of the encoder, fifty a second, that become one token
    seconds: int = 10                   # the longest sound
    expert: str = "sound"               # whose weights compute a sound's tokens in every block: one of EXPERTS

    @property
    def whisper(self):
        tower = Transformer(self.width, self.mlp, self.layers, self.heads, whisper.NORM_EPS, "gelu",
                            whisper.HUGGING_FACE.block)
        return whisper.Config(self.mels, tower, 50 * self.seconds, tower, 0, 0)

    def shapes(self, config):
        """{name: shape} of the parameters below model.sound"""
        return below("encoder", whisper.encoder_shapes(self.whisper)) | adapter.own_shapes(
            config.hidden_size, config.intermediate_size, self.pooled * self.width)

    def spectrogram(self, wave):
        """A sound's log-mel spectrogram (M, frames), filled with silence to whole tokens, and how many these are"""
        if len(wave) > self.seconds * RATE:
            raise UserError(f"the sound has {len(wave) / RATE:.1f} seconds; these ears hear {self.seconds} at most")
        step = 2 * HOP * self.pooled                        # samples of a token; the encoder halves the frames
        wave = np.pad(wave, (0, -len(wave) % step))
        mel, _ = audio.whisper_log_mel(wave.astype(np.float32), audio.mel_filters(self.mels, 400, RATE))
        return mel, len(wave) // step + 2


@op
def sound_tokens(mel, p, config):
    """A sound's tokens in the sequence: boi, what is heard, eoi    mel (B, M, frames) -> (B, T + 2, D)

    p: the parameters below model.sound.
    """
    ear = config.ear
    with scope("ear"):
        heard, pull_ear = whisper.encoder(mel, p.encoder, ear.whisper)                  # (B, pooled T, W)
    with scope("sound_adapter"):
        x, pull_glu = adapter.glu(heard.reshape(len(mel), -1, ear.pooled * ear.width), p.linear_proj)
        x, pull_ends = adapter.between_ends(x, p)
        record("out", x)

    def pull(dy, g):
        pull_ear(pull_glu(pull_ends(dy, g), g.linear_proj).reshape(heard.shape), g.encoder)
    return x, pull


class Hearing(CogVLM):
    """A CogVLM whose config has an Ear; its media may be sounds, ("sound", (M, frames)), as well."""

    def route(self, inputs, positions=None, first=0):
        config, heard = self.config, np.zeros(inputs.types.shape, bool)
        if config.ear.expert != "vision":                   # else a sound's tokens go where an image's do
            heard[inputs.types > 0] = self.heard(inputs.media, int((inputs.types > 0).sum()))
        return Route(inputs.types, inputs.mask, positions, self.xp, config.experts, first, heard)

    def heard(self, media, places):
        """Of each token of the media, whether it is a sound's -> (places,) bool. UserError if there are not so many."""
        sizes = [tokens(array, self.config) if kind == "sound" else self.config.num_image_tokens
                 * (len(array) if kind == "frames" else 1) for kind, array in media]
        if sum(sizes) != places:
            raise UserError(f"the media give {sum(sizes)} tokens, but the text has room for {places}")
        return np.repeat(np.array([kind == "sound" for kind, _ in media], bool), sizes)

    def media_rows(self, media, places, keep="all", at_once=1):
        """As in CogVLM; the sounds' rows stand among the images' in the media's order."""
        sounds, xp = [array for kind, array in media if kind == "sound"], self.xp
        if not sounds:
            return super().media_rows(media, places, keep, at_once)
        heard = self.heard(media, places)
        x, seen = xp.empty((places, self.config.hidden_size), self.dtype), ~heard
        x[heard], pull_sounds = self.sound_rows(sounds)
        if seen.any():
            pictures = [(kind, array) for kind, array in media if kind != "sound"]
            x[seen], pull_pictures = super().media_rows(pictures, int(seen.sum()), keep, at_once)

        def pull(dx, g):
            pull_sounds(dx[heard], g.model.sound)
            if seen.any() and g.trains("model.vision."):
                pull_pictures(dx[seen], g)
        return x, pull

    def sound_rows(self, sounds):
        """The tokens of all sounds, one below the other (n, D); sounds of the same length are heard together."""
        p, sizes = Params(self.leaves).model.sound, [tokens(sound, self.config) for sound in sounds]
        x, pulls = self.xp.empty((sum(sizes), self.config.hidden_size), self.dtype), []
        which = np.repeat(sizes, sizes)                     # each row's sound's size
        for size in sorted(set(sizes)):
            mel = self.activations(np.stack([sound for sound, of in zip(sounds, sizes) if of == size]))
            y, pull_some = sound_tokens(mel, p, self.config)
            x[which == size] = y.reshape(-1, y.shape[-1])
            pulls.append((which == size, y.shape, pull_some))

        def pull(dx, g):
            for rows, shape, pull_some in pulls:
                pull_some(dx[rows].reshape(shape), g)
        return x, pull


def tokens(mel, config):
    """How many a spectrogram (M, frames) becomes"""
    return mel.shape[1] // (2 * config.ear.pooled) + 2


def hear(model, ear, leaves):
    """The CogVLM `model` with an Ear and its parameters {name: array}, those that match parts.HEARING"""
    if type(model) is not CogVLM:
        raise UserError("ears are added to a CogVLM that computes without kernels")
    config = replace(model.config, ear=ear)
    return Hearing(config, {**model.leaves, **{name: model.activations(array) for name, array in leaves.items()}},
                   model.tokenizer, model.rotary, model.check_finite)


def save(folder, model):
    """Write what a Hearing has more than the CogVLM that it was made of: ears.json and ears.safetensors."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with Together() as files:
        with files.replacing(folder / SETTINGS) as file:
            file.write(json.dumps(asdict(model.config.ear), indent=1).encode() + b"\n")
        with files.replacing(folder / WEIGHTS) as file:
            write_tensors(file, {name: array for name, array in model.leaves.items() if matches(name, HEARING)}, "F16")


def load(folder, model):
    """`model` with the ears of a folder that `save` wrote. Raises UserError if there are none, or not this model's."""
    folder = Path(folder)
    found = read_json(folder / SETTINGS, "; a folder of ears holds an ears.json")
    known = {field.name: field for field in fields(Ear)}
    wrong = [name for name in sorted({*known, *found}) if name not in known or type(found.get(name)) is not known[name].type]
    if wrong or found["expert"] not in EXPERTS or min(value for value in found.values() if type(value) is int) < 1:
        raise UserError(f"{folder / SETTINGS}: no ears of this version: {', '.join(wrong) or found}")
    ear = Ear(**found)
    config, stored = replace(model.config, ear=ear), Checkpoint(folder / WEIGHTS)
    stored.check({name: shape for name, shape in config.shapes().items() if matches(name, HEARING)})
    return hear(model, ear, {name: tensor.numpy() for name, tensor in stored.items()})
