"""`tinycogvlm train video`: an adapter with which a model that knows pictures answers questions about videos.

CogVLM2-Video (Hong et al. 2024, arXiv 2408.16500) in miniature: frames, each followed by its second, and questions that
only this word can answer. --no-times leaves the seconds out, all else equal: what such a model cannot say is what the
time words are worth.
"""
from dataclasses import dataclass
from functools import partial

from ...evaluate import videos as evaluation
from ...inputs import examples
from ...loading import found
from ...world.scenes import Dice
from ...world.videos import clip, conversation
from ..loop.process import say
from ..loop.run import Run
from . import fine_tune, questions

BATCH, TURNS, SAMPLES = 8, 8, 4000
ASKED = 12                                                  # questions of every kind, at the end


def train(arguments):
    """Learn an adapter and write it to the run's folder."""
    with Run(arguments.out, "video") as run:
        if not arguments.resume:
            run.refuse_begun()
        base, times = fine_tune.base_of(arguments, arguments.image_size), not arguments.no_times
        data = Clips(base.config, str(found(arguments.weights)), times)
        model = fine_tune.fit_adapter(run, arguments, base, data, BATCH, SAMPLES,
                                      {"times": times, "side": base.config.vision.image_size})
        measure = partial(evaluation.measure, split="check", count=ASKED)
        rows = [(name, measure(some, times=times)) for name, some in (("with the adapter", model), ("without", base))]
        say(evaluation.text(dict(rows)))


@dataclass(frozen=True)
class Clips:
    """The data of loop.fit: every video comes once."""
    config: object
    tokenizer: str                                          # its path, since another process makes the batches
    times: bool

    def __call__(self, workers, step):
        """Step `step`, as parts (Inputs, labels)"""
        made = [self.example(step * BATCH + i) for i in range(BATCH)]
        return examples.batches(made, 2 * workers, self.config.pad_token_id)

    def example(self, number):
        shown = clip("train", number, side=self.config.vision.image_size, times=self.times)
        turns = conversation(shown, Dice("video questions", number), TURNS)
        tokenizer = questions.loaded(self.tokenizer, self.config)
        return examples.example(self.config, tokenizer, shown.picture, turns,
                                longest=self.config.max_position_embeddings)
