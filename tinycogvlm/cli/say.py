"""How every command speaks: answers go to stdout, everything else to stderr."""
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from ..errors import UserError


def echo(text="", end="\n", flush=False):
    """Print a result, to stdout."""
    print(text, end=end, flush=flush)


def echo_json(value):
    """Print a result as one line of JSON."""
    echo(json.dumps(value, allow_nan=False), flush=True)


def say(text):
    """Print what is not a result, to stderr."""
    print(text, file=sys.stderr)


def progress(text):
    """Say something to a person who is waiting; a log does not get it."""
    if sys.stderr.isatty():
        say(text)


def say_error(error):
    """Say what went wrong. Commands that cannot go on raise UserError instead, which carries the exit code."""
    say(f"tinycogvlm: {error}")


def stream(pieces, said):
    """Print pieces of text as they come and append them to `said`; the line is ended even if Ctrl-C ends the answer."""
    try:
        for piece in pieces:
            said.append(piece)
            echo(piece, end="", flush=True)
    finally:
        echo(flush=True)


def writable_picture(path):
    """Check, before any long work, that a picture can be written to `path` -> Path, or None for None."""
    if path is None:
        return None
    from PIL import Image
    path = Path(path)
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise UserError(f"{path}: no picture format has the ending {path.suffix!r}; use .png or .jpg")
    if path.is_dir():
        raise UserError(f"{path}: a folder, not a file to write")
    write_picture(path, Image.new("RGB", (1, 1)), trial=True)
    return path


def write_picture(path, picture, trial=False):
    """Write under a temporary name, which then takes the place of `path`; a trial leaves everything as it was."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        picture.save(temporary)
        if not trial:
            temporary.replace(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from None
    finally:
        with suppress(OSError):
            temporary.unlink()
