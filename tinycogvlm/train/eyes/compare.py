"""What must eyes learn? An adapter by least squares alone, an adapter trained, experts of low rank, whole experts.

    tinycogvlm ablate eyes [--weights FOLDER] [--samples N] [--seeds 3] [--only adapter,full]

All learn the same questions about the same pictures; beside them stands what the question alone gives away. Runs are
done once, resumed and shared among processes as those of train/ablation.
"""
from dataclasses import dataclass, replace
from functools import cached_property

from ...errors import UserError
from ...evaluate import eyes
from ...evaluate.accuracy import flat
from ...evaluate.eyes import BLIND, EQUAL, HIT
from ...loading import fingerprints, found
from ..ablation.comparison import Claim
from ..ablation.table import finished, in_columns, write, write_broken
from ..loop import checkpoint
from ..loop.loop import Diverged, fit
from ..loop.process import make_folder
from ..loop.run import free
from . import distil, learn

SAMPLES, ASKED = 2000, 100                                  # of each run; queries of each sort
PER_SEED = 1_000_000                                        # prompts that are kept for a seed
SAVE_EVERY = 600                                            # seconds: a checkpoint of whole experts has 1.7 GB


@dataclass(frozen=True)
class Eyes:
    """One way to see. rank: of the experts, as in `train eyes`."""
    name: str
    says: str
    rank: int | None = 0
    learns: bool = True
    sees: bool = True


VARIANTS = (
    Eyes("blind", "the question alone, without a picture", learns=False, sees=False),
    Eyes("least-squares", "adapter by least squares, nothing trained", learns=False),
    Eyes("adapter", "adapter, trained"),
    Eyes("low-rank", "adapter and experts of rank 8", rank=8),
    Eyes("full", "adapter and whole experts", rank=None))
SPLIT = "check"                                             # by hands that training never uses
MEASURED = replace(eyes.OWN, rows=(HIT, EQUAL)), replace(eyes.NEW, rows=(HIT,)), eyes.THING
MEASURES = tuple(f"{group.name(SPLIT)}: {row}" for group in MEASURED for row in group.rows)
CLAIMS = tuple(Claim(better, worse, measure, says) for better, worse, says in (
    ("adapter", "least-squares", "an adapter that is trained is better than one that is solved for"),
    ("low-rank", "adapter", "experts are better than an adapter alone"),
    ("full", "low-rank", "whole experts are better than thin ones")) for measure in MEASURES if HIT in measure)


@dataclass(frozen=True)
class Given:
    """What all runs start from. tokenizer: the path of the language model's."""
    language: object
    seeing: object
    tokenizer: str

    @cached_property
    def marks(self):
        return fingerprints(self.language, self.seeing)

    @cached_property
    def asked(self):
        """Queries about pictures that training never shows, with the teacher's answers"""
        return eyes.prepared(self.language, ASKED, SPLIT, MEASURED)


def compare(tower, out, samples=None, seeds=3, only=(), language="smollm2"):
    """Do every run that is neither finished nor another process's -> the table of all finished runs, as text

    tower: the CogVLM whose vision tower is used; samples: of each run, SAMPLES by default; only: names of variants.
    """
    samples, names = samples or SAMPLES, [variant.name for variant in VARIANTS]
    if unknown := [name for name in only if name not in names]:
        raise UserError(f"no variant {unknown[0]!r}; there are {', '.join(names)}")
    if samples < learn.BATCH:
        raise UserError(f"--samples {samples}: less than one batch, which is {learn.BATCH}")
    make_folder(out)
    given = Given(*learn.models(language, tower), str(found(language)))
    for seed in range(seeds):
        chosen = {f"{variant.name}-{seed}": variant for variant in VARIANTS if not only or variant.name in only}
        for run in free(out, chosen):
            once(run, chosen[run.stage], seed, samples, given)
    return in_columns(out, {variant.name: variant.says for variant in VARIANTS}, MEASURES, CLAIMS, seeds,
                      {"MB": ("megabytes", 1), "minutes": ("seconds", 60)})


def once(run, variant, seed, samples, given):
    """Learn, if the variant learns, measure, and write the result, unless it is there already."""
    settings = {"variant": variant.name, "seed": seed, "samples": samples, **given.marks}
    if finished(run, settings, "--samples or of other models"):
        return
    task, own, answers = learn.begun(run.folder, given.language, given.seeing, variant.rank, seed, given.marks)
    seconds = 0.0
    if variant.learns:
        data = distil.Data(task.model.config, given.tokenizer, str(answers), task.start.length, learn.BATCH,
                           seed * PER_SEED)
        try:
            own = fit(run, own, data, task.loss, learn.recipe(samples // learn.BATCH, settings), resume=True,
                      save_every=SAVE_EVERY)
        except Diverged as error:
            return write_broken(run, settings, error)
        seconds = checkpoint.restore(run)[1]["seconds"]
    asked = given.asked
    if not variant.sees:
        asked = [(name, replace(group, rows=(BLIND,)), *more) for name, group, *more in asked if HIT in group.rows]
    measured = flat(eyes.measured(task.with_leaves(own), asked))
    write(run, {"settings": settings, "seconds": seconds,
                "megabytes": 2e-6 * sum(array.size for array in own.values()) if variant.sees else 0.0,
                "seen": {name.replace(BLIND, HIT): share for name, share in measured.items()}})
