"""pytest also runs the lessons: their code, what it prints, their pictures and links (tests/lessons.py)."""
import os
import sys
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")          # each core has a test of its own

sys.path.insert(0, str(Path(__file__).parent / "tests"))

from lessons import pytest_collect_file  # noqa: E402, F401
