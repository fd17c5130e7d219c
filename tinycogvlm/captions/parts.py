"""OUT.parts, the folder of a run that has not finished: a file for every shard that has, and what the run was told.

    OUT.parts/run.json                          the settings; without it nothing in the folder counts
    OUT.parts/000012-<hash>.jsonl               shard 12: its rows; the hash is of its pictures' names and sizes
    OUT.parts/*.part, *.lock                    files that are being written, and locks

A part is written under a temporary name and renamed, so it is whole or not there. When all are there, their rows are
written to a temporary file here, which is renamed to OUT; then run.json is removed, and then the rest. A process that
is killed anywhere leaves a state from which the next one goes on.
"""
import hashlib
import json
import os
import re
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import UserError
from ..storage import atomic
from ..storage.lock import claimed
from ..storage.reading import read_json, short
from . import output

SHARD = 64                                      # pictures: the unit of work, which batches never cross
OURS = re.compile(r"merged|\d{6,}-[0-9a-f]{16}\.jsonl|.*\.part|.*\.lock")


class Parts:
    """The state of one run on the disk. mark, identity: of its Settings."""

    def __init__(self, out, items, settings, mark, identity):
        self.out, self.items, self.settings, self.mark = Path(out), items, settings, mark
        self.folder, self.kind = Path(f"{out}.parts"), output.kind_of(out)
        self.record = self.folder / "run.json"
        self.identity = identity
        self.shards = [items[i:i + SHARD] for i in range(0, len(items), SHARD)]
        self.paths = [self.folder / f"{i:06d}-{self._hash(shard)}.jsonl" for i, shard in enumerate(self.shards)]

    def _hash(self, shard):
        names = json.dumps([self.mark, [(item.image, item.size) for item in shard]])
        return hashlib.sha256(names.encode()).hexdigest()[:16]

    @contextmanager
    def open(self, name):
        """The folder, ready to work in; nobody else has it open under this name (of a share of the shards).

        UserError if captions of other settings, or of other pictures, are in the way: nothing of theirs is touched.
        """
        if self.out.exists() and not self.out.is_file():
            raise UserError(f"{self.out}: cannot be written (it is not a file)")
        self.folder.mkdir(exist_ok=True)
        with claimed(self.folder / f"{name}.lock") as free:
            if not free:
                raise UserError(f"{self.folder}: another process is at work on these captions; wait for it, or share "
                                "the work with --shard")
            try:
                self._begin()
                yield
            finally:
                if not self.record.exists():                # all is done, or nothing has begun
                    self._clear()

    def _begin(self):
        if self.record.exists():
            _compare(self.identity, read_json(self.record), self.folder)
            self.old = self._stale()
        else:
            self.old = {}
        if self.out.exists():
            self.old |= self._finished()
        if not self.record.exists():
            atomic.write(self.record, json.dumps(self.identity, indent=1))

    def _finished(self):
        """{image: row} of an OUT from an earlier run, if the rows of this one can take their place."""
        names, found = {item.image for item in self.items}, {}
        for row in output.read(self.out):
            if row["error"] is None:
                if str(row["key"])[:16] != self.mark:
                    raise UserError(f"{self.out}: holds captions of another model or of other settings; name another "
                                    "--out, or move it away")
                if row["image"] not in names:
                    raise UserError(f"{self.out}: also holds captions of pictures that were not named now, such as "
                                    f"{row['image']}; name them too, or another --out")
                found[row["image"]] = row
        return found

    def _stale(self):
        """{image: row} of parts whose shards are others now, as pictures came or went"""
        wanted = set(self.paths)
        return {row["image"]: row for path in sorted(self.folder.glob("*.jsonl")) if path not in wanted
                for row in output.rows_of(path)}

    def missing(self):
        return [i for i, path in enumerate(self.paths) if not path.exists()]

    def known(self, i):
        """{image: older row} for the pictures of shard i"""
        return {item.image: self.old[item.image] for item in self.shards[i] if item.image in self.old}

    def write(self, i, rows):
        atomic.write(self.paths[i], "".join(map(output.line, rows)))

    def rows(self, i):
        """The rows of a finished shard"""
        rows = list(output.rows_of(self.paths[i]))
        if [row["image"] for row in rows] != [item.image for item in self.shards[i]]:
            raise UserError(f"{self.paths[i]}: does not hold the rows of its shard; delete it and start again")
        return rows

    def merge(self, count, texts=False):
        """Put all parts together -> what stood in the way of .txt files. count: is called with every row.

        Only one of several processes does it; the others find it done, and None is returned to them.
        """
        with claimed(self.folder / "merge.lock", wait=True):
            if not self.record.exists():
                return None

            def rows():
                for i in range(len(self.paths)):
                    for row in self.rows(i):
                        count(row)
                        yield row
            merged = self.folder / "merged"
            with atomic.replacing(merged) as file:
                output.write(file, self.kind, rows(), self.items, self.settings)
            kept = output.write_texts((row for i in range(len(self.paths)) for row in self.rows(i)), self.items,
                                      self.settings) if texts else []
            os.replace(merged, self.out)
            self.record.unlink()                            # from here on the folder counts for nothing
            return kept

    def _clear(self):
        """Remove what is ours in the folder, and the folder if nothing else is in it."""
        with suppress(OSError):                             # of another process, or open on Windows: no harm
            for path in self.folder.iterdir():
                if OURS.fullmatch(path.name):
                    path.unlink()
            self.folder.rmdir()


def _compare(identity, before, folder):
    """UserError naming the first setting that an unfinished run had otherwise"""
    for name in {**before, **identity}:
        if before.get(name) != identity.get(name):
            raise UserError(f"{folder}: holds an unfinished run whose {name} was {short(before.get(name))}, not "
                            f"{short(identity.get(name))}; finish it with that, name another --out, or delete the "
                            "folder")
