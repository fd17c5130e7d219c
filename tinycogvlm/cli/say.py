"""How every command speaks: results go to stdout, everything else to stderr; and how it listens."""
import io
import os
import sys
from contextlib import suppress

from ..errors import UserError

LONGEST = 2000                                              # characters of a message; errors may quote whole files
# Control characters of the C0 and C1 sets, but not tab and newline: in a terminal they move the cursor, rename the
# window or write to the clipboard, and what a model or a file's name says must not do that.
CONTROLS = {code: "\ufffd" for code in (*range(9), *range(11, 32), *range(127, 160))}


def open_streams():
    """Make the standard streams usable: they are None where a parent has closed them, and under pythonw."""
    for name, mode in ("stdin", "r"), ("stdout", "w"), ("stderr", "w"):     # in order: each gets the lowest free number
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))     # noqa: SIM115 (open to the end)
        elif isinstance(stream, io.TextIOWrapper) and name != "stderr":
            # A letter that the console does not have is printed as ?; one that cannot be read is left for `as_utf8`.
            stream.reconfigure(errors="surrogateescape" if name == "stdin" else "replace")


def flush_streams():
    """Write what is left in the streams' buffers -> the OSError if a result was lost, else None"""
    lost = None
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            lost = error if stream is sys.stdout else lost
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())          # or Python complains at exit
    return lost


def echo(text="", end="\n", flush=False):
    """Print a result, to stdout."""
    print(printable(text, sys.stdout), end=end, flush=flush)


def echo_json(value):
    """Print a result as one line of JSON."""
    import json
    echo(json.dumps(value, allow_nan=False), flush=True)


def say(text):
    """Print what is not a result, to stderr. If nobody can read it there, the result is still worth having."""
    with suppress(OSError):
        print(printable(text, sys.stderr), file=sys.stderr)


def progress(text):
    """Say something to a person who is waiting; a log does not get it."""
    if sys.stderr.isatty():
        say(text)


def say_error(error):
    """Say what went wrong. Commands that cannot go on raise UserError instead, which carries the exit code."""
    say(f"tinycogvlm: {shortened(str(error))}")


def printable(text, stream):
    return str(text).translate(CONTROLS) if stream.isatty() else str(text)


def shortened(text):
    """A long message without its middle"""
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[:half]} ... ({len(text) - 2 * half:,} characters left out) ... {text[-half:]}"


def show(pieces, said, before=""):
    """Print pieces of text as they come, after `before`, and append them to `said`; a line that was begun is ended."""
    try:
        for piece in pieces:
            echo(piece if said else before + piece, end="", flush=True)
            said.append(piece)
    except BaseException:
        if said:
            echo(flush=True)
        raise
    echo("" if said else before, flush=True)


def ask_for_line(prompt):
    """One line of stdin. Raises EOFError at its end, UserError if it is not text."""
    return as_utf8(input(prompt), sys.stdin.encoding).removeprefix("\ufeff")    # which some editors put first in a file


def as_utf8(text, encoding):
    """What was typed. Bytes that the locale's encoding does not have arrive as surrogates; they may well be UTF-8."""
    if not any("\ud800" <= letter <= "\udfff" for letter in text):
        return text
    try:
        return text.encode(encoding or "utf-8", "surrogateescape").decode()
    except UnicodeError:
        raise UserError(f"{text!r} is not UTF-8 text") from None


def legible(path):
    """A path as text for JSON, which has no surrogates"""
    return os.fsencode(path).decode(errors="replace")


ANIMATED = "GIF", "PNG", "WEBP"                            # Pillow's formats that hold several pictures


def writable_picture(path, animated=False):
    """Check, before any long work, that a picture, or several in one file, can be written to `path` -> Path, or None."""
    if path is None:
        return None
    from pathlib import Path

    from PIL import Image

    from ..storage import atomic
    path = Path(path)
    if animated and Image.registered_extensions().get(path.suffix.lower()) not in ANIMATED:
        raise UserError(f"{path}: a video is written as .gif, .png or .webp")
    encoded(Image.new("RGB", (1, 1)), path)
    atomic.check(path)
    return path


def write_picture(path, picture):
    from ..storage import atomic
    atomic.write(path, encoded(picture, path))


def write_animation(path, pictures, milliseconds):
    """Write pictures one after the other, each shown as long, to a path that `writable_picture` has checked."""
    from ..storage import atomic
    atomic.write(path, encoded(pictures[0], path, save_all=True, append_images=pictures[1:], duration=milliseconds,
                               loop=0))


def encoded(picture, path, **options):
    """The bytes of a picture's file, in the format of the path's ending; options: of Pillow's `save`"""
    from PIL import Image
    kind, file = Image.registered_extensions().get(path.suffix.lower()), io.BytesIO()
    if kind not in Image.SAVE:
        raise UserError(f"{path}: no picture format has the ending {path.suffix!r}; use .png or .jpg")
    try:
        picture.save(file, kind, **options)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: a picture cannot be written in the format {kind} ({error})") from None
    return file.getvalue()
