"""What the commands do: tinycogvlm ask, caption, ground, chat, learn, scene, eval, train, kernel, info,
verify.

Answers go to stdout, everything else to stderr. Exit codes: 0 fine, 1 what was asked failed, 2 usage, 130 Ctrl-C.
"""
import argparse
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from ..errors import UserError
from ..inputs import grounding, image, prompt
from ..loading import load
from ..model import generate
from .options import parser

CAPTION = "Describe the image."
WHERE = "Where is {phrase}?"                                # what models of the chat templates are asked for a box


def main(argv=None):
    """Run one command line and return its exit code; wrong usage and --help leave by SystemExit, as argparse does."""
    for stream in (sys.stdin, sys.stdout):
        if hasattr(stream, "reconfigure"):                  # a console without a character shows ? for it
            stream.reconfigure(errors="replace")
    arguments = argparse.Namespace()
    try:
        try:
            arguments = parser(COMMANDS).parse_args(argv, argparse.Namespace(typed=argv is None))
            return arguments.command(arguments)
        finally:
            sys.stdout.flush()                              # a reader that has gone is noticed here, not at exit
    except UserError as error:
        return fail(error)
    except BrokenPipeError:                                 # as in `tinycogvlm ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return fail(f"{error.filename or 'input or output'}: {error.strerror or error}")
    except MemoryError:
        advice = {True: "; a smaller --image-size or --max-new-tokens needs less",
                  False: "; with --stream only a few blocks of the model are in memory"}
        return fail(f"not enough memory{advice.get(getattr(arguments, 'stream', None), '')}")
    except KeyboardInterrupt as stop:                       # training says how to go on, others nothing
        say(stop)
        return 130


def fail(sentence):
    say(f"tinycogvlm: {sentence}")
    return 1


def say(message):
    print(message, file=sys.stderr)


def progress(message):
    """For a person who waits, not for a log."""
    if sys.stderr.isatty():
        say(message)


# The commands: parsed arguments -> exit code

def ask(arguments):
    if arguments.out and arguments.image == "-":
        arguments.usage("--out draws on the picture, and - is none")
    if arguments.mine and (arguments.kernels or arguments.device != "cpu"):
        arguments.usage("--mine puts your functions where the kernels would be: leave out --kernels and --device")
    picture = None if arguments.image == "-" else image.load(arguments.image)
    if not arguments.mine:
        return answer(arguments, picture, lambda model: arguments.question)
    from ..learn import parts
    with parts.installed(parts.mine(runs="answer")) as functions:
        code = answer(arguments, picture, lambda model: arguments.question)
    say(f"{parts.sentence(functions)}; {parts.calls(functions)}")
    return code


def ground(arguments):
    def question(model):
        template = arguments.template or prompt.default_template(model.config)
        return (prompt.BOX_OF_PHRASE if template == "base" else WHERE).format(phrase=arguments.phrase)
    return answer(arguments, image.load(arguments.image), question, arguments.phrase)


def answer(arguments, picture, question, label=None):
    """Ask, print, and draw what was found; `label` is what a box was asked for: to find none is a failure then."""
    out = writable_picture(arguments.out)
    model = load_model(arguments)
    report = respond(model, arguments, picture, question(model))
    if arguments.json:
        print(json.dumps(report))
    boxes = grounding.parse(report["text"])[0]
    if not boxes and (label or out):
        return fail("no box in the answer" + (f"; {out} is not written" if out else ""))
    if out:
        labels = [label or str(i) for i in range(1, len(boxes) + 1)]
        write_picture(out, grounding.draw(picture, boxes, labels))
        say(f"{out}: {len(boxes)} box{'es' * (len(boxes) > 1)} drawn")
    return 0


def caption(arguments):
    """A line of text, or of JSON, for every picture; one that cannot be read does not keep the others waiting."""
    model, code = load_model(arguments), 0
    for path in arguments.images:
        try:
            picture = image.load(path)
        except UserError as error:
            code = fail(error)
            continue
        report = respond(model, arguments, picture, CAPTION, f"{path}: " if len(arguments.images) > 1 else "")
        if arguments.json:
            print(json.dumps({"image": path, **report}), flush=True)
    return code


def chat(arguments):
    from .chat import chat
    picture = image.load(arguments.image) if arguments.image else None
    return chat(load_model(arguments), picture, arguments.template, arguments.max_new_tokens, sampling(arguments))


def learn(arguments):
    from .learn import learn
    return learn(arguments)


def kernel(arguments):
    from .kernel import profile, step
    return {"step": step, "profile": profile}[arguments.what](arguments)


def info(arguments):
    from .info import info, table
    report = info(arguments.folder)
    print(json.dumps(report) if arguments.json else table(report))
    return 0


def verify(arguments):
    from ..verify.compare import verify
    report = verify(arguments.folder, arguments.device, arguments.kernels)
    print(json.dumps(report.to_dict()) if arguments.json else report.table())
    return 0 if report.ok else 1


def train(arguments):
    from .train import train
    return train(arguments)


def eval(arguments):
    from ..evaluate.gallery import gallery
    from ..evaluate.report import progress_bar, report, text
    from ..world.scenes import SPLITS
    splits = SPLITS[SPLITS.index("test"):] if arguments.split == "all" else [arguments.split]
    out = writable_picture(arguments.gallery)
    progress("loading the model ...")
    model = load(arguments.weights, arguments.device, lora=arguments.lora)
    compared = not arguments.no_baselines and len(splits) == 1
    found, wrong = report(model, splits, arguments.scenes, compared, progress_bar)
    print(json.dumps({"weights": arguments.weights, **found}) if arguments.json else text(found))
    if out and wrong:
        write_picture(out, gallery(wrong))
        say(f"{out}: wrong answers drawn")
    elif out:
        say(f"no answer about a picture was wrong; {out} is not written")
    return 0


def scene(arguments):
    from ..world.scenes import scene
    from .scene import WORLD, facts, text, world
    if arguments.list:
        print(json.dumps(WORLD) if arguments.json else world())
        return 0
    count = arguments.things
    if arguments.split == "sizes" and (count or 1) > 2:
        arguments.usage(f"--things {count}: those of the split sizes are so large that there are one or two")
    out = writable_picture(arguments.out)
    drawn = scene(arguments.split, arguments.seed, (count, count) if count else (1, 4), arguments.size)
    true = facts(drawn)
    print(json.dumps(true) if arguments.json else text(true))
    if out:
        write_picture(out, image.load(drawn.picture))
    if count and len(drawn.things) < count:
        say(f"tinycogvlm: only {len(drawn.things)} of {count} things found room; another --seed may hold them all")
    return 0


# What they share

def load_model(arguments):
    progress("loading the model ...")
    return load(arguments.weights, arguments.device, arguments.dtype, arguments.stream, arguments.tokenizer,
                arguments.rotary, arguments.image_size, arguments.kernels, lora=arguments.lora)


def sampling(arguments):
    return {name: getattr(arguments, name) for name in ("temperature", "top_k", "top_p", "repetition_penalty", "seed")}


def respond(model, arguments, picture, question, before=""):
    """The answer as `--json` reports it; without --json it is also printed, as it comes, with `before` before it."""
    inputs = model.inputs(question, picture, template=arguments.template)
    choose = generate.Sampling(**sampling(arguments))
    progress(f"reading {inputs.ids.size} tokens ...")
    if arguments.json:
        [found] = generate.answers(model, [inputs], arguments.max_new_tokens, choose)
        text, counts = found.text, {"tokens_in": found.tokens_in, "tokens_out": found.tokens_out,
                                    "seconds": found.seconds}
    else:
        start, said, counts = time.perf_counter(), [], {}
        pieces = generate.stream(model, inputs, arguments.max_new_tokens, choose)
        print(before, end="")
        show(pieces, said)
        text = "".join(said)
        progress(f"{time.perf_counter() - start:.2f} seconds")
    boxes, malformed = grounding.parse(text)
    for sentence in malformed:
        say(f"tinycogvlm: a box that is none: {sentence}")
    size = picture.size if picture else (0, 0)
    return {"text": text, "boxes": [grounding.to_pixels(box, *size) for box in boxes if picture], **counts}


def show(pieces, said):
    """Print pieces of text as they come and append them to `said`; the line is ended also if Ctrl-C ends the answer."""
    try:
        for piece in pieces:
            said.append(piece)
            print(piece, end="", flush=True)
    finally:
        print(flush=True)


def writable_picture(path):
    """`path` as a Path, or UserError if no picture can be written there: known before the model runs, not after."""
    if path is None:
        return None
    from PIL import Image
    path = Path(path)
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise UserError(f"{path}: no picture format is known by the ending {path.suffix!r}; use .png or .jpg")
    if path.is_dir():
        raise UserError(f"{path}: a folder, not a file to write")
    write_picture(path, Image.new("RGB", (1, 1)), trial=True)
    return path


def write_picture(path, picture, trial=False):
    """Write under a temporary name, which then takes the place of `path`; a trial leaves everything as it was."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        picture.save(temporary)
        if not trial:
            temporary.replace(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


COMMANDS = (ask, caption, ground, chat, learn, scene, eval, train, kernel, info, verify)
