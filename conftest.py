"""pytest also runs the lessons: their code, what it prints, their pictures and links (tests/lessons.py)."""
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")          # each core has a test of its own

sys.path.insert(0, str(Path(__file__).parent / "tests"))

from lessons import pytest_collect_file  # noqa: E402, F401


def pytest_collection_modifyitems(items):
    """Lessons first, some of which take half a minute: one that begins last would keep a single process busy."""
    items.sort(key=lambda item: item.path.suffix != ".md")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Where pytest-xdist is installed every core gets a process, unless -n or --dist says otherwise."""
    if getattr(config.option, "numprocesses", 0) is None and "PYTEST_XDIST_WORKER" not in os.environ:
        config.option.numprocesses = "auto"
        if config.option.dist == "no":
            config.option.dist = "loadfile"
            config.option.loadscopereorder = False          # xdist's order, the files with the fewest tests last
        if config.option.maxworkerrestart is None:          # with another one xdist waits for ever
            config.option.maxworkerrestart = "0"
