"""A model that captions a shard of pictures in batches, and asks again where an answer was cut or repeats itself."""
import io
import re
import warnings
from dataclasses import dataclass

import numpy as np

from ..errors import UserError
from ..inputs import grounding, image, prompt
from ..loading import cogvlm, load
from ..model import generate
from .settings import key_of

# "The image shows a dog." says no more than "A dog."
OPENING = re.compile(
    r"\s*(?:(?:the|this)\s+(?:image|picture|photo|photograph)\s+(?:shows|depicts|features|displays|captures|presents|"
    r"portrays|illustrates|contains|is\s+of)\s+|in\s+(?:the|this)\s+(?:image|picture|photo|photograph)\s*,?\s*"
    r"(?:(?:there\s+(?:is|are)|(?:we|you|one)\s+can\s+see)\s+)?)", re.IGNORECASE)
AGAIN, STRETCH, PERIOD = 4, 64, 200             # what repeats: so often once more, so many letters, a phrase so long


@dataclass
class Ask:
    """One prompt about one picture"""
    row: int
    column: str
    inputs: prompt.Inputs
    size: tuple
    seed: int


class Captioner:
    """The model of some Settings, loaded when it is first needed. mark: the first half of its keys."""

    def __init__(self, settings, mark, model=None):
        self.settings, self.mark, self._model = settings, mark, model

    @property
    def model(self):
        if self._model is None:
            self._model = cogvlm(load(**self.settings.model))
            if not self._model.config.vision:
                raise UserError(prompt.NO_EYES)
        return self._model

    def rows(self, items, known=None):
        """Captions of a shard -> (a row for each item, in their order; remarks on what was lost in reading pictures)

        known: {image: an older row}, which is taken over where its key is the right one.
        """
        rows, asks, remarks = [], [], []
        for item in items:
            row = self._empty(item)
            rows.append(row)
            try:
                picture, questions = item.read(), self.settings.questions(item)
            except UserError as error:
                row["error"] = str(error)
                continue
            row["key"] = key_of(self.mark, picture, questions)
            older = (known or {}).get(item.image)
            if older and older["key"] == row["key"] and older["error"] is None:
                rows[-1] = older
                continue
            model = self.model                              # what is wrong with it is no picture's error
            try:
                asks += self._asks(model, len(rows) - 1, row, picture, questions, remarks)
            except UserError as error:
                row["error"] = str(error)
        for start in range(0, len(asks), self.settings.batch):
            some = asks[start:start + self.settings.batch]
            for ask, answer in zip(some, self._settled(some)):
                self._put(rows[ask.row], ask, answer)
        return rows, remarks

    def _empty(self, item):
        """A row without answers. With one column "caption" each value is plain, else {column: value}."""
        row = {"image": item.image, **dict.fromkeys(self.settings.prompts)}
        if self.settings.boxes:
            row["boxes"] = None
        return row | {"tokens": None, "finish": None, "error": None, "key": None}

    def _asks(self, model, place, row, picture, questions, remarks):
        """An Ask for each question about a picture, given as its file's bytes"""
        file = io.BytesIO(picture)
        file.name = row["image"]                            # for messages
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", image.PictureWarning)
            picture = image.load(file, self.settings.rescale)
        remarks += [str(warning.message) for warning in caught]
        seed = self.settings.sampling.get("seed", 0) ^ int(row["key"][-12:], 16)    # wherever the picture stands
        return [Ask(place, column, model.inputs(question, picture, template=self.settings.template), picture.size, seed)
                for column, question in questions.items()]

    def _put(self, row, ask, answer):
        """An answer's values into its row, or what went wrong."""
        if isinstance(answer, UserError):
            row["error"] = row["error"] or f"{row['image']}: {answer}"
        if row["error"]:
            row.update(dict.fromkeys(name for name in row if name not in ("image", "error", "key")))
            return
        row[ask.column] = trimmed(answer.text) if self.settings.trim else answer.text
        found = {"tokens": answer.tokens_out, "finish": "repetition" if repeats(answer.text) else answer.finish}
        if self.settings.boxes:
            found["boxes"] = [grounding.to_pixels(box, *ask.size) for box in answer.boxes]
        for name, value in found.items():
            row[name] = value if list(self.settings.prompts) == ["caption"] else (row[name] or {}) | {ask.column: value}

    def _settled(self, asks):
        """The answers to a batch; one that was cut is asked for with twice the room, one that repeats itself with a
        penalty on repetition, up to `retries` times."""
        limit, penalty = self.settings.limit, self.settings.sampling.get("repetition_penalty", 1.0)
        found = self._answers(asks, limit, penalty)
        for again in range(1, self.settings.retries + 1):
            good = [isinstance(answer, UserError) or (answer.finish == "stop" and not repeats(answer.text))
                    for answer in found]
            loops = [i for i, answer in enumerate(found) if not good[i] and repeats(answer.text)]
            cut = [i for i, answer in enumerate(found) if not good[i] and i not in loops and self._has_room(answer)]
            for some, room, stronger in ((cut, limit << again, penalty), (loops, limit, max(penalty, 1) + 0.1 * again)):
                for i, answer in zip(some, self._answers([asks[i] for i in some], room, stronger)):
                    found[i] = found[i] if isinstance(answer, UserError) else answer
        return found

    def _has_room(self, answer):
        return answer.tokens_in + answer.tokens_out < self.model.config.max_position_embeddings

    def _answers(self, asks, limit, penalty):
        """An Answer, or the UserError in its place, for each; where memory is short, half of them at a time."""
        if not asks:
            return []
        seeds = tuple(ask.seed for ask in asks)
        sampling = generate.Sampling(**self.settings.sampling | {
            "repetition_penalty": penalty, "seed": seeds if len(seeds) > 1 else seeds[0]})
        room = self.model.config.max_position_embeddings - max(ask.inputs.ids.shape[1] for ask in asks)
        half = (len(asks) + 1) // 2
        try:
            return generate.answers(self.model, [ask.inputs for ask in asks], max(1, min(limit, room)), sampling)
        except MemoryError:                                 # a GPU's, too
            if len(asks) == 1:
                return [UserError("not enough memory, even for this picture alone")]
        except UserError as error:                          # of one of them, such as a prompt that is too long
            if len(asks) == 1:
                return [error]
            half = 1
        return [answer for start in range(0, len(asks), half)
                for answer in self._answers(asks[start:start + half], limit, penalty)]


def trimmed(text):
    """The text without its stock opening"""
    opening = OPENING.match(text)
    rest = text[opening.end():] if opening else ""
    return rest[:1].upper() + rest[1:] if rest else text


def repeats(text):
    """Whether a phrase comes five times or more in a row, and fills 64 letters or more: an answer that ran away"""
    letters = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    for period in range(1, min(PERIOD, len(letters) // (AGAIN + 1)) + 1):
        same = np.flatnonzero(np.concatenate([[True], letters[period:] != letters[:-period], [True]]))
        if np.diff(same).max() - 1 >= max(AGAIN * period, STRETCH):
            return True
    return False
