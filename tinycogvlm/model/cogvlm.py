"""CogVLM (Wang et al. 2023, arXiv 2311.03079): images and text -> logits, the loss, and the whole backward pass."""
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..inputs import prompt
from ..nn import ops
from ..nn.arrays import namespace, wide
from ..nn.swap import op
from ..nn.trace import FiniteOnly, is_recording, record, recording, scope
from ..nn.tree import Gradients, Params, matches
from . import adapter, decoder, generate
from .parts import COMPUTED
from .route import Route


MEDIA = "model.vision.", "model.sound."                     # below them stands what makes tokens of media


class CogVLM:
    """A model: its configuration, its parameters and, for words, its tokenizer.

    config:     Config, the geometry.
    leaves:     {tensor name: array} under the checkpoint's names; NumPy or CuPy, float32 or float64.
    tokenizer:  of tokenizer.py; only `inputs`, `ask` and `stream` need one.
    rotary:     decoder.Rotary; by default from the family's base.
    check_finite: whether every tensor of an answer is tested for NaN and infinity, which takes time.
    """

    def __init__(self, config, leaves, tokenizer=None, rotary=None, check_finite=False):
        self.config, self.leaves, self.tokenizer, self.check_finite = config, leaves, tokenizer, check_finite
        self.rotary = rotary or decoder.Rotary.from_base(config.rope_base, config.head_size, config.rope_scaling)
        norm = leaves["model.norm.weight"]
        self.xp, self.dtype = namespace(norm), norm.dtype

    @property
    def parameters(self) -> list[str]:
        """Names of what can be trained: every tensor but the rotary frequencies."""
        return [name for name in self.leaves if not matches(name, COMPUTED)]

    def route(self, inputs, positions=None, first=0):
        """The Route of the inputs' tokens, which follow `first` tokens of a cache, at `positions`."""
        return Route(inputs.types, inputs.mask, positions, self.xp, self.config.experts, first)

    @op
    def embed(self, inputs, route, keep="all"):
        """The vectors of all tokens, (B, T, D), and `pull(dx, g)`: text from the table, the rest by media_rows.

        route, keep: as in `hidden`, for the tower's blocks.
        """
        p, xp, (B, T) = Params(self.leaves).model, self.xp, inputs.ids.shape
        ids = xp.asarray(inputs.ids).reshape(-1)[route.text_tokens]
        text, pull_text = ops.embedding(ids, p.embed_tokens.weight)
        x, pull_media = xp.empty((B * T, self.config.hidden_size), self.dtype), None
        x[route.text_tokens] = text
        if inputs.media or route.media_tokens is not None:
            media, pull_media = self.media_rows(inputs.media, int((inputs.types > 0).sum()), keep, B)
            x[route.media_tokens] = media

        def pull(dx, g):
            dx = dx.reshape(B * T, -1)
            pull_text(dx[route.text_tokens], g.model.embed_tokens)
            if pull_media and g.trains(*MEDIA):
                pull_media(dx[route.media_tokens], g)
        return x.reshape(B, T, -1), pull if keep else None

    def media_rows(self, media, places, keep="all", at_once=1):
        """The vectors (places, D) of all media tokens, and `pull(dx, g)`. For images: boi, the patches and eoi of each.

        media: [(kind, array)] as in prompt.Inputs; places: how many tokens the text leaves to them. at_once: how many
        pictures the tower sees at a time where nothing is kept. Raises UserError if they do not fit, and for anything
        but images and frames.
        """
        if not self.config.vision:
            raise UserError(prompt.NO_EYES)
        others = sorted({kind for kind, _ in media} - {"image", "frames"})
        if others:
            raise UserError(f"this model reads images, but {' and '.join(others)} came")
        if not media:
            raise UserError("the text has room for images, but none came")
        if not places:
            raise UserError(f"{len(media)} image(s) came, but the text has no room for any")
        pictures = [picture for _, array in media for picture in array.reshape(-1, *array.shape[-3:])]

        def tokens_of(some):
            pixels = self.activations(np.stack(some))
            return adapter.image_tokens(pixels, Params(self.leaves).model.vision, self.config, keep)
        if keep or is_recording():
            x, pull = tokens_of(pictures)                                                   # (N, P + 2, D)
        else:
            x, pull = self.xp.concatenate([tokens_of(pictures[first:first + at_once])[0]
                                           for first in range(0, len(pictures), at_once)]), None
        if len(x) * x.shape[1] != places:
            raise UserError(f"{len(x)} image(s) give {len(x) * x.shape[1]} tokens, but the text has room for {places}")
        return x.reshape(places, -1), lambda dx, g: pull(dx.reshape(x.shape), g.model.vision)

    def activations(self, array):
        """A NumPy array where the parameters are and in the dtype of the arithmetic"""
        return self.xp.asarray(array, dtype=self.dtype)

    @op
    def hidden(self, inputs, cache=None, positions=None, keep="all"):
        """The hidden states after every block and the final norm, (B, T, D), and `pull(dh, g)`.

        cache: a KVCache to read and to extend; a long prompt then goes through each block a part at a time, so that its
        intermediates stay small. positions (B, T): of tokens that follow a cache, see Route. keep: what the blocks keep
        for the backward pass, see ops.checkpointed; with None there is no pullback.
        """
        p, config, T = Params(self.leaves).model, self.config, inputs.ids.shape[1]
        route = self.route(inputs, positions, cache.length if cache else 0)
        if cache:
            cache.reserve(T, route.mask)
        rope = self.rotary(route.positions, np.result_type(self.dtype, np.float32))
        x, pull_embed = self.embed(inputs, route, keep)
        with scope("lm"):
            record("embeds", x)
            record("rope_cos", rope[0])
            record("rope_sin", rope[1])
            record("vision_mask", route.vision_mask)
            record("language_mask", ~route.vision_mask)
            pulls = [None] * config.num_hidden_layers
            for i in range(len(pulls)):
                with scope(f"layer{i}"):
                    if cache and config.tokens_at_once < T and not is_recording():
                        x = self.block_by_parts(x, p.layers[i], route, rope, cache, i)
                        continue
                    past = cache.layer(i) if cache else None
                    x, pulls[i] = ops.checkpointed(decoder.block, x, p.layers[i], route, rope, config, past, keep=keep)
            h, pull_norm = ops.rms_norm(x, p.norm.weight, config.rms_norm_eps)
            record("norm_out", h)
        if cache:
            cache.advance(T)

        def pull(dh, g):
            dx = pull_norm(dh, g.model.norm)
            for i in reversed(range(len(pulls))):
                below = ["model.embed_tokens.", *MEDIA, *(f"model.layers.{j}." for j in range(i))]
                if not g.trains(f"model.layers.{i}.", *below):          # only frozen parameters from here down
                    return
                dx = pulls[i](dx, g.model.layers[i])
            if g.trains("model.embed_tokens.", *MEDIA):
                pull_embed(dx, g)
        return h, pull if keep else None

    def block_by_parts(self, x, p, route, rope, cache, i):
        """decoder.block of layer i for `tokens_at_once` tokens at a time: each part sees the keys of those before it."""
        y, step = self.xp.empty_like(x), self.config.tokens_at_once
        for first in range(0, x.shape[1], step):
            columns = slice(first, first + step)
            part, part_rope = route.part(columns), [table[:, columns] for table in rope]
            rows = self.xp.ascontiguousarray(x[:, columns])
            y[:, columns] = decoder.block(rows, p, part, part_rope, self.config, cache.layer(i, first))[0]
        return y

    def logits(self, inputs: prompt.Inputs, cache: decoder.KVCache | None = None, last: bool = False,
               positions: np.ndarray | None = None) -> np.ndarray:
        """Logits of every token, (B, T, V) in float32 at least; with `last` only the last token's, (B, 1, V).

        cache, positions: as in `hidden`.
        """
        with self.answering():
            h, _ = self.hidden(inputs, cache, positions, keep=None)
            logits = head(h[:, -1:] if last else h, self.leaves[f"{self.config.head}.weight"])
            with scope("lm"):
                record("logits", logits)
        return logits

    @contextmanager
    def answering(self):
        """Around a forward pass whose logits are tested (generate.check_finite): NumPy need not warn of overflow.

        With `check_finite` the first tensor that is not finite is a UserError that names it.
        """
        with np.errstate(over="ignore", invalid="ignore"), \
                recording(FiniteOnly()) if self.check_finite else nullcontext():
            yield

    def new_cache(self, batch, capacity):
        """An empty decoder.KVCache where the parameters are."""
        return decoder.KVCache(self.config, batch, capacity, self.xp, self.dtype)

    def answer_cache(self, batch, capacity):
        """A cache that `steps` takes over: an Engine keeps it for another answer."""
        return self.new_cache(batch, capacity)

    def steps(self, inputs, cache, positions, limit, sampling):
        """The generated ids, step by step: generate.steps, which an Engine replaces."""
        return generate.steps(self, inputs, cache, positions, limit, sampling)

    def loss(self, inputs: prompt.Inputs, labels: np.ndarray, frozen: Sequence[str] = (), checkpoint: bool = False,
             weights: np.ndarray | None = None) -> tuple[float, Callable[[], dict[str, np.ndarray]]]:
        """The mean cross-entropy of the labels, and `pull() -> {name: gradient}` for all parameters but frozen ones.

        labels (B, T): each token at its own place, -100 where nothing is learned; token t is predicted at t - 1.
        frozen: patterns of parameter names, such as parts.TOWER: they cost no work and get no gradient.
        checkpoint: run every block again in the backward pass instead of keeping its intermediates.
        weights (B, T): of the labels in the mean; by default all the same.

        Raises UserError for labels of another shape, outside the vocabulary, or that padding would have to predict.
        """
        xp, labels = self.xp, np.asarray(labels)
        if labels.shape != inputs.ids.shape:
            raise UserError(f"labels have the shape {labels.shape}, the tokens {inputs.ids.shape}")
        learned = np.argwhere(labels[:, 1:] != -100)
        if not len(learned):
            raise UserError("no label to learn from: every entry after the first of each row is -100")
        if labels.max() >= self.config.vocab_size or (labels[labels != -100] < 0).any():
            raise UserError(f"labels must be -100 or token ids below {self.config.vocab_size}")
        if not inputs.mask[learned[:, 0], learned[:, 1]].all():
            raise UserError("a label follows padding, which cannot predict it: it must be -100")
        row, column = (xp.asarray(part) for part in learned.T)
        h, pull_hidden = self.hidden(inputs, keep="input" if checkpoint else "all")
        logits, pull_head = ops.linear(h[row, column], self.leaves[f"{self.config.head}.weight"])   # of what is learned
        weights = None if weights is None else xp.asarray(weights, dtype=self.dtype)[row, column + 1]
        loss, pull_loss = ops.cross_entropy(logits, xp.asarray(labels)[row, column + 1], weights)

        def pull(dloss=1.0):
            g = Gradients(self.parameters, frozen)
            dh = xp.zeros_like(h)
            dh[row, column] = pull_head(pull_loss(dloss), g[self.config.head])
            pull_hidden(dh, g)
            return {name: g.leaves[name] if name in g.leaves else xp.zeros_like(self.leaves[name])
                    for name in g.trained}                              # an expert without a token has gradient zero
        return loss, pull

    def inputs(self, question: str | Sequence, image=None, history: Sequence | None = None,
               template: str | None = None) -> prompt.Inputs:
        """The prompt for a question about a picture, a list of pictures or none (None): one row of prompt.Inputs.

        question: str, or a list of str and pictures in their order. image: whatever image.load takes, or what
        video.read gives, as in ask(video.read("clip.mp4"), ...), or for a model with ears an audio.Sound. history:
        earlier turns as pairs or messages, see prompt.turns. template: one of prompt.TEMPLATES; by default the
        checkpoint's.
        Raises UserError without a tokenizer, and for what image, prompt and history refuse.
        """
        if self.tokenizer is None:
            raise UserError("this model has no tokenizer; name one with --tokenizer or load(..., tokenizer=): "
                            "CogVLM v1 uses Vicuna's tokenizer.model")
        images = [] if image is None else image if isinstance(image, (list, tuple)) else [image]
        with_image = bool(images) or prompt.pictured(question, history)
        template = template or prompt.default_template(self.config, with_image)
        inside = template == prompt.OWN                     # a template that says where the first question begins
        pictures = [Path(image) if isinstance(image, str) else image for image in images] if inside else ()
        written = prompt.text(template, question, history, self.tokenizer, pictures)
        return prompt.build(self.config, self.tokenizer, written, () if inside else images)

    def ask(self, image, question: str | Sequence, history: Sequence | None = None, template: str | None = None,
            max_new_tokens: int | None = None, **sampling) -> generate.Answer:
        """The answer to a question about a picture, or about none (None). sampling: see generate.Sampling."""
        inputs = self.inputs(question, image, history, template)
        return generate.answers(self, [inputs], max_new_tokens, generate.Sampling(**sampling))[0]

    def stream(self, image, question: str | Sequence, history: Sequence | None = None, template: str | None = None,
               max_new_tokens: int | None = None, **sampling) -> generate.Stream:
        """The answer's text, piece by piece as its tokens come; its `finish` then says why it ended."""
        inputs = self.inputs(question, image, history, template)
        return generate.stream(self, inputs, max_new_tokens, generate.Sampling(**sampling))


@op
def head(h, weight):
    """Logits of every token, float32 at least              h (B, T, D), weight (V, D) -> (B, T, V)"""
    logits, _ = ops.linear(h, weight)
    return wide(logits)
