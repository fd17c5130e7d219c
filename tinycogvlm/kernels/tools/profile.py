"""Count what each line of a kernel costs on a GPU: sectors of global memory, turns (cycles) of shared memory."""
from dataclasses import dataclass

from ..runner.loader import load

SECTOR = 32                                                 # bytes that global memory moves at once


@dataclass
class Row:
    """The accesses of one kind by one line. A request is what the lanes of a warp do together.

    passes: for global memory the 32-byte sectors that its requests move; for shared memory the turns they take, one if
    no two lanes want different words of one of the 32 banks (8 bytes a lane take two, 16 bytes four). least: the fewest
    passes that could move as many bytes.
    """
    file: str
    line: int
    memory: str                                             # "global" or "shared"
    access: str                                             # "reads", "writes" or "atomics"
    bytes: int                                              # of a lane
    requests: int = 0
    accesses: int = 0
    passes: int = 0
    least: int = 0

    @property
    def conflicts(self):
        """Turns of shared memory lost to bank conflicts."""
        return self.passes - self.least if self.memory == "shared" else 0


def profile(path_or_source, name, grid, block, args, shared_mem=0):
    """Run a kernel with check="race" and return its [Row] in the order of the lines."""
    kernel = load(path_or_source, name, check="race")
    kernel(grid, block, args, shared_mem)
    return rows(kernel)


def rows(kernel):
    """The [Row] of a kernel that was just run with check="race"."""
    found = {}
    for file, line, counts in kernel.lines:
        access = "atomics" if counts.atomic else "writes" if counts.writes else "reads"
        memory = "shared" if counts.shared else "global"
        key = (file.replace(kernel.label, kernel.shown), line, memory, access, counts.bytes)
        row = found.setdefault(key, Row(*key))
        row.requests += counts.requests
        row.accesses += counts.accesses
        row.passes += counts.passes
        row.least += counts.ideal
    return [found[key] for key in sorted(found)]


def table(rows, sources):
    """The rows as text. sources: {file: its text}, to print the lines."""
    text = [" line  memory  access        requests  lanes       per request  least  source"]
    files, file = {row.file for row in rows}, None
    for row in rows:
        if row.file != file and len(files) > 1:
            text.append(f"{row.file}:")
        file = row.file
        unit = "sectors" if row.memory == "global" else "turns"
        each = row.passes / row.requests
        lines = sources.get(row.file, "").splitlines()
        code = lines[row.line - 1].strip() if row.line <= len(lines) else ""
        lanes, least = row.accesses / row.requests, row.least / row.requests
        access = f"{row.access} {row.bytes} B"
        text.append(f"{row.line:5}  {row.memory:6}  {access:12}  {row.requests:8}  {lanes:5.1f}  {each:8.1f} {unit:8}  "
                    f"{least:5.1f}  {code}")
    lost = sum(row.conflicts for row in rows)
    moved = sum(row.passes for row in rows if row.memory == "global")
    asked = sum(row.accesses * row.bytes for row in rows if row.memory == "global")
    if moved:
        share = asked / (SECTOR * moved)
        text.append(f"global memory: {SECTOR * moved} bytes moved for {asked} asked for ({100 * share:.0f} %)")
    text.append(f"shared memory: {lost} turns lost to bank conflicts")
    return "\n".join(text)
