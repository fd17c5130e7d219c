"""What is asked of each picture, of which model: everything that a caption depends on, and a hash of it."""
import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .. import loading
from ..errors import UserError

LIMIT = 256                                     # tokens of a caption, where no other limit is given
PLACE = re.compile(r"\{\{|\}\}|\{(\w+)\}")


@dataclass(frozen=True)
class Settings:
    """How to caption.

    prompts:    {column: prompt}; {name} in a prompt is a field of the picture, and {{ a brace.
    model:      what loading.load takes.
    sampling:   what generate.Sampling takes.
    limit:      tokens of a caption.
    retries:    how often an answer that was cut, or repeats itself, is asked for again.
    boxes, trim: whether rows have boxes, and stock openings are cut off.
    batch:      answers at a time. They do not depend on it but for the last digits of sums.
    """
    prompts: dict
    model: dict = field(default_factory=dict)
    sampling: dict = field(default_factory=dict)
    template: str | None = None
    rescale: bool = False
    limit: int = LIMIT
    retries: int = 2
    boxes: bool = False
    trim: bool = False
    batch: int = 16

    def identity(self):
        """All of it that counts, in JSON's types; of the weights a digest, so that they may be moved."""
        counted = asdict(self)
        del counted["batch"]
        model = counted.pop("model")
        places = {name: model.pop(name, None) for name in ("folder", "lora", "tokenizer")}
        del model["device"], model["stream"]
        digests = {"weights" if name == "folder" else name: digest(loading.found(place) if name == "folder" else place)
                   for name, place in places.items() if place is not None or name == "folder"}
        return json.loads(json.dumps(digests | counted | model))

    def questions(self, item):
        """{column: prompt} for one picture"""
        fields = item.fields() if any(PLACE.search(prompt) for prompt in self.prompts.values()) else {}

        def value(found):
            if found[1] is None:
                return found[0][0]
            if fields.get(found[1]) is None:
                raise UserError(f"{item.image}: the prompt asks for {found[0]}, but this picture has only "
                                f"{', '.join(name for name, value in fields.items() if value is not None)}")
            return str(fields[found[1]])
        return {column: PLACE.sub(value, prompt) for column, prompt in self.prompts.items()}


def mark_of(identity):
    """The first half of every key: a hash of the model and the settings"""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def key_of(mark, picture, questions):
    """The key of a row: `mark`, and a hash of the picture's bytes and the prompts"""
    asked = json.dumps(questions, sort_keys=True).encode()
    return mark + hashlib.sha256(hashlib.sha256(picture).digest() + asked).hexdigest()[:32]


def digest(place):
    """A hash of a file, or of the files in a folder. Of a large one 64 places are read, not its gigabytes."""
    place, total = Path(place), hashlib.sha256()
    paths = sorted(path for path in place.iterdir() if path.is_file()) if place.is_dir() else [place]
    for path in paths:
        size = os.path.getsize(path)
        total.update(f"{path.name} {size}\n".encode(errors="surrogateescape"))
        with open(path, "rb") as file:
            for i in range(64) if size > 1 << 24 else [0]:
                file.seek(i * (size >> 6) if size > 1 << 24 else 0)
                total.update(file.read(1 << 16 if size > 1 << 24 else size))
    return total.hexdigest()[:16]
