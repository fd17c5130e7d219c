"""A task of your own: a folder of pictures and questions.jsonl, a line for each question or conversation.

    {"image": "a.png", "question": "What is it?", "answer": "A zorp."}
    {"image": "a.png", "turns": [["What is it?", "A zorp."], ["Where?", "On sand."]]}
    {"question": "What is a zorp?", "answer": "A star."}

image is a path from the folder; a line without one is text alone. All are learned in the template "chat", which is
also to be asked for (--template chat) where a model without a picture has another.
"""
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

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
    image: str | None                                       # the picture's path
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
        raise UserError(f"{folder / FILE}: {len(problems)} line{'s' * (len(problems) > 1)} cannot be used\n  "
                        + "\n  ".join(problems))
    if not found:
        raise UserError(f"{folder / FILE}: holds no line; one is {EXAMPLE}")
    return found


def parsed(written, folder):
    """A line as Line, its picture not yet looked at"""
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
        raise UserError("turns and question or answer; one of the two says it all")
    turns = content["turns"] if "turns" in content else [[content.get("question"), content.get("answer")]]
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, list) and len(turn) == 2 for turn in turns):
        raise UserError('turns must be [["question", "answer"], ...], at least one')
    for turn in turns:
        for what, said in zip(("question", "answer"), turn):
            if not isinstance(said, str) or not said.strip():
                raise UserError(f"{what} is {said!r}; it must be a text that is not empty")
    picture = content.get("image")
    if picture is not None and (not isinstance(picture, str) or not picture or "\0" in picture):
        raise UserError(f"image is {picture!r}; it must be a file's path from this folder, or be left out")
    return Line(str(folder / picture) if picture else None,
                tuple((question.strip(), answer.strip()) for question, answer in turns))


def each_once(pairs):
    """A JSON object as a dict"""
    content = dict(pairs)
    if len(pairs) != len(content):
        raise UserError("a key comes twice; each may come once")
    return content


def picture_problem(path):
    try:
        image.load(path)
    except UserError as error:
        return str(error)


def fits(line, config, tokenizer):
    """UserError unless the conversation fits the model's context."""
    dot = np.zeros((1, 1, 3), np.uint8) if line.image else None
    length, most = row(config, tokenizer, dot, line).ids.shape[1], config.max_position_embeddings
    if length > most:
        raise UserError(f"{length} tokens, but the model's context is {most}; a shorter answer or fewer turns would do")


def row(config, tokenizer, picture, line):
    return examples.example(config, tokenizer, picture, line.turns, longest=np.inf)[0]


def split(lines, share, seed):
    """What is learned, what is held out: all questions about one picture on one side -> [Line], [Line]"""
    groups = {}
    for i, line in enumerate(lines):
        groups.setdefault(line.image or i, []).append(line)
    order = np.random.default_rng([seed, 0]).permutation(len(groups)).tolist()
    groups, held = list(groups.values()), []
    for n in order:
        if len(held) >= round(share * len(lines)):
            break
        held += groups[n]
    chosen = set(map(id, held))
    learned = [line for line in lines if id(line) not in chosen]
    if not learned:
        raise UserError(f"--held-out {share} leaves nothing to learn from {len(lines)} line{'s' * (len(lines) > 1)}; "
                        "more pictures or a smaller share would do")
    return learned, held


@dataclass(frozen=True)
class Batches:
    """Step after step, through all lines in a new order each time."""
    lines: tuple
    config: object
    tokenizer: str                                          # its path: another process makes the batches
    size: int
    seed: int

    def __call__(self, workers, step):
        """Step `step`, as parts (Inputs, labels): rows of like length, with little padding."""
        made = []
        for i in range(step * self.size, (step + 1) * self.size):
            epoch, place = divmod(i, len(self.lines))
            line = self.lines[order(len(self.lines), self.seed, epoch)[place]]
            made.append(examples.example(self.config, loaded(self.tokenizer, self.config),
                                 picture(line.image) if line.image else None, line.turns, longest=np.inf))
        made.sort(key=lambda row: -row[1].shape[1])
        size = -(-len(made) // workers)
        return [examples.batch(made[i:i + size], self.config.pad_token_id) for i in range(0, len(made), size)]


@lru_cache(maxsize=2)
def order(count, seed, epoch):
    return np.random.default_rng([seed, 1, epoch]).permutation(count)


@lru_cache(maxsize=2)
def loaded(tokenizer, config):
    return Tokenizer.load(tokenizer, config)


@lru_cache(maxsize=256)
def picture(path):
    return np.asarray(image.load(path))


def right(model, lines):
    """How many answers are the true ones letter by letter, and of how many; a later turn is asked behind the earlier."""
    asked = []
    for line in lines:
        scene = SimpleNamespace(picture=picture(line.image)) if line.image else None
        asked += [SimpleNamespace(scene=scene, turns=line.turns[:n + 1]) for n in range(len(line.turns))]
    if not asked:
        return 0, 0
    said = ask(model, asked)
    return sum(given == one.turns[-1][1] for given, one in zip(said, asked)), len(asked)
