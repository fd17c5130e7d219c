"""The training loop: steps of AdamW, a log, and checkpoints from which a killed run goes on bit for bit."""
import json
import math
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from ...errors import UserError
from ...nn.arrays import namespace
from . import checkpoint
from .ahead import prepared
from .log import append, cut
from .optimizer import adamw, clipping, cosine, decays, follow, group_factor


def fit(run, stage, leaves, data, loss, steps, *, batch=1, peak=1e-3, warmup=100, betas=(0.9, 0.98), decay=0.02,
        longest=1.0, groups={}, ema=0.0, workers=1, ahead=2, resume=False, watch=None, settings={}, log_every=50,
        save_every=120, watch_every=300):
    """Learn for `steps` steps -> {name: array}, `leaves` as the stage hands them on; the arrays given stay as they are.

    run, stage:  a folder for <stage>.jsonl, the log, and the checkpoints (checkpoint.py).
    data(n):     the parts of the batch of step n = 0, 1, ...; the same whenever it is asked. Another process prepares
                 `ahead` batches in the background (ahead.py); 0: none does.
    loss(leaves, part) -> mean loss, the count it is the mean of, pull, {name: number for the log}; pull() -> {name:
                 gradient}. Parts run in `workers` threads at the same time and weigh by their counts, so that many
                 small parts are one large batch. A parameter that no pull knows stays as it is, without decay too.
    batch:       samples a step, for the log.
    peak, warmup, betas, decay, longest: see optimizer.py. groups: {pattern of names: factor of their rate}.
    ema:         decay of the parameters' moving average, which is watched and handed on; 0: no average.
    resume:      go on from the folder's checkpoint, which must be one of the same settings.
    watch(leaves) -> {name: number or text}, for the log, every `watch_every` seconds and at the end.
    settings:    whatever else makes this run differ from another, as JSON.

    The result does not depend on when threads are done, nor on being killed and resumed. Ctrl-C saves a checkpoint and
    raises KeyboardInterrupt with a sentence that says how to go on.
    """
    run, learned = Path(run), Learned(leaves, betas, decay, groups, ema)
    asked = {"steps": steps, "batch": batch, "peak": peak, "warmup": warmup, "betas": betas, "decay": decay,
             "longest": longest, "groups": groups, "ema": ema, "log_every": log_every, **settings}
    asked, log = json.loads(json.dumps(asked)), run / f"{stage}.jsonl"
    if begin(run, stage, asked, learned, log, resume):
        return {**leaves, **dict(learned.on_device(checkpoint.handed_over(run, stage)))}

    warmup = min(warmup, steps // 10)
    saved = watched = mark = time.perf_counter()
    started, marked = mark - learned.seconds, learned.step

    def save():
        learned.seconds = time.perf_counter() - started
        checkpoint.store(run, stage, learned.tensors(), {**learned.facts(), "settings": asked})

    with prepared(data, range(learned.step, steps), ahead) as batches, threads(workers) as spread, \
            interruption() as interrupted, \
            tqdm(desc=stage, total=steps * batch, initial=learned.step * batch, unit=" samples", mininterval=2) as bar:
        for parts in batches:
            value, gradients, extras = together(loss, learned.leaves, parts, spread)
            norm = length(gradients, spread)
            if not math.isfinite(value + norm):
                raise UserError(f"{stage}: in step {learned.step + 1} the loss is {value} and the gradient's length "
                                f"{norm}; {last(run, stage)}")
            rate = cosine(learned.step + 1, steps, peak, warmup)
            learned.update(gradients, rate, clipping(norm, longest), spread)
            del gradients
            learned.note({"loss": value, "norm": norm, **extras})
            bar.update(batch)
            now, final = time.perf_counter(), learned.step == steps
            if learned.step % log_every == 0 or final:
                speed = (learned.step - marked) * batch / (now - mark)
                entry = {"step": learned.step, "samples": learned.step * batch, **learned.means(), "rate": rate,
                         "seconds": round(now - started, 1), "samples/s": round(speed, 2)}
                append(log, entry)
                bar.set_postfix_str(f"loss {entry['loss']:.4f}", refresh=False)
                mark, marked = now, learned.step
            if watch and (final or now - watched > watch_every):
                seen = watch(learned.result())
                append(log, {"step": learned.step, "watch": seen})
                bar.write("\n".join(f"{stage}, step {learned.step}, {name}: {what}" for name, what in seen.items()),
                          file=sys.stderr)
                watched = time.perf_counter()
            if final or interrupted.is_set() or time.perf_counter() - saved > save_every:
                save()
                saved = time.perf_counter()
            if interrupted.is_set() and not final:
                raise KeyboardInterrupt(f"{stage}: stopped after step {learned.step} of {steps}, which is saved in "
                                        f"{run}; --resume goes on from there")
    result = learned.result()
    checkpoint.hand_over(run, stage, {name: result[name] for name in learned.m})
    return result


class Learned:
    """All that the next step depends on: parameters, moments, their average, how many steps are done, sums for the log.

    Only arrays of parameters that have had a gradient are our own and change; the others are the caller's.
    """

    def __init__(self, leaves, betas, decay, groups, ema):
        self.given, self.leaves = leaves, dict(leaves)
        self.betas, self.decay, self.groups, self.ema = betas, decay, groups, ema
        self.m, self.v, self.average = {}, {}, {}           # {name: array} of what is trained
        self.step, self.seconds, self.sums, self.noted = 0, 0.0, {}, 0

    def update(self, gradients, rate, scale, spread):
        """One step of AdamW for every parameter that has a gradient."""
        for name in gradients:
            if name not in self.m:
                w = self.leaves[name] = self.leaves[name].copy()
                self.m[name], self.v[name] = namespace(w).zeros_like(w), namespace(w).zeros_like(w)
                if self.ema:
                    self.average[name] = w.copy()
        self.step += 1

        def one(name):
            w = self.leaves[name]
            adamw(w, gradients[name], self.m[name], self.v[name], self.step, rate * group_factor(name, self.groups),
                  self.betas, decay=self.decay * decays(name, w), scale=scale)
            if self.ema:
                follow(self.average[name], w, self.step, self.ema)
        list(spread(one, gradients))

    def result(self):
        """{name: array} as the stage hands them on; these arrays change with the next step."""
        return {**self.leaves, **self.average}

    def note(self, numbers):
        """Sum what will be logged; the sums are kept in checkpoints, so that a killed run has the same log."""
        self.noted += 1
        for name, number in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(number)

    def means(self):
        means = {name: float(f"{sum / self.noted:.6g}") for name, sum in self.sums.items()}
        self.sums, self.noted = {}, 0
        return means

    def facts(self):
        frozen = {name: array for name, array in self.given.items() if name not in self.m}
        return {"step": self.step, "seconds": self.seconds, "sums": self.sums, "noted": self.noted,
                "frozen": bytes(checkpoint.digest(frozen)).hex()}

    def tensors(self):
        kinds = {"leaf": {name: self.leaves[name] for name in self.m}, "m": self.m, "v": self.v, "ema": self.average}
        return {f"{kind}/{name}": array for kind, arrays in kinds.items() for name, array in arrays.items()}

    def restore(self, tensors, facts):
        self.step, self.seconds = facts["step"], facts["seconds"]
        self.sums, self.noted = facts["sums"], facts["noted"]
        for kind, arrays in {"leaf": self.leaves, "m": self.m, "v": self.v, "ema": self.average}.items():
            start = f"{kind}/"
            arrays |= self.on_device({name.removeprefix(start): array for name, array in tensors.items()
                                      if name.startswith(start)})
        if self.facts()["frozen"] != facts["frozen"]:
            raise UserError("the checkpoint belongs to other initial parameters: those that are frozen differ")

    def on_device(self, arrays):
        """(name, array) of NumPy arrays, where the caller's are: in memory or on the GPU."""
        for name, array in arrays.items():
            given = self.given.get(name)
            if given is None or given.shape != array.shape:
                raise UserError(f"the checkpoint belongs to another model: its {name} has the shape {array.shape}, "
                                f"not {None if given is None else given.shape}")
            yield name, namespace(given).asarray(array, dtype=given.dtype)


def begin(run, stage, asked, learned, log, resume):
    """Make the folder, or with `resume` go on from what it holds -> whether the stage is finished already"""
    newest, _, done = checkpoint.paths(run, stage)
    try:
        run.mkdir(parents=True, exist_ok=True)
        log.touch()
    except OSError as error:
        raise UserError(f"{run}: cannot be written ({error.strerror or error})") from None
    if not resume:
        new(run, stage)
        return False
    found = checkpoint.restore(run, stage)
    if found:
        tensors, facts = found
        before = facts["settings"]
        differing = [f"{name} is {asked.get(name)!r}, but was {before.get(name)!r}"
                     for name in {**before, **asked} if asked.get(name) != before.get(name)]
        if differing:
            raise UserError(f"{newest}: cannot be resumed with other settings: {'; '.join(differing)}")
        learned.restore(tensors, facts)
    elif done.exists():                                     # the checkpoints may be gone, the result is what counts
        return True
    cut(log, learned.step)
    return done.exists() and learned.step == asked["steps"]


def new(run, stage):
    """Raise UserError if this stage has been begun in the folder."""
    log = Path(run) / f"{stage}.jsonl"
    if any(path.exists() for path in checkpoint.paths(run, stage)) or log.exists() and log.stat().st_size:
        raise UserError(f"{run} already holds a run of the stage {stage}: --resume goes on with it, or --out names "
                        "another folder")


def steps_asked(run, stage):
    """How many steps a stage was begun with, from its checkpoint; None without one"""
    found = checkpoint.restore(run, stage)
    return found and found[1]["settings"]["steps"]


def steps_within(minutes, leaves, data, loss, workers=1):
    """How many steps take about `minutes`, from the speed of the first few, of which nothing is kept."""
    with threads(workers) as spread:
        learned, seconds = Learned(leaves, (0.9, 0.98), 0.0, {}, 0.0), []
        while len(seconds) < 20 and sum(seconds) < 3 * minutes or len(seconds) < 2:         # a twentieth of the time
            parts, start = data(len(seconds)), time.perf_counter()
            _, gradients, _ = together(loss, learned.leaves, parts, spread)
            learned.update(gradients, 0.0, clipping(length(gradients, spread), 1.0), spread)
            seconds.append(time.perf_counter() - start)
    return max(1, round(60 * minutes / (sum(seconds[1:]) / len(seconds[1:]))))      # the first is slower


def last(run, stage):
    """What is left after an accident, in words"""
    newest = checkpoint.paths(run, stage)[0]
    return (f"nothing was saved since {newest}, from where --resume goes on" if newest.exists() else
            "there is no checkpoint yet")


# One step

def together(loss, leaves, parts, spread):
    """The mean loss of all parts, {name: gradient}, means of the extras; as of one batch, in a fixed order."""
    def one(part):
        value, count, pull, extras = loss(leaves, part)
        return float(value), float(count), pull(), extras
    total, value, gradients, means = 0, 0.0, {}, {}
    for one_value, count, found, extras in spread(one, parts):
        total += count
        value += count * one_value
        for name, number in extras.items():
            means[name] = means.get(name, 0.0) + count * float(number)
        for name, g in found.items():
            if len(parts) == 1:
                gradients[name] = g
            elif name in gradients:
                gradients[name] += count * g
            else:
                gradients[name] = count * g
    if len(parts) > 1:
        for name in gradients:
            gradients[name] *= 1 / total
    return value / total, gradients, {name: sum / total for name, sum in means.items()}


def length(gradients, spread):
    """Of all gradients as one vector"""
    return math.sqrt(float(sum(spread(lambda g: namespace(g).vdot(g, g), gradients.values()))))


@contextmanager
def threads(workers):
    """`map`, by that many threads; NumPy's arithmetic lets them run at the same time. Results come in order."""
    if workers == 1:
        yield map
        return
    with ThreadPoolExecutor(workers) as pool:
        yield pool.map


@contextmanager
def interruption():
    """An Event that the first Ctrl-C sets, so that no step is left half done; the second one interrupts as usual."""
    event = threading.Event()

    def note(*_):
        event.set()
        signal.signal(signal.SIGINT, before)
    if threading.current_thread() is not threading.main_thread():       # only there can signals be handled
        yield event
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
