"""Batches prepared ahead by a process in the background, so that drawing pictures takes no time from learning."""
import multiprocessing
import pickle
import queue
import signal
import threading
import traceback
from contextlib import contextmanager

from ...errors import UserError


@contextmanager
def prepared(data, steps, count):
    """An iterator of data(n) for n in `steps`, a range, in its order; up to `count` of them wait ready.

        with prepared(data, range(100), 2) as batches:
            for batch in batches: ...

    data must be a function of a module, or a functools.partial of one: another process calls it. What it raises there
    is raised here, when its turn comes. count 0: no other process, each is made when it is asked for.
    """
    if not count:
        yield map(data, steps)
        return
    context = multiprocessing.get_context("spawn")          # a fork of a process with threads may hang
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_produce, args=(sender, data, steps), daemon=True)
    process.start()
    sender.close()                                          # the child's is the only one: its death ends the pipe
    ready = queue.Queue(count)
    fetcher = threading.Thread(target=_fetch, args=(receiver, ready, len(steps)), daemon=True)
    fetcher.start()
    try:
        yield _take(ready, process, len(steps))
    finally:
        process.terminate()
        while fetcher.is_alive():                           # it may be waiting for room
            try:
                ready.get(timeout=0.01)
            except queue.Empty:
                pass
        process.join()
        receiver.close()


def _produce(sender, data, steps):
    """In the other process. If the first one dies, its end of the pipe closes and `send` fails: this one ends too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)            # Ctrl-C is the first process's business
    try:
        for n in steps:
            try:
                message = data(n), None
            except Exception as error:
                message = _picklable(error), traceback.format_exc()
            sender.send(message)
            if message[1]:
                return
    except BrokenPipeError:
        pass


def _picklable(error):
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def _fetch(receiver, ready, count):
    """In a thread of the first process: from the pipe, which holds less than one batch, to the queue."""
    for _ in range(count):
        try:
            message = receiver.recv()
        except (EOFError, OSError):
            message = None
        ready.put(message)
        if message is None or message[1]:
            return


def _take(ready, process, count):
    for _ in range(count):
        message = ready.get()
        if message is None:
            process.join()
            raise UserError("the process that prepares the data ended by itself "
                            f"(exit code {process.exitcode}; a negative one is a signal, -9 often too little memory)")
        batch, trace = message
        if trace:
            raise batch from RuntimeError(f"in the process that prepares the data:\n{trace}")
        yield batch
