"""The training loop: steps of AdamW and Muon, a log, and checkpoints from which a killed run goes on bit for bit."""
import json
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import asdict, dataclass, field

from tqdm import tqdm

from ...errors import UserError
from ...nn.arrays import namespace
from . import checkpoint, clock
from .ahead import prepared
from .log import append, cut
from .optimizer import clipping, cosine
from .process import blas_threads, say, stopping
from .state import State


@dataclass(frozen=True)
class Recipe:
    """What makes one run differ from another. A run can be resumed only with the recipe that it was begun with."""
    steps: int
    batch: int = 1                                          # samples a step, for the log
    peak: float = 1e-3                                      # the highest learning rate
    muon: float = 0.0                                       # that of Muon, on the blocks' matrices; 0: AdamW there too
    momentum: float = 0.0                                   # SGD with Nesterov's momentum in place of AdamW; 0: AdamW
    warmup: int = 100                                       # steps up to the highest rate, at most a tenth of all
    betas: tuple = (0.9, 0.98)                              # see optimizer.py for these
    decay: float = 0.02
    longest: float = 1.0                                    # gradients longer than this are clipped
    adaptive: float = 0.0                                   # units' longer than this share of their weights; 0: none
    unclipped: tuple = ()                                   # patterns of the names that `adaptive` leaves out
    groups: dict = field(default_factory=dict)              # {pattern of names: factor of their learning rate}
    ema: float = 0.0                                        # decay of the parameters' moving average; 0: no average
    log_every: int = 50                                     # steps
    settings: dict = field(default_factory=dict)            # whatever else the result depends on, as JSON

    def rate(self, step):
        """The learning rate of steps 1 ... self.steps"""
        return cosine(step, self.steps, self.peak, min(self.warmup, self.steps // 10))

    def to_dict(self):
        """As JSON has it: tuples are lists"""
        facts = asdict(self)
        settings = facts.pop("settings")
        return json.loads(json.dumps(facts | settings))


class Diverged(UserError):
    """The loss or a gradient is infinite or not a number."""


def fit(run, leaves, data, loss, recipe, *, workers=1, ahead=2, resume=False, watch=None, save_every=120,
        watch_every=300, watch_at=()):
    """Train by a Recipe -> {name: array}, `leaves` as the stage hands them on; the arrays given stay as they are.

    run:         a Run (run.py): the folder and the name of the stage.
    data(n):     the parts of the batch of step n = 0, 1, ...; the same whenever it is called. Another process prepares
                 `ahead` batches in the background (ahead.py); 0: none does.
    loss(leaves, part) -> mean loss, the count that it is the mean over, pull, {name: number for the log}; pull() ->
                 {name: gradient}. Parts run in `workers` threads at the same time and are weighted by their counts, so
                 that many small parts are one large batch. A parameter without a gradient stays as it is; it does not
                 decay either.
    resume:      go on from the folder's checkpoint, if there is one.
    watch(leaves) -> {name: number or text}, for the log, every `watch_every` seconds, after the steps `watch_at` and at
                 the end.
    save_every:  seconds between checkpoints.

    The result depends neither on the timing of threads nor on being killed and resumed. Ctrl-C, SIGTERM and SIGHUP save
    a checkpoint and raise KeyboardInterrupt with a sentence that says how to go on.
    """
    with run, stopping() as stop:
        state = State(leaves, recipe)
        if not resume:
            run.refuse_begun()
        elif not resumed(run, state) and run.done.exists():     # without checkpoints: the result is what counts
            return {**leaves, **dict(state.on_device(checkpoint.handed_over(run)))}
        cut(run.log, state.step)
        progress, saving, watching = Progress(run, state), clock.Every(save_every), clock.Every(watch_every)
        steps = range(state.step, recipe.steps)
        with prepared(data, steps, ahead) as batches, threads(workers) as spread, progress.bar:
            for parts in batches:
                progress.step(*step(run, state, loss, parts, spread))
                final = state.step == recipe.steps
                if watch and (final or state.step in watch_at or watching.due()):
                    begun = clock.now()
                    progress.watched(watch(state.result()))
                    progress.paused(clock.now() - begun)
                    watching.done()
                if final or stop.is_set() or saving.due():
                    checkpoint.store(run, state.tensors(), state.facts())
                    saving.done()
                if stop.is_set() and not final:
                    raise KeyboardInterrupt(f"{run.stage}: stopped after step {state.step} of {recipe.steps}, which is "
                                            f"saved in {run.folder}; --resume goes on from there")
        result = state.result()
        checkpoint.hand_over(run, {name: result[name] for name in state.m})
        return result


def resumed(run, state):
    """Restore the state of the newest checkpoint -> whether there is one"""
    found = checkpoint.restore(run)
    if found is None:
        return False
    tensors, facts = found
    before, now = Recipe(0).to_dict() | facts["settings"], state.recipe.to_dict()   # older than an option: its default
    differing = [f"{name} is {now.get(name)!r}, but was {before.get(name)!r}"
                 for name in {**before, **now} if now.get(name) != before.get(name)]
    if differing:
        raise UserError(f"{run.newest}: cannot be resumed with other settings: {'; '.join(differing)}")
    changed = [f"{name} is {value or 'not set'}, but was {facts['blas'][name] or 'not set'}"
               for name, value in blas_threads().items() if value != facts["blas"][name]]
    if changed:
        say(f"tinycogvlm: {'; '.join(changed)}: the result may differ in the last digits from that of one run")
    state.restore(tensors, facts)
    return True


class Progress:
    """The bar on the terminal, and the lines of the log"""

    def __init__(self, run, state):
        recipe, self.run, self.state = state.recipe, run, state
        self.bar = tqdm(desc=run.stage, total=recipe.steps * recipe.batch, initial=state.step * recipe.batch,
                        unit=" samples", mininterval=2, disable=state.step == recipe.steps)
        self.logged, self.logged_step = clock.now(), state.step

    def step(self, numbers, rate):
        """Note the numbers of a step; from time to time write a line with their means."""
        state, recipe = self.state, self.state.recipe
        state.note(numbers)
        self.bar.update(recipe.batch)
        if state.step % recipe.log_every and state.step < recipe.steps:
            return
        time, samples = clock.now(), (state.step - self.logged_step) * recipe.batch
        entry = {"step": state.step, "samples": state.step * recipe.batch, **state.means(), "rate": rate,
                 "seconds": round(state.seconds, 1), "samples/s": round(samples / max(time - self.logged, 1e-9), 2)}
        append(self.run.log, entry)
        self.bar.set_postfix_str(f"loss {entry['loss']:.4f}", refresh=False)
        self.logged, self.logged_step = time, state.step

    def paused(self, seconds):
        """Leave out of the speed and of the state's seconds what is no training."""
        self.logged += seconds
        self.state.started += seconds

    def watched(self, seen):
        """Log and show what was measured on the way, {name: number or text}."""
        append(self.run.log, {"step": self.state.step, "watch": seen})
        self.bar.write("\n".join(f"{self.run.stage}, step {self.state.step}, {name}: {value}"
                                 for name, value in seen.items()), file=sys.stderr)


def steps_asked(run, arguments, samples, batch, leaves, data, loss, workers=1):
    """The number of steps of a run: those of --samples, with --resume those it was begun with, those of --minutes, or
    those of `samples`"""
    begun = checkpoint.steps_begun(run) if arguments.resume and not arguments.samples else None
    if begun or not arguments.minutes:
        return begun or max(1, (arguments.samples or samples) // batch)
    say(f"{run.stage}: measuring the speed ...")
    return steps_within(arguments.minutes, leaves, data, loss, workers)


def steps_within(minutes, leaves, data, loss, workers=1):
    """The number of steps that take about `minutes`, judging by the first few, whose result is not kept"""
    with threads(workers) as spread:
        state, seconds = State(leaves, Recipe(1, decay=0.0)), []
        while len(seconds) < 2 or (len(seconds) < 20 and sum(seconds) < 3 * minutes):       # a twentieth of the time
            parts, start = data(len(seconds)), clock.now()
            _, gradients, _ = together(loss, state.leaves, parts, spread)
            state.update(gradients, 0.0, clipping(length(gradients, spread), 1.0), spread)
            seconds.append(clock.now() - start)
    return max(1, round(60 * minutes / (sum(seconds[1:]) / len(seconds[1:]))))      # the first step is slower


# One step

def step(run, state, loss, parts, spread):
    """Change the state by a step -> {name: number for the log}, learning rate. Diverged if a number is not finite."""
    value, gradients, extras = together(loss, state.leaves, parts, spread)
    norm = length(gradients, spread)
    if not math.isfinite(value + norm):
        raise Diverged(f"{run.stage}: in step {state.step + 1} the loss is {value} and the gradient's length {norm}; "
                       f"{run.saved()}")
    rate = state.recipe.rate(state.step + 1)
    state.update(gradients, rate, clipping(norm, state.recipe.longest), spread)
    return {"loss": value, "norm": norm, **extras}, rate


def together(loss, leaves, parts, spread):
    """The mean loss of all parts, {name: gradient}, means of the extras: as of one batch, summed in a fixed order"""
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
    return value / total, gradients, {name: number / total for name, number in means.items()}


def length(gradients, spread):
    """The length of all gradients as one vector"""
    return math.sqrt(float(sum(spread(lambda g: namespace(g).vdot(g, g), gradients.values()))))


@contextmanager
def threads(workers):
    """`map` in several threads, with the results in order; NumPy's arithmetic lets threads run at the same time.

    Each call runs in a copy of the caller's context: ops that are swapped there (nn/swap.py) are swapped here.
    """
    if workers == 1:
        yield map
        return
    with ThreadPoolExecutor(workers) as pool:
        yield lambda function, *arguments: pool.map(
            lambda context, *each: context.run(function, *each), iter(copy_context, None), *arguments)
