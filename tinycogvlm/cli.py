"""The commands: tinycogvlm ask, caption, ground, chat, info, verify.

Answers go to stdout, everything else to stderr. Exit codes: 0 fine, 1 what was asked failed, 2 usage, 130 Ctrl-C.
"""
import argparse
import json
import os
import re
import sys
import time
from contextlib import suppress
from pathlib import Path

from . import generate, grounding, image, prompt
from .errors import UserError
from .load import ROTARY, load

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
            arguments = parser().parse_args(argv)
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
        streams = getattr(arguments, "stream", False)
        return fail("not enough memory; " + ("a smaller --image-size or --max-new-tokens needs less" if streams else
                                             "with --stream only a few blocks of the model are in memory"))
    except KeyboardInterrupt:
        say("")
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
    picture = None if arguments.image == "-" else image.load(arguments.image)
    return answer(arguments, picture, lambda model: arguments.question)


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


def info(arguments):
    from .info import info, table
    report = info(arguments.folder)
    print(json.dumps(report) if arguments.json else table(report))
    return 0


def verify(arguments):
    from .verify import verify
    report = verify(arguments.folder)
    print(json.dumps(report.to_dict()) if arguments.json else report.table())
    return 0 if report.ok else 1


# What they share

def load_model(arguments):
    progress("loading the model ...")
    return load(arguments.weights, arguments.device, arguments.dtype, arguments.stream, arguments.tokenizer,
                arguments.rotary, arguments.image_size)


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


# The command line

def parser():
    top = argparse.ArgumentParser(prog="tinycogvlm", description="Ask CogVLM about pictures.")
    top.add_argument("--version", action=Version, nargs=0, dest=argparse.SUPPRESS, help="print the version")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def command(run, description, *parents):
        added = commands.add_parser(run.__name__, help=description, description=description, parents=parents)
        added.set_defaults(command=run, usage=added.error)
        return added

    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON, sizes and boxes in plain numbers")
    model = model_options()

    added = command(ask, "answer a question about a picture", model, as_json)
    added.add_argument("image", metavar="IMAGE", help="the picture's file, or - to ask without a picture")
    added.add_argument("question", metavar="QUESTION")
    added.add_argument("--out", metavar="FILE", help="draw the answer's boxes on the picture")

    added = command(caption, "describe pictures, a line each", model, as_json)
    added.add_argument("images", metavar="IMAGE", nargs="+")

    added = command(ground, "find something in a picture", model, as_json)
    added.add_argument("image", metavar="IMAGE")
    added.add_argument("phrase", metavar="PHRASE", help="what to find, such as 'the red star'")
    added.add_argument("--out", metavar="FILE", help="draw its box on the picture")

    added = command(chat, "talk, about a picture or about none", model)
    added.add_argument("image", metavar="IMAGE", nargs="?")

    added = command(info, "geometry, parameters, bytes and memory of a model", as_json)
    added.add_argument("folder", metavar="FOLDER", help="with a config.json; the weights may be missing")

    added = command(verify, "compare with the original's recorded tensors and words", as_json)
    added.add_argument("folder", metavar="FOLDER", help="laid out as the cases in tests/golden")
    return top


def model_options():
    """Which model, how it computes, how it chooses its words."""
    options = argparse.ArgumentParser(add_help=False)
    group = options.add_argument_group("model")
    group.add_argument("--weights", metavar="FOLDER", help="a CogVLM folder (default: the model that comes along)")
    group.add_argument("--tokenizer", metavar="PATH", help="tokenizer.json or tokenizer.model, if not in the folder")
    group.add_argument("--template", choices=prompt.TEMPLATES, help="by default what the model was trained on")
    group.add_argument("--image-size", metavar="PIXELS", type=whole(1), help="other than the model's own")
    group.add_argument("--device", type=device, default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    group.add_argument("--dtype", choices=("float32", "float64", "float16"), default="float32",
                       help="of the arithmetic; float16 on a GPU only (default: float32)")
    group.add_argument("--stream", action="store_true", help="keep only a few blocks in memory, read the others again")
    group.add_argument("--rotary", choices=ROTARY, default="auto", help="where rotary tables come from (default: auto)")
    group = options.add_argument_group("sampling")
    group.add_argument("--max-new-tokens", metavar="N", type=whole(1), help="by default 2048 or what the context holds")
    group.add_argument("--temperature", metavar="T", type=number("temperature"), default=0.0,
                       help="0 takes the best token (default: 0)")
    group.add_argument("--top-k", metavar="K", type=whole(1), help="draw from the K best tokens")
    group.add_argument("--top-p", metavar="P", type=number("top_p"), help="draw from the best that have probability P")
    group.add_argument("--repetition-penalty", metavar="X", type=number("repetition_penalty"), default=1.0,
                       help="above 1: avoid tokens that were there (default: 1)")
    group.add_argument("--seed", metavar="N", type=whole(0), default=0, help="of the draws (default: 0)")
    return options


def whole(lowest):
    def convert(text):
        if not re.fullmatch("[0-9]{1,18}", text) or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {lowest} or more")
        return int(text)
    return convert


def number(name):
    """A number that Sampling takes by this name."""
    def convert(text):
        try:
            return getattr(generate.Sampling(**{name: float(text)}), name)
        except ValueError as error:                         # UserError is one
            raise argparse.ArgumentTypeError(str(error)) from None
    return convert


def device(text):
    if not re.fullmatch("cpu|cuda(:[0-9]{1,4})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not cpu, cuda or cuda:N")
    return text


class Version(argparse.Action):
    def __call__(self, parser, *_):
        from importlib.metadata import PackageNotFoundError, version
        try:
            print(f"tinycogvlm {version('tinycogvlm')}")
        except PackageNotFoundError:
            print("tinycogvlm, run from its folder without being installed")
        parser.exit()
