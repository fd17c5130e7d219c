"""Several processes on this machine, each with a model of its own. One that dies is replaced, its shard done again."""
import multiprocessing
import os
import signal
from contextlib import suppress
from multiprocessing.connection import wait

from ..errors import UserError
from ..train.loop.process import BLAS_THREADS

TRIES = 3                                       # of a shard whose worker dies


def results(works, settings, mark, count):
    """(shard, its rows, remarks) as they come. works: {shard: arguments of Captioner.rows}"""
    todo, lost, busy = list(works)[::-1], dict.fromkeys(works, 0), {}       # busy: {connection: (process, shard)}
    try:
        while todo or busy:
            while todo and len(busy) < count:
                process, connection = _start(settings, mark)
                busy[connection] = process, _give(connection, todo, works)
            for connection in wait(list(busy)):
                process, shard = busy.pop(connection)
                try:
                    found = connection.recv()
                except (EOFError, OSError):                 # it was killed
                    lost[shard] += 1
                    if lost[shard] == TRIES:
                        raise UserError(f"{TRIES} workers died over shard {shard}, perhaps for want of memory; with a "
                                        "smaller --batch or fewer --workers the run goes on where it is") from None
                    todo.append(shard)
                    continue
                if isinstance(found, UserError):            # of the model, not of a picture
                    raise found
                if todo:
                    busy[connection] = process, _give(connection, todo, works)
                else:
                    connection.close()
                yield shard, *found
    finally:
        for process, _ in busy.values():
            process.terminate()


def _give(connection, todo, works):
    """Send the next shard to a worker -> its number. If the worker has died, that shows when its answer is read."""
    shard = todo.pop()
    with suppress(OSError):
        connection.send(works[shard])
    return shard


def _start(settings, mark):
    """A worker that waits for its first shard: (process, connection)"""
    here, there = multiprocessing.Pipe()
    before = {name: os.environ.get(name) for name in BLAS_THREADS}
    if not any(before.values()):                            # else each would take all cores for itself
        os.environ.update(dict.fromkeys(BLAS_THREADS, "1"))
    try:
        process = multiprocessing.get_context("spawn").Process(target=_work, args=(there, settings, mark), daemon=True)
        process.start()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
    there.close()                                           # so that its end is seen here
    return process, here


def _work(connection, settings, mark):
    from .captioner import Captioner
    signal.signal(signal.SIGINT, signal.SIG_IGN)            # Ctrl-C is for the process that gives out the work
    captioner = Captioner(settings, mark)
    while True:
        try:
            work = connection.recv()
        except (EOFError, OSError):
            return
        try:
            connection.send(captioner.rows(*work))
        except UserError as error:
            connection.send(error)
