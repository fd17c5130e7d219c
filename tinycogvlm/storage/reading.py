"""Files of other people, opened with care: no pipe, no device, no file without end, and every failure in a sentence."""
import json
import os
import stat

from ..errors import UserError

LARGEST_TEXT = 64_000_000                       # bytes; the largest tokenizer.json in use has about 20 million
POINTER = b"version https://git-lfs"            # how the small files begin that Git LFS leaves in place of large ones


def open_file(path, hint=""):
    """A regular file, opened to read bytes. UserError naming the path, and then saying `hint`, if there is none."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):             # to open a pipe would wait for ever
            raise UserError(f"{path}: is not a file{hint}")
        return open(path, "rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}){hint}") from None


def read_bytes(path, hint="", limit=LARGEST_TEXT):
    """The contents of a file of at most `limit` bytes."""
    with open_file(path, hint) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise UserError(f"{path}: has {size} bytes, but such a file has at most {limit}")
        try:
            content = file.read(size)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error}){hint}") from None
    if content.startswith(POINTER):
        raise UserError(f"{path}: a Git LFS pointer, not the file itself; fetch it with `git lfs pull`")
    return content


def read_text(path, hint="", limit=LARGEST_TEXT):
    """UTF-8, with or without the byte order mark that Windows editors put first."""
    try:
        return read_bytes(path, hint, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def read_json(path, hint="", limit=LARGEST_TEXT):
    """The JSON object in a file, a dict."""
    text = read_text(path, hint, limit)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object, but {short(content)}")
    return content


def short(value):
    """repr(value) for a message: escaped, and cut after a line or two, whatever an untrusted file holds."""
    text = repr(value)
    return text if len(text) < 200 else text[:200] + "..."
