"""Places in a compiled kernel -> lines of its source."""
import re
import subprocess

from .source import HERE, MACHINE

OURS = str(MACHINE), str(HERE / "ptx.cuh")


def source_lines(library, sites):
    """{site: (file, line)} for offsets into the library, None where no line is known.

    A site is the return address of a call. Of functions that g++ inlined into each other the innermost outside of our
    headers counts: the line of the kernel that calls __ldg, not the line in __ldg.
    """
    sites = sorted(set(sites))
    if not sites:
        return {}
    done = subprocess.run(["addr2line", "-a", "-i", "-e", str(library), *(hex(site - 1) for site in sites)],
                          capture_output=True, encoding="utf-8", errors="surrogateescape")
    found, site = {}, None
    for line in done.stdout.splitlines():
        if line.startswith("0x"):
            site = int(line, 16) + 1
            found[site] = None
            continue
        file, _, number = re.sub(r" \(discriminator.*", "", line).rpartition(":")
        if found[site] is None and number.isdigit() and not file.startswith(OURS):
            found[site] = file, int(number)
    return found
