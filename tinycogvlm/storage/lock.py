"""A lock among processes: only one of them works on what a file stands for."""
import os
from contextlib import contextmanager


@contextmanager
def claimed(path, wait=False):
    """Whether no other process holds the lock; if so, none does until the `with` or this process ends.

    path: a file that stands for what is locked; it is created and stays. wait: until the lock is free.
    """
    with open(path, "a") as file:
        try:
            if os.name == "nt":
                import msvcrt
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            else:
                import fcntl
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except (BlockingIOError, PermissionError):          # on Linux and macOS, on Windows
            yield False
            return
        yield True
