"""tinycogvlm caption: describe pictures, one line each, or a whole data set into a file."""
import re
import sys
import time

from ..captions import items
from ..captions.settings import LIMIT, Settings
from ..errors import UsageError, UserError
from ..inputs.prompt import CAPTION_WITH_BOXES
from .answer import computing, load_model, load_picture, model_arguments, respond, sampling
from .say import as_utf8, echo_json, say, say_error

QUESTION = "Describe the image."
TAKEN = ("image", "boxes", "tokens", "finish", "error", "key")              # columns that are not a prompt's
ONLY_WITH_OUT = ("trim", "text_files", "batch", "retries", "workers", "shard", "engine")


def run(arguments):
    if arguments.mine and (arguments.workers or arguments.engine):
        raise UsageError("--mine runs your functions in this process; leave out --workers and --engine")
    with computing(arguments):
        return to_file(arguments) if arguments.out else describe(arguments)


def describe(arguments):
    """A line of text or JSON for each picture; one that cannot be read is reported, and the others are described."""
    for name in ONLY_WITH_OUT:
        if getattr(arguments, name):
            raise UsageError(f"--{name.replace('_', '-')} is for captions in a file: name it with --out")
    asked = Settings(prompts(arguments))
    if len(asked.prompts) > 1:
        raise UsageError("several prompts need columns to stand in: write the captions to a file with --out")
    found = pictures(arguments)
    model, code = load_model(arguments), 0
    for item in found:
        try:
            [question] = asked.questions(item).values()
            picture = load_picture(arguments, item.path if type(item) is items.Item else item.file())
        except UserError as error:
            say_error(error)
            code = error.exit_code
            continue
        report = respond(model, arguments, picture, question, f"{item.image}: " if len(found) > 1 else "")
        if arguments.json:
            echo_json({"image": item.image, **report})
    return code


def to_file(arguments):
    """A row for each picture into --out; exit code 1 if one has failed."""
    from ..captions.run import run as captioned
    settings = Settings(prompts(arguments), model_arguments(arguments), sampling(arguments), arguments.template,
                        arguments.rescale, arguments.max_new_tokens or LIMIT,
                        2 if arguments.retries is None else arguments.retries, arguments.boxes, arguments.trim,
                        arguments.batch or 16)
    ray = None if arguments.engine is None else arguments.engine.partition("=")[2]
    try:
        report = captioned(pictures(arguments), settings, arguments.out, teller(), arguments.workers or 1,
                           arguments.shard or (0, 1), arguments.text_files, ray)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; the same command goes on where it is, from {arguments.out}.parts") from None
    if arguments.json:
        echo_json(report)
    else:
        say(sentence(report))
    return int(report["failed"] > 0 or report.get("texts_kept", 0) > 0)


def pictures(arguments):
    """The items that the command line names; "-" is a list on stdin, one picture a line."""
    lines = []
    if "-" in arguments.data:
        lines = [as_utf8(line, sys.stdin.encoding).removeprefix("\ufeff") for line in sys.stdin]
    return items.listed(arguments.data, lines)


def prompts(arguments):
    """{column: prompt} of every --prompt TEXT or NAME=TEXT"""
    found = {}
    for text in arguments.prompt or [CAPTION_WITH_BOXES if arguments.boxes else QUESTION]:
        named = re.match(r"([A-Za-z_]\w*)=(.*)", text, re.DOTALL)
        column, prompt = named.groups() if named else ("caption", text)
        if column in TAKEN:
            raise UsageError(f"--prompt {column}=: this column has another meaning; take another name")
        if column in found:
            raise UsageError(f"two prompts for the column {column!r}; name them: --prompt short=... --prompt long=...")
        if not prompt.strip():
            raise UsageError(f"the prompt for the column {column!r} has no words; is a variable not set?")
        found[column] = prompt
    return found


def teller():
    """Says sentences; of those on progress one a second to a person, and one a minute to a log."""
    said, pause = [time.monotonic()], 1 if sys.stderr.isatty() else 60

    def tell(sentence, passing):
        if not passing:
            say(f"tinycogvlm: {sentence}")
        elif time.monotonic() - said[0] >= pause:
            said[0] = time.monotonic()
            say(sentence)
    return tell


def sentence(report):
    """The report in words"""
    speed = report["new"] / max(report["seconds"], 1e-9)
    text = (f"{report['out']}: {counted(report['pictures'], 'picture')}; {report['new']:,} captioned now, {speed:.3g}/s; "
            f"{report['failed']:,} failed")
    if report["shards_left"]:
        return f"{text}; {counted(report['shards_left'], 'shard')} left to others"
    counts = [f"{report[name]:,} {words}" for name, words in
              (("cut", "cut"), ("repeating", "repeating themselves"), ("texts_kept", "not written to a .txt"))
              if report.get(name)]
    return "; ".join([text, *counts])


def counted(number, noun):
    return f"{number:,} {noun}{'s' * (number != 1)}"
