"""What a run asks of its process: signals that wait for the end of a step, BLAS threads, memory, a folder to write to.

Importing this file does not import NumPy, which reads the number of BLAS threads when it is imported.
"""
import ctypes
import os
import platform
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

from ...errors import UserError

BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def one_blas_thread():
    """Let every matrix product run in one thread, unless the environment says otherwise; before NumPy is imported.

    Several workers, each with a product of its own, are faster than one product shared out among threads. And the
    number of threads must not depend on the machine, since sums are split by it.
    """
    if not any(name in os.environ for name in BLAS_THREADS):
        os.environ.update(dict.fromkeys(BLAS_THREADS, "1"))


def blas_threads():
    """{variable: value or None} of the environment: with other values, a resumed run may differ in the last digits."""
    return {name: os.environ.get(name) for name in BLAS_THREADS}


def keep_freed_memory():
    """Let glibc keep what is freed for the next step, instead of handing it back to the system. Elsewhere: nothing.

    Every step needs the same hundreds of megabytes again, and each page that comes from the system is a page fault and
    is filled with zeros first: a quarter of the time of a step of the tower.
    """
    if platform.libc_ver()[0] == "glibc":
        for option in (-1, -3):                             # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD: from how many bytes on
            ctypes.CDLL(None).mallopt(option, 1 << 30)


@contextmanager
def stopping():
    """An Event that is set by the first Ctrl-C, SIGTERM or SIGHUP, so that a run can end between two steps.

    A second signal acts as usual. A signal that is ignored (nohup, a job in the background) stays ignored.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():       # other threads cannot handle signals
        yield event
        return
    usual = {number: signal.getsignal(number) for number in STOPS}
    usual = {number: handler for number, handler in usual.items() if handler not in (signal.SIG_IGN, None)}

    def restore():
        for number, handler in usual.items():
            signal.signal(number, handler)

    def note(*_):
        event.set()
        restore()
    for number in usual:
        signal.signal(number, note)
    try:
        yield event
    finally:
        restore()


@contextmanager
def shielded():
    """Hold back Ctrl-C, SIGTERM and SIGHUP inside the block. A process that is started there never gets them."""
    if not hasattr(signal, "pthread_sigmask"):              # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def ended_in_a_sentence():
    """A UserError inside the block ends the program, which says what was wrong; after Ctrl-C it says how to go on."""
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")


def make_folder(path):
    """Make the folder and check, before any long work, that files can be written there."""
    import tempfile
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None


def say(text):
    """Print what is not a result, to stderr."""
    print(text, file=sys.stderr)
