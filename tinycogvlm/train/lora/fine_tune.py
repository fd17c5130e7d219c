"""`tinycogvlm train lora`, `train merge` and `train unmerge`, from their parsed arguments."""
import hashlib
import json
import math
from functools import partial
from pathlib import Path

from ...errors import UserError
from ...inputs import examples
from ...inputs.tokenizer import copy_files
from ...loading import cogvlm, found, lasting, load
from ...model.cogvlm import CogVLM
from ...model.config import Config
from ...model.parts import BLOCKS, COMPUTED, HEAD, VECTORS
from ...storage import lora
from ...storage.checkpoint import Checkpoint, save
from ..loop.loop import Recipe, fit, steps_asked
from ..loop.process import say
from ..loop.run import Run
from . import old, questions
from .verdict import Watch, verdict

BATCH, ROUNDS = 16, 10                                      # ROUNDS: through all lines, by default
TARGETS = (*BLOCKS, HEAD)           # the head too: its rows of tokens that were never said are alike (lesson 19)
SHOWN = 3                                                   # held-out answers, at the end


def train(arguments):
    """Learn an adapter and write it to the run's folder."""
    with Run(arguments.out, "lora") as run:
        if not arguments.resume:
            run.refuse_begun()
        learn(run, arguments)


def learn(run, arguments):
    base = base_of(arguments)
    lines = questions.read(arguments.data, base.config, base.tokenizer)
    learned, held = questions.split(lines, arguments.held_out, arguments.seed)
    new = min(max(1, round(BATCH * (1 - arguments.mix))), len(learned))
    mixed = round(new * arguments.mix / (1 - arguments.mix))
    data = questions.Batches(tuple(learned), base.config, str(found(arguments.weights)), new, arguments.seed, mixed)
    say(f"{len(learned)} lines to learn from, {len(held)} held out")
    before, skills = questions.answered(base, held), old.measure(base) if mixed else {}
    settings = {"questions": digest_of_questions(learned), "pictures": digest_of_pictures(learned), "mix": mixed}
    watch, samples = Watch(learned, held), ROUNDS * len(learned) * (new + mixed) // new
    model = fit_adapter(run, arguments, base, data, new + mixed, samples, settings, watch)
    say(verdict(watch.losses or [watch(model)["loss of learned lines"]]))
    if held:
        after = questions.answered(model, held)
        say(f"of {len(after)} held-out answers {questions.right(after)} are right, without the adapter "
            f"{questions.right(before)}; some of them:")
        for answered in sorted(after, key=lambda answered: answered.right)[:SHOWN]:     # wrong ones first
            say(f"  {answered}")
    if mixed:
        say(f"old questions, before and now: {old.compared(skills, old.measure(model))}")
    elif base.config.vision:
        say("old questions were not among them, and what is not asked is forgotten; --mix 0.7 draws some")


def base_of(arguments, image_size=None):
    """The model that is fine-tuned"""
    weights = found(arguments.weights)
    base = cogvlm(load(weights, image_size=image_size))
    if base.config.traits.stored_as:
        raise UserError(f"{weights}: a language model, whose matrices are stored under other names than an adapter learned "
                        "here would have; adapters are learned for CogVLMs")
    if base.tokenizer is None:
        raise UserError(f"{weights}: holds no tokenizer, so questions cannot be read")
    return base


def fit_adapter(run, arguments, base, data, batch, samples, settings, watch=None):
    """Learn an adapter, write it to the run's folder -> the base with it

    data(workers, step): as of a stage; samples: how many, unless the arguments say so; settings: whatever else the
    result depends on. watch(model) -> {name: number or text}: measured after every tenth of the steps.
    """
    leaves, targets, workers = dict(base.leaves), arguments.targets or TARGETS, arguments.workers
    adapter = lora.start(leaves, targets, arguments.rank, arguments.alpha, arguments.seed, VECTORS)
    task, data = Task(base, adapter), partial(data, workers)
    say(f"{numbers(adapter.leaves):,} numbers are learned, {numbers(leaves):,} stay as they are")
    steps = steps_asked(run, arguments, samples, batch, leaves | adapter.leaves, data, task.loss, workers)
    settings = {"rank": arguments.rank, "alpha": arguments.alpha, "targets": list(targets), "seed": arguments.seed,
                "workers": workers, **settings}
    recipe = Recipe(steps, batch, arguments.rate, decay=0.0, log_every=10, settings=settings)
    result = fit(run, leaves | adapter.leaves, data, task.loss, recipe, workers=workers, resume=arguments.resume,
                 watch=watch and (lambda leaves: watch(task.model(leaves))), watch_every=math.inf,
                 watch_at=[steps * tenth // 10 for tenth in range(1, 10)])
    lora.write(run.folder, task.adapter_of(result), lasting(arguments.weights))
    say(f"{run.stage}: {steps * batch} samples learned; the adapter is in {run.folder}")
    return task.model(result)


class Task:
    """The base model and an adapter to be learned: `loss` is what loop.fit takes."""

    def __init__(self, base, adapter):
        self.base, self.adapter = base, adapter
        self.frozen = [name for name in base.parameters if name not in set(adapter.targets)]

    def adapter_of(self, leaves):
        """The Adapter among all leaves"""
        return lora.Adapter({name: leaves[name] for name in self.adapter.leaves}, self.adapter.rank, self.adapter.alpha)

    def model(self, leaves):
        """The base with the adapter among `leaves`"""
        weights = {name: leaves[name] for name in leaves if name not in self.adapter.leaves}
        return CogVLM(self.base.config, lora.merge(weights, self.adapter_of(leaves)), self.base.tokenizer,
                      self.base.rotary)

    def loss(self, leaves, part):
        inputs, labels = part
        weights = examples.weights(labels)
        value, pull = self.model(leaves).loss(inputs, labels, self.frozen, weights=weights)
        return value, float(weights.sum()), lambda: lora.gradients(self.adapter_of(leaves), pull()), {}


def merge(arguments, sign=1):
    """Write a model's folder with the adapter's updates added to the matrices, each in the dtype that it had."""
    weights, out = found(arguments.weights), arguments.out
    if weights.suffix == ".gguf":
        raise UserError(f"{weights}: an adapter is added to the folder that a .gguf file was made of, not to the file")
    if out.exists() and out.resolve() == weights.resolve():
        raise UserError(f"{out}: is the model itself, which must stay; --out names another folder")
    config, checkpoint, adapter = Config.read(weights), Checkpoint(weights), lora.read(arguments.adapter)
    checkpoint.renamed(config.stored_as()).check(config.shapes(), COMPUTED)
    save(out, lora.changed(checkpoint, adapter, sign), config)
    copy_files(weights, out)
    say(f"{out}: {len(adapter.targets)} matrices {'changed' if sign > 0 else 'changed back'}, all else as in {weights}")


def unmerge(arguments):
    """Write the base again, from a merged model and its adapter."""
    merge(arguments, -1)


def numbers(leaves):
    return sum(array.size for array in leaves.values())


def digest_of_questions(lines):
    """Tells whether a run is resumed with the questions that it was begun with"""
    said = [(Path(line.image).name if line.image else None, line.turns) for line in lines]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def digest_of_pictures(lines):
    """Tells whether a run is resumed with the pictures that it was begun with, whatever their names"""
    found = hashlib.sha256()
    for path in dict.fromkeys(line.image for line in lines if line.image):
        found.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return found.hexdigest()[:16]
