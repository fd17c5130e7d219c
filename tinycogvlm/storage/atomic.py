"""Files written whole or not at all: under a temporary name first, then renamed to take the place of an older file.

The temporary file lies in the same folder, is new (O_EXCL: a planted file or link of that name is an error, never
followed), has a name x.<16 hexadecimal digits>.part that cannot be guessed, and is removed if anything fails. It
reaches the disk before the rename.
"""
import os
import secrets
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from ..errors import UserError


def write(path, data):
    """Write a str (as UTF-8) or bytes. UserError naming the path if that fails; the older file is then untouched."""
    with replacing(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def check(path):
    """Raise the UserError that writing would raise, before the work whose result is to be written; change nothing."""
    with suppress(_OnlyChecked), replacing(path):
        raise _OnlyChecked


class _OnlyChecked(Exception):
    pass


@contextmanager
def replacing(path):
    """A binary file to write to; it becomes `path` when the block ends without an error."""
    with Together() as files, files.replacing(path) as file:
        yield file


class Together:
    """Several files that change together: every new one is complete on the disk before the first takes its place.

        with Together() as files:
            with files.replacing("a") as file:
                file.write(...)
            files.remove("b")

    The changes are made at the end, in this order. If the block fails, or the disk is full, nothing has changed.
    """

    def __init__(self):
        self._temporaries = {}                  # {path: its temporary file}
        self._changes = []                      # (path, function that changes it)

    @contextmanager
    def replacing(self, path):
        path = Path(path)
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
        try:
            if path.exists() and not path.is_file():            # a folder, a pipe, a device such as /dev/null
                raise UserError(f"{path}: cannot be written (it is not a file)")
            file = open(temporary, "xb")                        # noqa: SIM115 (closed below, before it is removed)
            try:
                with file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None
        self._temporaries[path] = temporary
        self._changes.append((path, partial(os.replace, temporary, path)))

    def write(self, path, data):
        with self.replacing(path) as file:
            file.write(data.encode() if isinstance(data, str) else data)

    def rename(self, path, new_path):
        self._changes.append((Path(path), partial(os.replace, path, new_path)))

    def remove(self, path):
        """Remove a file, if it exists."""
        self._changes.append((Path(path), partial(Path(path).unlink, missing_ok=True)))

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        try:
            if kind is None:
                self._change()
        finally:
            for temporary in self._temporaries.values():
                temporary.unlink(missing_ok=True)

    def _change(self):
        path = None
        try:
            for path in self._temporaries:
                if path.exists():
                    os.rename(path, path)       # changes nothing, but fails on Windows where the file is open or mapped
            for path, change in self._changes:                 # noqa: B007 (the message names the last path)
                change()
        except OSError as error:
            raise UserError(f"{path}: cannot be replaced ({error.strerror or error}); if it is in use, perhaps as the "
                            "very weights that are being saved, save to another folder") from None
