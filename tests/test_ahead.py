"""The process that prepares the data: order, errors, its death, and that stopping a run does not reach it."""
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import toy_run
from toy_run import outcome

from tinycogvlm.errors import UserError
from tinycogvlm.train.loop.ahead import prepared

ROOT = Path(__file__).parents[1]


def squares(late, n):
    time.sleep(late if n % 3 == 0 else 0)
    return n * n


def failing(n):
    if n == 3:
        raise UserError("three")
    return os._exit(7) if n == 5 else n


class Unpicklable(Exception):
    def __init__(self, a, b):
        super().__init__(a)


def unpicklable(n):
    raise Unpicklable("what", "why")


def large(n):
    return np.full(10 ** 6, n)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_batches_come_in_order(count):
    with prepared(partial(squares, 0.02), range(4, 14), count) as batches:
        assert list(batches) == [n * n for n in range(4, 14)]


def test_what_is_raised_there_arrives_here_in_its_turn():
    with pytest.raises(UserError, match="^three$") as caught, prepared(failing, range(2, 9), 2) as batches:
        assert next(batches) == 2
        next(batches)
    assert "in failing" in str(caught.value.__cause__)
    with pytest.raises(RuntimeError, match="Unpicklable: what"), prepared(unpicklable, range(3), 2) as batches:
        next(batches)


def test_the_death_of_the_process_is_noticed():
    with pytest.raises(UserError, match="ended by itself .exit code 7;"), prepared(failing, range(4, 9), 2) as batches:
        assert next(batches) == 4
        next(batches)


def test_nothing_is_left_behind():
    before = threading.active_count()
    with prepared(large, range(10 ** 9), 1) as batches:
        assert next(batches)[0] == 0
        [process] = multiprocessing.active_children()
    assert not process.is_alive() and threading.active_count() == before


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks into /proc")
def test_the_process_dies_with_the_one_it_works_for(tmp_path):
    script = ("import sys, test_ahead, multiprocessing\n"
              "with test_ahead.prepared(test_ahead.large, range(10 ** 6), 2) as batches:\n"
              "    next(batches), print(multiprocessing.active_children()[0].pid, flush=True), sys.stdin.read()\n")
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])})
    child = Path("/proc") / parent.stdout.readline().decode().strip()
    assert child.exists()
    parent.kill()
    parent.wait()

    def alive():
        try:
            return "State:\tZ" not in (child / "status").read_text()
        except OSError:
            return False
    end = time.monotonic() + 10
    while alive() and time.monotonic() < end:
        time.sleep(0.01)
    assert not alive()
    parent.stdin.close()
    parent.stdout.close()


def test_a_run_with_data_prepared_ahead_is_the_same(tmp_path):
    toy_run.fit(tmp_path / "ahead", ahead=2, workers=2)
    assert outcome(tmp_path / "ahead") == toy_run.whole(tmp_path / "whole")


def test_no_process_is_started_for_nothing(monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_context", None)
    with prepared(squares, range(5, 5), 2) as batches:
        assert list(batches) == []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks into /proc")
@pytest.mark.parametrize("name, delay", [("SIGINT", 0), ("SIGINT", 0.2), ("SIGTERM", 0.1), ("SIGHUP", 0.1)])
def test_a_run_can_be_stopped_while_the_process_starts(tmp_path, name, delay):
    """The terminal sends Ctrl-C to both processes; the new one is still importing and would die of it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    run = subprocess.Popen([sys.executable, toy_run.__file__, str(tmp_path), "ahead"], env=environment, text=True,
                           start_new_session=True, stderr=subprocess.PIPE)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    while len(children.read_text().split()) < 2:            # multiprocessing's own tracker and ours
        assert run.poll() is None
        time.sleep(0.001)
    time.sleep(delay)
    os.killpg(run.pid, getattr(signal, name))
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130 and "Traceback" not in err and "toy: stopped after step" in err, err
    toy_run.fit(tmp_path)
    assert outcome(tmp_path) == toy_run.whole(tmp_path / "whole")
