"""The clock of a run. `now` is the one place where time is read, so that tests can set it."""
import time

now = time.perf_counter


class Every:
    """Whether something is due that is to be done every `seconds`, counted from when it was last done."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.done()

    def due(self):
        return now() - self.last > self.seconds

    def done(self):
        self.last = now()
