"""A run: shard after shard through an engine, parts on the disk, progress, and a report at the end."""
import time
from collections import Counter

from . import processes
from .captioner import Captioner
from .parts import Parts
from .settings import mark_of

REMARKS = 10                                    # of a kind, such as lost shades or .txt files in the way, that are said


def run(items, settings, out, tell, workers=1, share=(0, 1), texts=False, ray=None):
    """Caption all items into `out` -> the report, a dict

    tell:    tell(sentence, passing) says something; passing: of progress, soon out of date.
    workers: processes with a model each; with `ray`, actors.
    share:   (i, n): only shards i, i + n, i + 2 n ...; whoever finishes last puts all parts together.
    texts:   also write a .txt beside each picture.
    ray:     the address of a Ray cluster, "" to start one here; None for no Ray.
    """
    identity = settings.identity()
    mark = mark_of(identity)
    parts = Parts(out, items, settings, mark, identity)
    with parts.open(f"{share[0]}-of-{share[1]}"):
        todo = [i for i in parts.missing() if i % share[1] == share[0]]
        counts, start = Counter(), time.monotonic()
        progress = Progress(out, sum(len(parts.shards[i]) for i in todo), tell)
        for i, rows, remarks in _results(parts, todo, settings, mark, workers, ray):
            parts.write(i, rows)
            progress.add(rows, remarks)
        report = {"out": str(out), "pictures": len(items), "new": progress.done,
                  "seconds": round(time.monotonic() - start, 3)}
        if left := len(parts.missing()):
            return report | {"failed": progress.failed, "shards_left": left}
        kept = parts.merge(lambda row: counts.update(_told(row)), texts)
        for sentence in (kept or ())[:REMARKS]:             # the report has their number
            tell(sentence, False)
        if kept is None:                                    # by another process, a moment ago
            return report | {"failed": progress.failed, "shards_left": 0}
        return report | {"failed": counts["failed"], "cut": counts["length"], "repeating": counts["repetition"],
                         "texts_kept": len(kept), "shards_left": 0}


def _results(parts, todo, settings, mark, workers, ray):
    """(shard, its rows, remarks) as they come"""
    works = {i: (parts.shards[i], parts.known(i)) for i in todo}
    if ray is not None:
        from . import on_ray
        yield from on_ray.results(works, settings, mark, workers, ray)
    elif workers > 1 and len(todo) > 1:
        yield from processes.results(works, settings, mark, min(workers, len(todo)))
    else:
        captioner = Captioner(settings, mark)
        for i, work in works.items():
            yield i, *captioner.rows(*work)


def _told(row):
    """What a row adds to the report: "failed", or how its answers ended"""
    if row["error"] is not None:
        return ["failed"]
    return row["finish"].values() if isinstance(row["finish"], dict) else [row["finish"]]


class Progress:
    """What is said while a run goes on: each second to a person, each minute to a log, which `tell` decides."""

    def __init__(self, out, total, tell):
        self.out, self.total, self.tell = out, total, tell
        self.start, self.done, self.failed, self.remarks = time.monotonic(), 0, 0, 0

    def add(self, rows, remarks):
        self.done += len(rows)
        self.failed += sum(row["error"] is not None for row in rows)
        for sentence in remarks[:max(0, REMARKS - self.remarks)]:
            self.tell(sentence, False)
        self.remarks += len(remarks)
        speed = self.done / max(time.monotonic() - self.start, 1e-9)
        self.tell(f"{self.out}: {self.done:,} of {self.total:,} pictures, {speed:.3g}/s, "
                  f"{duration((self.total - self.done) / speed)} left, {self.failed:,} failed", True)


def duration(seconds):
    """12 s, 3 min, 4.5 h"""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
