"""What ask, caption, ground and chat share: loading the model, and an answer that is shown as it comes."""
import time
import warnings
from contextlib import contextmanager, nullcontext

from ..errors import UsageError
from ..inputs import grounding, image
from ..loading import cogvlm, load
from ..model import generate
from .say import echo_json, progress, say, say_error, show, writable_picture, write_picture

MALFORMED = 10                  # boxes that are reported one by one


def computing(arguments):
    """The context in which a command's model computes: with --mine, through the learner's functions."""
    if not arguments.mine:
        return nullcontext()
    if getattr(arguments, "kernels", False) or arguments.device != "cpu":
        raise UsageError("--mine runs your functions on the CPU; leave out --kernels and --device")
    from ..learn import parts
    return parts.in_the_model(say)


def load_any(arguments):
    """The model of the options, be it a CogVLM or a relative"""
    progress("loading the model ...")
    return load(**model_arguments(arguments))


def load_model(arguments):
    """The CogVLM of the options, with the ears that `ask` may name"""
    model, ears = cogvlm(load_any(arguments)), getattr(arguments, "ears", None)
    if not ears:
        return model
    from ..relatives import hearing                         # which only those pay for that hear
    return hearing.load(ears, model)


def model_arguments(arguments):
    """What load takes, of the command line's options"""
    names = ("device", "dtype", "stream", "tokenizer", "rotary", "image_size", "kernels", "lora", "check_finite",
             "activations")
    return {"folder": arguments.weights} | {name: getattr(arguments, name) for name in names}


@contextmanager
def saying_what_is_lost():
    """Inside the `with` pictures are read; what was lost in reading them is said."""
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always", image.PictureWarning)
        yield
    for remark in remarks:
        say(f"tinycogvlm: {remark.message}")


def load_picture(arguments, path):
    """The picture of a file"""
    with saying_what_is_lost():
        return image.load(path, arguments.rescale)


def sampling(arguments):
    return {name: getattr(arguments, name) for name in ("temperature", "top_k", "top_p", "repetition_penalty", "seed")}


def answer_and_draw(arguments, picture, question, label=None, sound=None):
    """Ask, print, and draw the boxes that were found with --out -> exit code

    question: model -> text, because some questions depend on the model's template.
    label:    the phrase to find, if that is what the question is about: no box is a failure then.
    sound:    an audio.Sound that is heard after the picture.
    """
    out = writable_picture(arguments.out)
    model = load_model(arguments)
    report = respond(model, arguments, picture, question(model), sound=sound)
    if arguments.json:
        echo_json(report)
    boxes = grounding.parse(report["text"])[0]
    if not boxes and (label or out):
        say_error("no box in the answer" + (f"; {out} is not written" if out else ""))
        return 1
    if out:
        labels = [name or label or str(i) for i, name in enumerate(grounding.names(report["text"]), 1)]
        write_picture(out, grounding.draw(picture, boxes, labels))
        say(f"{out}: {len(boxes)} box{'es' * (len(boxes) > 1)} drawn")
        for i, name in grounding.legend(labels).items():
            say(f"{i + 1}: {name}")
    return 0


def respond(model, arguments, picture, question, before="", sound=None):
    """The answer as --json reports it; without --json it is also printed as it comes, after `before`."""
    media = [medium for medium in (picture, sound) if medium is not None]
    inputs = model.inputs(question, media, template=arguments.template)
    choose = generate.Sampling(**sampling(arguments))
    progress(f"reading {inputs.ids.size} tokens ...")
    if arguments.json:
        [found] = generate.answers(model, [inputs], arguments.max_new_tokens, choose)
        text = found.text
        counts = {"tokens_in": found.tokens_in, "tokens_out": found.tokens_out, "seconds": found.seconds,
                  "finish": found.finish}
    else:
        start, said, counts = time.perf_counter(), [], {}
        pieces = generate.stream(model, inputs, arguments.max_new_tokens, choose)
        show(pieces, said, before)
        say_if_cut(pieces, arguments)
        text = "".join(said)
        progress(f"{time.perf_counter() - start:.2f} seconds")
    boxes, malformed = grounding.parse(text)
    for sentence in malformed[:MALFORMED]:
        say(f"tinycogvlm: ignored a malformed box: {sentence}")
    if len(malformed) > MALFORMED:
        say(f"tinycogvlm: ignored {len(malformed) - MALFORMED} more malformed boxes")
    size = getattr(picture, "size", None)                   # a video has no one size
    return {"text": text, "boxes": [grounding.to_pixels(box, *size) for box in boxes if size], **counts}


def say_if_cut(pieces, arguments, advice=""):
    """Say that an answer was cut, unless by the user's own limit."""
    if arguments.max_new_tokens is None and pieces.finish == "length":
        say(f"tinycogvlm: the answer was cut, by the end of the context or after {generate.LONGEST} tokens{advice}")
