"""A run's log, <stage>.jsonl: a line of JSON every few steps, and one for every measurement in between."""
import json
import math

from ...errors import UserError
from ...storage import atomic
from ...storage.reading import read_bytes
from .process import say


def append(log, entry):
    try:
        with open(log, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
    except OSError as error:
        raise UserError(f"{log}: cannot be written ({error.strerror or error})") from None


def read(log):
    """Its entries, and {line number: what is wrong} of the lines that are none.

    Empty lines are skipped, and so is a last line without an end: a run may be writing it, or was killed meanwhile.
    """
    entries, damaged = [], {}
    *lines, _ = read_bytes(log).split(b"\n") if log.exists() else [b""]
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                entries.append(parsed(line))
            except (ValueError, OverflowError, RecursionError) as error:
                damaged[number] = str(error)
    return entries, damaged


def parsed(line):
    """The entry of a line; an exception that says what is wrong with it"""
    entry = json.loads(line.decode())
    if not isinstance(entry, dict):
        raise ValueError("it is not a JSON object")
    if type(entry.get("step")) is not int or entry["step"] < 1:
        raise ValueError("it has no step, a whole number of 1 or more")
    kinds = {"watch": dict} if "watch" in entry else {"loss": (int, float), "samples": (int, float)}
    for name, kind in kinds.items():
        if not isinstance(entry.get(name), kind):
            raise ValueError(f"it has no {name}" if name not in entry else f"its {name} is {entry[name]!r:.50}")
    for name, number in flat(entry):
        if not math.isfinite(number):
            raise ValueError(f"its {name} is {number}")
    return entry


def flat(values, before=""):
    """(name, number) of a dict of numbers, texts and such dicts: {"a": {"b": 1}} is "a: b", 1; texts are left out."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{name}: ")
        elif isinstance(value, (int, float)):
            yield before + name, value


def cut(log, step):
    """Leave out what came after `step`, since a run that goes on from there writes it again; and damaged lines.

    If there are any, the log as it was is kept under another name.
    """
    entries, damaged = read(log)
    if damaged:
        aside = log.with_name(f"{log.name}.damaged")
        atomic.write(aside, read_bytes(log))
        say(f"tinycogvlm: {log}: {problem(damaged)}; the log goes on without, and is kept as it was in {aside.name}")
    atomic.write(log, "".join(json.dumps(entry) + "\n" for entry in entries if entry["step"] <= step))


def problem(damaged):
    """The damaged lines of `read`, in words"""
    number = min(damaged)
    others = "" if len(damaged) == 1 else f" (and {len(damaged) - 1} more)"
    return f"line {number} cannot be read: {damaged[number]}{others}"
