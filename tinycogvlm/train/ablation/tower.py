"""What makes a tower know a drawing by a hand that it has never seen? The stage `vision`, with one thing changed.

    tinycogvlm ablate tower [--samples 32000] [--seeds 3] [--only full,adamw]

Every variant learns from as many pictures, a ninth of the stage's; the seed draws the initial weights and chooses the
pictures. Numbers of hands are compared without lines, since few hands draw lines. Measured is one thing on white or one
colour: of the split `check`, whose coloured hand, Noto's first edition, is by a maker whose second edition is trained;
and of the split `style`, by makers that training never shows. Runs are done once, resumed and shared among processes as
those of ablate.py.
"""
import json
from dataclasses import asdict, replace
from functools import cache, partial

from ...errors import UserError
from ...world.sketches import ANY, AS_DRAWN, LINES, MOUSE, MOUSE_LINES, sketch
from ..loop import checkpoint
from ..loop.loop import Diverged, fit
from ..loop.process import make_folder
from ..loop.run import free
from ..recipe import contrast
from ..recipe.initial import CONFIG, initial
from ..recipe.stages import PER_STAGE, STAGES
from .comparison import Claim
from .table import finished, in_columns, write, write_broken

SAMPLES, ASKED = 32_000, 400                                # pictures of each run; of each sort that is measured
SIZES = (35, 65)                                            # pixels of 112, of the thing in these
FULL = STAGES["vision"]
LARGE = replace(CONFIG, vision=replace(CONFIG.vision, image_size=168))


def course(hands=99, **changes):
    """The stage's course with sketches by at most so many colour hands, drawn in another manner"""
    return tuple((until, replace(manner, hands=min(manner.hands, hands), **changes)) for until, manner in FULL.course)


VARIANTS = {                                                # name: (what it is, the stage)
    "full": ("all hands, restyled, from few to all, Muon, 112 pixels", FULL),
    "no-lines": ("all colour hands, no lines", replace(FULL, course=course(inked=0))),
    "three-hands": ("three colour hands (Noto, Twemoji, Fluent), no lines", replace(FULL, course=course(3, inked=0))),
    "one-hand": ("one colour hand (Noto), no lines", replace(FULL, course=course(1, inked=0))),
    "as-drawn": ("nothing restyled", replace(FULL, course=course(restyled=0))),
    "no-course": ("everything from the start", replace(FULL, course=((1.0, ANY),))),
    "adamw": ("AdamW for the blocks' matrices too", replace(FULL, muon=0.0)),
    "168-pixels": ("144 patches instead of 64", replace(FULL, config=LARGE))}
MEASURED = {"colour": ("check", AS_DRAWN), "lines": ("check", LINES), "filled": ("check", MOUSE),
            "outlined": ("check", MOUSE_LINES), "style, colour": ("style", AS_DRAWN), "style, lines": ("style", LINES)}
MEASURES = tuple(f"{sort}: {what}" for sort in MEASURED for what in ("name", "box"))
COLOUR, INK = "style, colour: name", "style, lines: name"
CLAIMS = (Claim("three-hands", "one-hand", COLOUR, "more hands help with one never seen"),
          Claim("no-lines", "three-hands", COLOUR, "more hands help with one never seen"),
          Claim("full", "no-lines", INK, "who is to read lines must see lines"),
          Claim("full", "no-lines", COLOUR, "lines help with colour, too"),
          *(Claim("full", worse, measure, says) for worse, says in (
              ("as-drawn", "to restyle what hands drew helps with one never seen"),
              ("no-course", "few hands first, then all, is better than all from the start"),
              ("adamw", "Muon is better than AdamW")) for measure in (COLOUR, INK)),
          *(Claim("168-pixels", "full", measure, "more patches are better") for measure in (COLOUR, INK)))


@cache
def asked(sort, side):
    """The pictures of one sort that are measured"""
    split, manner = MEASURED[sort]
    return [sketch(split, number, (1, 1), side, manner, SIZES) for number in range(ASKED)]


def seen(stage, leaves):
    """{measure: the share of names or boxes that the tower alone has right}"""
    side = stage.config.vision.image_size
    return dict(zip(MEASURES, (share for sort in MEASURED
                               for share in contrast.read(leaves, stage.config, asked(sort, side)))))


def learn(run, name, seed, samples):
    """Train a variant and write what it knows, unless that is there already."""
    stage = replace(VARIANTS[name][1], samples=samples)
    settings = json.loads(json.dumps({"stage": asdict(stage), "seed": seed}))
    if finished(run, settings, "--samples or of another recipe"):
        return
    leaves = stage.begin(initial(stage.config, seed), seed)
    data = partial(contrast.data, stage.config.vision, stage.course, samples, stage.batch, 1, first=seed * PER_STAGE)
    try:
        after = fit(run, leaves, data, stage.loss, stage.recipe(seed=seed), resume=True)
    except Diverged as error:
        return write_broken(run, settings, error)
    seconds = checkpoint.restore(run)[1]["seconds"]
    write(run, {"settings": settings, "seconds": seconds, "seen": seen(stage, after)})


def ablate(out, samples=None, seeds=3, only=()):
    """Do every run that is neither finished nor another process's -> the table of all finished runs, as text"""
    samples = samples or SAMPLES
    if unknown := [name for name in only if name not in VARIANTS]:
        raise UserError(f"no variant {unknown[0]!r}; there are {', '.join(VARIANTS)}")
    if samples < FULL.batch:
        raise UserError(f"--samples {samples}: less than one batch, which is {FULL.batch}")
    make_folder(out)
    for seed in range(seeds):
        chosen = {f"{name}-{seed}": name for name in only or VARIANTS}
        for run in free(out, chosen):
            learn(run, chosen[run.stage], seed, samples)
    return in_columns(out, {name: f"{says} (`{name}`)" for name, (says, _) in VARIANTS.items()}, MEASURES, CLAIMS, seeds,
                      {"minutes": ("seconds", 60)})
