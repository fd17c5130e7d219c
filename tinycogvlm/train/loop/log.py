"""A run's log, <stage>.jsonl: a line of JSON every few steps, and one whenever the stage was watched."""
import json

from ...errors import UserError
from ...storage import atomic


def append(log, entry):
    try:
        with open(log, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
    except OSError as error:
        raise UserError(f"{log}: cannot be written ({error.strerror or error})") from None


def read(log):
    """The lines that are whole: a run may be writing another, or was killed while it did."""
    lines = log.read_text(encoding="utf-8").splitlines(True)
    try:
        return [json.loads(line) for line in lines if line.endswith("\n")]
    except ValueError as error:
        raise UserError(f"{log}: not a training's log ({error})") from None


def cut(log, step):
    """Leave out what came after `step`: a run that goes on from there will write it again."""
    atomic.write(log, "".join(json.dumps(entry) + "\n" for entry in read(log) if entry["step"] <= step))
