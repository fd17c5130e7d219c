"""Ray carries shards to actors, which hold the model, on any number of machines; what is done is kept by parts.py.

The pictures and the weights must lie under the same paths on every machine. Rows come back to this process, which alone
writes. Ray Data is not used: it would keep its own account of what is done, by blocks, some of which a failure loses.
"""
from collections import Counter

from ..errors import UserError
from .captioner import Captioner

TRIES = 5                                       # of a shard whose actor dies


class Actor:
    """A Captioner in another process"""

    def __init__(self, settings, mark):
        self.captioner = Captioner(settings, mark)

    def ready(self):
        """Nothing; it returns once this actor has found its place."""

    def rows(self, *work):
        try:
            return self.captioner.rows(*work)
        except UserError as error:                          # of the model; Ray would wrap it
            return error


def results(works, settings, mark, count, address):
    """(shard, its rows, remarks) as they come

    works: {shard: arguments of Captioner.rows}. address: of a cluster; "" starts Ray on this machine.
    """
    try:
        import ray
    except ImportError:
        raise UserError("--engine ray needs Ray: pip install 'tinycogvlm[ray]'") from None
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(address or "local", logging_level="ERROR", log_to_driver=False,
                     **({} if address else {"num_cpus": count, "include_dashboard": False}))
        except Exception as error:                          # Ray's own come without a class
            what = f"no Ray cluster answers at {address}" if address else "Ray could not be started on this machine"
            raise UserError(f"{what} ({str(error).partition(chr(10))[0]})") from None
    gpus = int(settings.model.get("device", "cpu") != "cpu")
    # Where an actor cannot be placed yet, Ray waits for a machine that has room, and for one that replaces a lost one.
    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(Actor)
    todo, idle, actors = list(works)[::-1], [], 0
    busy, lost = {}, Counter()                              # busy: {future: (actor, its shard, None while it starts)}
    try:
        while todo or any(shard is not None for _, shard in busy.values()):
            while todo and actors < count:                  # until Ray has room for it, an actor gets no shard
                actor = remote.remote(settings, mark)
                busy[actor.ready.remote()] = actor, None
                actors += 1
            while todo and idle:
                actor, shard = idle.pop(), todo.pop()
                busy[actor.rows.remote(*works[shard])] = actor, shard
            [future], _ = ray.wait(list(busy))
            actor, shard = busy.pop(future)
            try:
                found = ray.get(future)
            except ray.exceptions.RayActorError as error:   # it or its machine was lost
                lost[shard] += 1
                if lost[shard] == TRIES:
                    what = "could not start" if shard is None else f"died over shard {shard}"
                    reason = str(error).strip().splitlines()[-1]
                    raise UserError(f"{TRIES} actors {what} ({reason}); the same command goes on where it is") from None
                todo += [] if shard is None else [shard]
                actors -= 1
                continue
            except ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[-1]
                raise UserError(f"Ray could not caption shard {shard} ({reason})") from None
            if isinstance(found, UserError):
                raise found
            idle.append(actor)
            if shard is not None:
                yield shard, *found
    finally:
        if started:
            ray.shutdown()
