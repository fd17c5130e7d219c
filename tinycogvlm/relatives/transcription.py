"""From a recording to text, as Whisper does it: windows of thirty seconds, timestamps, temperature fallback.

Radford et al. 2022 (arXiv 2212.04356), sections 2.3 and 4.5, and the behaviour of OpenAI's code. The model hears one
window at a time. The next window begins where the last complete segment ends, which the model writes as a timestamp;
the text so far is its prompt. A text that repeats itself, or whose tokens are improbable, is sampled again at a higher
temperature.
"""
import json
import math
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..inputs import audio
from ..inputs.tokenizer import panics_reported
from ..nn.arrays import namespace, to_numpy
from ..storage.reading import read_bytes
from .pair import Relative

RATE = 16000                                                # samples a second
FRAMES = 3000                                               # of a window, a hundredth of a second each
STEP = 0.02                                                 # seconds from one timestamp to the next, two frames
FIRST_BY = 50                                               # steps by which the first timestamp of a window comes
TEMPERATURES = 0.0, 0.2, 0.4, 0.6, 0.8, 1.0
REPETITIVE = 2.4                                            # times that zlib makes the text shorter
UNLIKELY = -1.0                                             # mean log probability of a token
SILENT = 0.6                                                # probability that nobody speaks
# Marks that stand for no speech, alone or after a space; the notes even where they take several tokens.
MARKS = [*"\"#()*+/:;<=>@[\\]^_`{|}~「」『』", "<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", "(\"", "((", "))",
         "(((", ")))", "[[", "]]", "{{", "}}", "♪♪", "♪♪♪"]
NOTES = "♩♪♫♬♭♮♯"


@dataclass(frozen=True)
class Segment:
    """A stretch of speech. Times are seconds from the beginning of the recording."""
    start: float
    end: float
    text: str
    tokens: tuple
    language: str
    temperature: float
    log_probability: float                                  # the mean of a token, over the window


@dataclass(frozen=True)
class Decoded:
    """The text of one window."""
    tokens: list
    text: str
    temperature: float
    log_probability: float
    no_speech: float                                        # the probability that nobody speaks

    @property
    def doubtful(self):
        repetitive = compression(self.text) > REPETITIVE
        return (repetitive or self.log_probability < UNLIKELY) and not self.silent

    @property
    def silent(self):
        return self.no_speech > SILENT and self.log_probability < UNLIKELY


def compression(text):
    """How many times zlib makes a text shorter: more where it repeats itself"""
    content = text.encode()
    return len(content) / len(zlib.compress(content))


class Tokens:
    """A Whisper's tokens by the tokenizer.json of its folder; those after the words have no text of their own."""

    def __init__(self, folder, vocabulary):
        path = Path(folder) / "tokenizer.json"
        content = read_bytes(path, "; Whisper's folder has one")
        with panics_reported(f"{path}: damaged, or not a tokenizer"):
            from tokenizers import Tokenizer
            self.plain = Tokenizer.from_str(json.dumps(json.loads(content)))
        names = {"end": "<|endoftext|>", "start": "<|startoftranscript|>", "translate": "<|translate|>",
                 "transcribe": "<|transcribe|>", "startoflm": "<|startoflm|>", "previous": "<|startofprev|>",
                 "no_timestamps": "<|notimestamps|>"}
        for name, written in names.items():
            setattr(self, name, self.plain.token_to_id(written))
        self.no_speech = self.plain.token_to_id("<|nospeech|>") or self.plain.token_to_id("<|nocaptions|>")
        missing = [name for name in (*names, "no_speech") if getattr(self, name) is None]
        if missing or not self.no_timestamps < vocabulary - 1:
            raise UserError(f"{path}: another model's: " + (f"it has no {names.get(missing[0], '<|nospeech|>')}" if missing
                            else f"<|notimestamps|> is {self.no_timestamps}, but config.json has {vocabulary} tokens"))
        self.first_time, self.multilingual = self.no_timestamps + 1, vocabulary >= 51865
        between = range(self.start + 1, self.translate)
        self.languages = {self.plain.id_to_token(i).strip("<|>"): i for i in between} if self.multilingual else {}

    def encode(self, text):
        return self.plain.encode(text, add_special_tokens=False).ids

    def text(self, tokens):
        """The words alone"""
        return self.plain.decode([token for token in tokens if token < self.end], skip_special_tokens=True)

    @cached_property
    def suppressed(self):
        """Ids that are never said: marks that stand for no speech, and all that only prompts hold"""
        found = {self.encode(" -")[0], self.encode(" '")[0], self.transcribe, self.translate, self.start, self.startoflm,
                 self.previous, self.no_speech, self.no_timestamps}
        for mark in (*MARKS, *NOTES):
            for ids in (self.encode(mark), self.encode(f" {mark}")):
                if len(ids) == 1 or mark in NOTES:
                    found.add(ids[0])
        return np.array(sorted(found))

    def prompt(self, language):
        """What stands before a text with timestamps"""
        return [self.start, self.languages[language], self.transcribe] if self.multilingual else [self.start]

    def allowed(self, logits, said):
        """The logits, -inf where a token may not follow those that were said                (V,) float -> (V,)

        Timestamps come in pairs, the end of one segment and the beginning of the next, never go back, and the first
        comes within a second. Where they are together more probable than any word, one comes.
        """
        logits, times = logits.copy(), [token for token in said if token >= self.first_time]
        logits[self.suppressed] = -np.inf
        if not said:
            logits[[self.encode(" ")[0], self.end]] = -np.inf
            logits[:self.first_time] = -np.inf
            logits[self.first_time + FIRST_BY + 1:] = -np.inf
        elif said[-1] >= self.first_time and (len(said) < 2 or said[-2] >= self.first_time):
            logits[self.first_time:] = -np.inf              # after a pair comes a word
        elif said[-1] >= self.first_time:
            logits[:self.end] = -np.inf                     # after one comes its partner, or the end
        if times:
            ended = said[-1] >= self.first_time and len(said) > 1 and said[-2] < self.first_time
            logits[self.first_time:times[-1] + (not ended)] = -np.inf
        highest = logits.max()
        time = np.exp(logits[self.first_time:] - highest).sum()
        if time > 0 and math.log(time) > logits[:self.first_time].max() - highest:
            logits[:self.first_time] = -np.inf
        return logits


class Transcriber(Relative):
    """A model that transcribes. A subclass says heard(mel), next_logits(ids, heard, past)."""

    @cached_property
    def tokens(self):
        if self.folder is None:
            raise UserError("this model was made without a folder, so it has no tokenizer")
        return Tokens(self.folder, self.config.vocabulary)

    def mel(self, sound):
        """The spectrogram of a sound and of the thirty seconds of silence after it       -> (mels, frames), frames heard

        sound: as in audio.load.
        """
        wave = audio.load(sound, RATE)
        padded = np.concatenate([wave, np.zeros(FRAMES * RATE // 100, np.float32)])
        mel, _ = audio.whisper_log_mel(padded, audio.mel_filters(self.config.mels, 400, RATE))
        return mel, mel.shape[1] - FRAMES

    def language_of(self, heard):
        """The code of the most likely language"""
        logits, _ = self.next_logits(self._ids([self.tokens.start]), heard)
        logits, languages = to_numpy(logits), self.tokens.languages
        return max(languages, key=lambda code: logits[languages[code]])

    def transcribe(self, sound, language=None, progress=None):
        """The Segments of a recording, one after the other, as they are found

        sound: as in audio.load. language: a code such as "en"; by default the model hears it in the first window.
        progress(seconds, of) is called before each window.
        """
        tokens, chosen = self.tokens, language
        known = tokens.languages if tokens.multilingual else ["en"]
        if chosen is not None and chosen not in known:
            raise UserError(f"the language {chosen!r} is none of this model's: {', '.join(known)}")
        if self.config.sound_context != FRAMES // 2:
            raise UserError(f"this Whisper hears {self.config.sound_context} positions, not the {FRAMES // 2} of thirty seconds")
        mel, frames = self.mel(sound)
        start, before = 0, []                               # in frames; the tokens of earlier windows
        while start < frames:
            if progress:
                progress(start / 100, frames / 100)
            length = min(FRAMES, frames - start)
            window = np.zeros((len(mel), FRAMES), mel.dtype)
            window[:, :length] = mel[:, start:start + length]
            heard = self.heard(window)
            chosen = chosen or (self.language_of(heard) if tokens.multilingual else "en")
            decoded = self.decode(heard, chosen, before)
            if decoded.silent:
                start += length
                continue
            said, step = self.segments(decoded.tokens, length)
            for first, last, part in said:
                text = tokens.text(part)
                if text.strip() and first != last:
                    before = before + part
                    yield Segment(start / 100 + first, start / 100 + last, text, tuple(part), chosen,
                                  decoded.temperature, decoded.log_probability)
            before = before if decoded.temperature <= 0.5 else []           # what was guessed must not lead astray
            start += step

    def segments(self, said, length):
        """[(start, end, tokens)] in seconds of a window of `length` frames, and the frames until the next window"""
        first = self.tokens.first_time
        is_time = [token >= first for token in said]
        cuts = [i + 1 for i in range(len(said) - 1) if is_time[i] and is_time[i + 1]]
        ends_in_one = is_time[-2:] == [False, True]         # and nothing more is said in this window
        if not cuts:
            times = [token for token in said if token >= first]
            end = (times[-1] - first) * STEP if times and times[-1] != first else length / 100
            return [(0.0, end, said)], length
        cuts = [*cuts, len(said)] if ends_in_one else cuts
        found, begin = [], 0
        for cut in cuts:
            part = said[begin:cut]
            found.append(((part[0] - first) * STEP, (part[-1] - first) * STEP, part))
            begin = cut
        return found, length if ends_in_one else max(1, (said[begin - 1] - first) * 2)

    def decode(self, heard, language, before=()):
        """The Decoded of a window, at the lowest temperature whose text is not doubtful"""
        decoded = None
        for temperature in TEMPERATURES:
            decoded = self.decode_at(temperature, heard, language, before)
            if not decoded.doubtful:
                break
        return decoded

    def decode_at(self, temperature, heard, language, before=()):
        """The Decoded of a window at one temperature; 0 is greedy decoding"""
        tokens, longest = self.tokens, self.config.text_context // 2
        earlier = [tokens.previous, *before[-(longest - 1):]] if before else []
        random, said, total = np.random.default_rng(0), [], 0.0
        first, *rest = tokens.prompt(language)
        logits, past = self.next_logits(self._ids([*earlier, first]), heard)
        no_speech = math.exp(log_softmax(to_numpy(logits))[tokens.no_speech])
        if rest:
            logits, past = self.next_logits(self._ids(rest), heard, past)
        while True:
            allowed = tokens.allowed(to_numpy(logits), said)
            log_p = log_softmax(allowed)
            token = int(log_p.argmax()) if temperature == 0 else draw(allowed / temperature, random)
            total += float(log_p[token])
            if token == tokens.end or len(said) == longest:
                break
            said.append(token)
            logits, past = self.next_logits(self._ids([token]), heard, past)
        return Decoded(said, tokens.text(said).strip(), temperature, total / (len(said) + 1), no_speech)

    def _ids(self, ids):
        return namespace(self.convert(np.zeros(1, np.float32))).asarray([ids])


def log_softmax(logits):
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def draw(logits, random):
    """A token at random, by the softmax of its logits"""
    p = np.exp(log_softmax(logits).astype(np.float64))
    return int(random.choice(len(p), p=p / p.sum()))
