"""Batches prepared in advance by a process in the background, so that drawing pictures takes no time from training."""
import multiprocessing
import multiprocessing.resource_tracker
import os
import pickle
import queue
import signal
import threading
import traceback
from contextlib import contextmanager, suppress

from ...errors import UserError
from .process import shielded


@contextmanager
def prepared(data, steps, count):
    """An iterator over data(n) for n in `steps`, a range; up to `count` batches are ready before they are needed.

        with prepared(data, range(100), 2) as batches:
            for batch in batches: ...

    Another process calls data, so it must be a function of a module, or a functools.partial of one. What it raises
    there is raised here, in its turn. count 0: no other process, each batch is made when it is needed.
    """
    if not count or not steps:
        yield map(data, steps)
        return
    context = multiprocessing.get_context("spawn")          # a fork of a process with threads may hang
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_produce, args=(sender, data, steps), daemon=True)
    if os.name == "posix":                                  # this would undo the shield, if `start` did it first
        multiprocessing.resource_tracker.ensure_running()
    with shielded():                                        # whoever stops the run stops the first process alone
        process.start()
    sender.close()                                          # the child's is the only one: its death ends the pipe
    ready = queue.Queue(count)
    fetcher = threading.Thread(target=_fetch, args=(receiver, ready, len(steps)), daemon=True)
    try:
        fetcher.start()
        yield _take(ready, process, len(steps))
    finally:
        process.kill()
        while fetcher.is_alive():                           # it may be waiting for room in the queue
            with suppress(queue.Empty):
                ready.get(timeout=0.01)
        process.join()
        receiver.close()


def _produce(sender, data, steps):
    """In the other process. If the first one dies, its end of the pipe closes and `send` fails: this one ends too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)            # where no shield is: on Windows
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
    """In a thread of the first process: move batches from the pipe, which holds less than one, to the queue."""
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
                            f"(exit code {process.exitcode}; a negative one is a signal, and -9 often means too little "
                            "memory)")
        batch, trace = message
        if trace:
            raise batch from RuntimeError(f"in the process that prepares the data:\n{trace}")
        yield batch
