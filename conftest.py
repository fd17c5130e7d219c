"""pytest also runs the lessons: their code, what it prints, their pictures and links (tests/lessons.py)."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "tests"))

from lessons import pytest_collect_file  # noqa: E402, F401
