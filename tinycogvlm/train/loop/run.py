"""One stage of training in a folder: the names of its files, and the lock that keeps a second process out.

    <stage>.jsonl                   the log
    <stage>.safetensors             the newest checkpoint
    <stage>.previous.safetensors    the one before
    <stage>.done.safetensors        what a finished stage hands on: the parameters that it trained
    .<stage>.lock                   locked by the process that trains the stage; it may stay there for ever
"""
import errno
from contextlib import ExitStack
from pathlib import Path

from ...errors import UserError
from ...storage.lock import claimed
from .process import say

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)    # of a file system that has none


class Busy(UserError):
    """Another process is at work on this stage in this folder."""


class Run:
    """A stage in a folder. Used as a context manager, it makes the folder and locks the stage; this can be nested.

    The operating system releases the lock when the process ends, however it ends.
    """

    def __init__(self, folder, stage):
        self.folder, self.stage = Path(folder), stage
        self.log = self.folder / f"{stage}.jsonl"
        self.newest, self.previous, self.done = (self.folder / f"{stage}{kind}.safetensors"
                                                 for kind in ("", ".previous", ".done"))
        self._held, self._depth = ExitStack(), 0

    def __enter__(self):
        if not self._depth:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                alone = self._held.enter_context(claimed(self.folder / f".{self.stage}.lock"))
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise UserError(f"{self.folder}: cannot be written ({error.strerror or error})") from None
                say(f"tinycogvlm: {self.folder}: cannot be locked ({error.strerror or error}); make sure that no other "
                    "process trains in this folder")
                alone = True
            if not alone:
                self._held.close()
                raise Busy(f"{self.folder}: another process is training the stage {self.stage} in this folder; wait "
                           "for it, or use another folder")
        self._depth += 1
        return self

    def __exit__(self, *_):
        self._depth -= 1
        if not self._depth:
            self._held.close()

    def refuse_begun(self):
        """Raise UserError if the stage has been begun in this folder."""
        checkpoints = any(path.exists() for path in (self.newest, self.previous, self.done))
        if checkpoints or (self.log.exists() and self.log.stat().st_size):
            raise UserError(f"{self.folder} already holds a run of the stage {self.stage}: --resume goes on with it, "
                            "or --out names another folder")

    def saved(self):
        """What is left after an accident, in words"""
        return (f"nothing was saved since {self.newest}, from where --resume goes on" if self.newest.exists() else
                "there is no checkpoint yet")


def free(folder, stages):
    """The Runs of these stages, one after the other, each locked; those that other processes are doing are left to them."""
    for stage in stages:
        try:
            with Run(folder, stage) as run:
                yield run
        except Busy:
            say(f"{stage}: another process is at work on it")
