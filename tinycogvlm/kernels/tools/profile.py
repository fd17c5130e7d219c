"""What each line of a kernel does to memory, counted as a GPU would: sectors of global, turns of shared memory."""
from dataclasses import dataclass

from ..runner.loader import load


@dataclass
class Row:
    """One line's accesses of one kind. A request is what the lanes of a warp do together.

    passes: of global memory the 32-byte sectors that its requests move; of shared memory the turns they take, one if no
    two lanes want different words of one of the 32 banks (8 bytes a lane take two, 16 bytes four). least: the fewest
    that as many bytes can do with.
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
        """Turns of shared memory that are lost to bank conflicts."""
        return self.passes - self.least if self.memory == "shared" else 0


def profile(path_or_source, name, grid, block, args, shared_mem=0):
    """Run a kernel under check="race" and return its [Row] in the order of the lines."""
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
    for row in rows:
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
        text.append(f"global memory: {32 * moved} bytes moved for {asked} asked for ({asked / moved / .32:.0f} %)")
    text.append(f"shared memory: {lost} turns lost to bank conflicts")
    return "\n".join(text)
