"""`tinycogvlm train eyes`, from its parsed arguments."""
import json

import numpy as np

from ...errors import UserError
from ...evaluate import eyes, teacher
from ...evaluate.accuracy import flat
from ...loading import cogvlm, fingerprints, found, lasting, load, own_shapes, with_eyes
from ...model.parts import ADAPTER
from ...storage import atomic
from ...storage.safetensors_file import write_safetensors
from ...world.real_words import FIRST, KNOWN
from ...world.sketches import sketch
from ..loop.loop import Recipe, fit, steps_asked
from ..loop.process import say
from ..loop.run import Run
from . import distil, least_squares

BATCH, SAMPLES = 8, 24_000
RATE, ADAPTERS = 1e-3, 0.3                                  # of the experts; the adapter's as a factor of it
FITTED = 1500                                               # scenes from which least squares finds the adapter
WATCHED = 24                                                # pictures of each group, every WATCH_EVERY seconds
WATCH_EVERY = 1800


def train(arguments):
    """Learn eyes and write their folder, OUT/weights."""
    with Run(arguments.out, "eyes") as run:
        if not arguments.resume:
            run.refuse_begun()
        learn(run, arguments)


def learn(run, arguments):
    language, seeing = models(arguments.language, arguments.tower)
    rank, marks = None if arguments.rank == "full" else arguments.rank, fingerprints(language, seeing)
    task, own, answers = begun(run.folder, language, seeing, rank, arguments.seed, marks)
    wordings = distil.kept(answers)
    say(f"{len(wordings)} of {len(distil.TRAINED)} wordings are trained; what is answered alike for all things is not")
    workers = arguments.workers
    data = distil.Data(task.model.config, str(found(arguments.language)), str(answers), task.start.length, BATCH,
                       parts=workers)
    steps = steps_asked(run, arguments, SAMPLES, BATCH, own, data, task.loss, workers)
    settings = {"rank": rank, "seed": arguments.seed, "workers": workers, "wordings": len(wordings), **marks}
    asked = eyes.prepared(task.model, WATCHED, "check", groups=eyes.WATCHED)

    def watch(leaves):
        return flat(eyes.measured(task.with_leaves(leaves), asked))
    result = fit(run, own, data, task.loss, recipe(steps, settings), workers=workers, resume=arguments.resume,
                 watch=watch, watch_every=WATCH_EVERY)
    write(run.folder / "weights", result, arguments.language, arguments.tower, rank, marks)
    say(f"eyes: {steps * BATCH} samples learned; the eyes are in {run.folder / 'weights'}")


def models(language, tower):
    """A language model, and the CogVLM whose tower it is to see with"""
    speaking, seeing = cogvlm(load(language)), cogvlm(load(tower))
    if speaking.config.vision or not seeing.config.vision:
        raise UserError("eyes are made of a language model and the tower of a model that sees, not of "
                        f"{language} and {tower or 'the bundled model'}")
    if getattr(speaking.tokenizer, "chat_template", None) is None:
        raise UserError(f"{language}: has no chat template, so a question has no place in which a picture could stand")
    return speaking, seeing


def recipe(steps, settings):
    """How eyes are learned"""
    return Recipe(steps, BATCH, RATE, groups=dict.fromkeys(ADAPTER, ADAPTERS), ema=0.998, log_every=10, settings=settings)


def begun(folder, language, seeing, rank, seed, marks):
    """distil.Task, {name: array} of the eyes that it starts from, and the file of the teacher's answers

    What takes minutes is kept in the folder, for the models whose fingerprints `marks` are.
    """
    own = least_squares.initial(own_shapes(language.config.with_eyes(seeing.config.vision, rank)), language.leaves, seed)
    task = distil.Task(with_eyes(language, seeing, rank, own), own)
    answers, questions = folder / f"answers-{marks['language_model']}.jsonl", distil.told()
    say(f"{len(questions)} questions for the teacher; its answers are kept in {answers}")
    teacher.fill(answers, task.start, questions, through=lambda parts: progress(parts, "teacher"))
    own |= fitted(folder / f"least_squares-{seed}.npz", task, marks)
    task.model = task.with_leaves(own)
    return task, own, answers


def fitted(path, task, marks):
    """{name: array} of the adapter's matrix by least squares, from the file `path` if it is there for these models"""
    marks = [marks["language_model"], marks["tower"]]
    if path.exists():
        with np.load(path) as file:
            if file["marks"].tolist() == marks:
                return {least_squares.LAST: file["matrix"]}
    say("finding the adapter by least squares ...")
    scenes = [sketch("train", FIRST + i, (1, 4), manner=KNOWN) for i in range(FITTED)]
    matrix, explained = least_squares.adapter_for(task.model, scenes)
    say(f"the adapter explains {explained:.2f} of the variance of the words")
    with atomic.replacing(path) as file:
        np.savez(file, matrix=matrix, marks=marks)
    return {least_squares.LAST: matrix}


def write(folder, leaves, language, tower, rank, marks):
    """Write a folder of eyes, which loading.load reads, in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"architectures": ["EyesForCausalLM"], "language_model": lasting(language), "tower": lasting(tower),
              "rank": rank, "fingerprints": marks}
    write_safetensors(folder / "model.safetensors", leaves, "F16")
    atomic.write(folder / "config.json", json.dumps(fields, indent=2) + "\n")


def progress(parts, name):
    """A bar on stderr"""
    from tqdm import tqdm
    return tqdm(parts, desc=name, mininterval=2)
