"""A task of your own: a folder of pictures and questions.jsonl, one line for each question or conversation.

    {"image": "a.png", "question": "What is it?", "answer": "A zorp."}
    {"image": "a.png", "turns": [["What is it?", "A zorp."], ["Where?", "On sand."]]}
    {"question": "What is a zorp?", "answer": "A star."}

image is a path relative to the folder; a line without one is text alone. Everything is learned in the template "chat".
Where a model uses another template for text alone, ask it with --template chat.
"""
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ...errors import UserError
from ...evaluate.asking import ask
from ...inputs import examples, image
from ...inputs.tokenizer import Tokenizer
from ...storage.reading import read_text

FILE = "questions.jsonl"
EXAMPLE = '{"image": "a.png", "question": "What is it?", "answer": "A dog."}'


@dataclass(frozen=True)
class Line:
    image: str | None                                       # path of the picture
    turns: tuple                                            # of (question, answer)


def read(folder, config, tokenizer):
    """The lines of a folder's questions.jsonl -> [Line]. UserError names every bad line, and what would be right."""
    folder, found, problems = Path(folder), [], []
    text = read_text(folder / FILE, f"; it holds lines such as {EXAMPLE}")
    pictures = {}                                           # {path: what is wrong with it, or None}
    for number, written in enumerate(text.split("\n"), 1):
        if not written.strip():
            continue
        try:
            line = parsed(written, folder)
            if line.image and line.image not in pictures:
                pictures[line.image] = picture_problem(line.image)
            if line.image and pictures[line.image]:
                raise UserError(pictures[line.image])
            fits(line, config, tokenizer)
            found.append(line)
        except UserError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        raise UserError(f"{folder / FILE}: {counted(len(problems))} cannot be used\n  " + "\n  ".join(problems))
    if not found:
        raise UserError(f"{folder / FILE}: holds no line; one is {EXAMPLE}")
    return found


def counted(lines):
    return "1 line" if lines == 1 else f"{lines} lines"


def parsed(written, folder):
    """A line as a Line; its picture has not been read"""
    try:
        content = json.loads(written, object_pairs_hook=each_once)
        json.dumps(content, ensure_ascii=False).encode()    # half a surrogate pair, "\\ud800", is no text
    except UserError:
        raise
    except (ValueError, RecursionError) as error:           # UnicodeEncodeError is one
        raise UserError(f"not JSON ({error}); right is {EXAMPLE}") from None
    if not isinstance(content, dict):
        raise UserError(f"no JSON object; right is {EXAMPLE}")
    unknown = [key for key in content if key not in ("image", "question", "answer", "turns")]
    if unknown:
        raise UserError(f"{unknown[0]!r} is unknown; the keys are image, question and answer, or image and turns")
    if "turns" in content and ("question" in content or "answer" in content):
        raise UserError("it has both turns and a question or an answer; only one of the two may be there")
    turns = content["turns"] if "turns" in content else [[content.get("question"), content.get("answer")]]
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, list) and len(turn) == 2 for turn in turns):
        raise UserError('turns must be [["question", "answer"], ...], at least one')
    for turn in turns:
        for what, said in zip(("question", "answer"), turn):
            if not isinstance(said, str) or not said.strip():
                raise UserError(f"{what} is {said!r}; it must be a text, and not empty")
    picture = content.get("image")
    if picture is not None and (not isinstance(picture, str) or not picture or "\0" in picture):
        raise UserError(f"image is {picture!r}; it must be a path relative to this folder, or be left out")
    return Line(str(folder / picture) if picture else None,
                tuple((question.strip(), answer.strip()) for question, answer in turns))


def each_once(pairs):
    """A JSON object as a dict"""
    content = dict(pairs)
    if len(pairs) != len(content):
        raise UserError("a key comes twice; each may come once")
    return content


def picture_problem(path):
    """Why a picture cannot be read, or None"""
    try:
        image.load(path)
    except UserError as error:
        return str(error)
    return None


def fits(line, config, tokenizer):
    """Raise UserError if the conversation is too long for the model's context."""
    dot = np.zeros((1, 1, 3), np.uint8) if line.image else None
    inputs, _ = examples.example(config, tokenizer, dot, line.turns, longest=np.inf)
    length, most = inputs.ids.shape[1], config.max_position_embeddings
    if length > most:
        raise UserError(f"{length} tokens, but the model's context is {most}; a shorter answer or fewer turns would do")


def split(lines, share, seed):
    """The lines to learn from, and those held out; all questions about a picture are on one side -> [Line], [Line]"""
    groups = {}                                             # {path of a picture, or number of a line: numbers of lines}
    for i, line in enumerate(lines):
        groups.setdefault(line.image or i, []).append(i)
    order = np.random.default_rng([seed, 0]).permutation(len(groups)).tolist()
    groups, held = list(groups.values()), []
    for n in order:
        if len(held) >= round(share * len(lines)):
            break
        held += groups[n]
    chosen = set(held)
    learned = [line for i, line in enumerate(lines) if i not in chosen]
    if not learned:
        raise UserError(f"--held-out {share} leaves nothing to learn from {counted(len(lines))}; more pictures or a "
                        "smaller share would do")
    return learned, [lines[i] for i in held]


@dataclass(frozen=True)
class Batches:
    """The data of loop.fit: round after round through all lines, in a new order each time"""
    lines: tuple
    config: object
    tokenizer: str                                          # its path, since another process makes the batches
    size: int
    seed: int

    def __call__(self, workers, step):
        """Step `step`, as parts (Inputs, labels)"""
        made = []
        for i in range(step * self.size, (step + 1) * self.size):
            epoch, place = divmod(i, len(self.lines))
            line = self.lines[order(len(self.lines), self.seed, epoch)[place]]
            shown = picture(line.image) if line.image else None
            made.append(examples.example(self.config, loaded(self.tokenizer, self.config), shown, line.turns,
                                         longest=np.inf))
        return examples.batches(made, workers, self.config.pad_token_id)


@lru_cache(maxsize=2)
def order(count, seed, epoch):
    return np.random.default_rng([seed, 1, epoch]).permutation(count)


@lru_cache(maxsize=2)
def loaded(tokenizer, config):
    return Tokenizer.load(tokenizer, config)


@lru_cache(maxsize=256)
def picture(path):
    return np.asarray(image.load(path))


@dataclass(frozen=True)
class Photo:
    """What asking.ask takes for a scene"""
    path: str

    @property
    def picture(self):
        return picture(self.path)


@dataclass(frozen=True)
class Asked:
    """What asking.ask takes for a question"""
    scene: Photo | None
    turns: tuple


def right(model, lines):
    """The number of right answers, equal letter by letter, and of all; a later turn is asked after the earlier ones."""
    asked = [Asked(Photo(line.image) if line.image else None, line.turns[:n + 1])
             for line in lines for n in range(len(line.turns))]
    said = ask(model, asked)
    return sum(given == one.turns[-1][1] for given, one in zip(said, asked)), len(asked)
