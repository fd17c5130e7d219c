"""tinycogvlm match: how probable each text is for each picture."""
from itertools import takewhile
from os.path import isfile                              # False for a text too long for a path, where Path raises
from pathlib import Path

from ..errors import UsageError
from ..inputs import image
from ..loading import pair
from ..storage.reading import short
from .answer import load_picture
from .say import echo, echo_json, legible, progress, say


def run(arguments):
    images, texts = split([*arguments.images, *arguments.texts])
    progress("loading the model ...")
    model = pair(arguments.weights, arguments.device, arguments.dtype)
    probable = model.match((load_picture(arguments, path) for path in images), texts)
    for text in texts:
        if model.tokenizer.cut(text):
            say(f"tinycogvlm: only the first {model.tokenizer.context} tokens are read of {short(text)}")
    if arguments.json:
        echo_json({"model": model.kind, "images": [legible(path) for path in images], "texts": texts,
                   "probabilities": probable.tolist()})
    else:
        echo(table(images, texts, probable))
        echo(f"\n{model.meaning}")
    return 0


def split(words):
    """(pictures, texts): pictures come first, and are files or are called like one. Raises UsageError without both."""
    endings = image.endings()
    images = list(takewhile(lambda word: Path(word).suffix.lower() in endings or isfile(word), words))
    texts = words[len(images):]
    if not images:
        raise UsageError(f"{words[0]!r} is no file; pictures come first, then texts")
    if not texts:
        raise UsageError(f"all {len(words)} words are files; after the pictures come texts, such as 'a photo of a dog'")
    return images, texts


def table(images, texts, probable):
    """A row for each picture, a numbered column for each text, and the texts with their numbers"""
    width = max(map(len, images))
    lines = [" " * width + "".join(f"{i:>8}" for i in range(1, len(texts) + 1))]
    lines += [f"{name:{width}}" + "".join(f"{p:8.3f}" for p in row) for name, row in zip(images, probable)]
    return "\n".join([*lines, "", *(f"{i:>3}  {text}" for i, text in enumerate(texts, 1))])
