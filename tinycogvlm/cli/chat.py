"""tinycogvlm chat: a conversation at the terminal, with or without a picture."""
import sys
from contextlib import suppress

from ..errors import UserError
from ..inputs import image
from .answer import load_model, sampling
from .say import progress, say, say_error, stream

HELP = """\
/image PATH  look at another picture and begin a new conversation
/clear       forget the conversation, keep the picture
/quit        leave, as Ctrl-D does; Ctrl-C stops an answer"""


def run(arguments):
    picture = image.load(arguments.image) if arguments.image else None
    return converse(load_model(arguments), picture, arguments.template, arguments.max_new_tokens, sampling(arguments))


def converse(model, picture, template, max_new_tokens, choose):
    """Read questions from stdin until it ends and print the answers as they come -> exit code"""
    interactive = sys.stdin.isatty()
    if interactive:
        with suppress(ImportError):
            import readline  # noqa: F401                   gives input() editing and history, where it exists
        say("/help lists the commands")
    history = []
    while True:
        try:
            line = input("> " if interactive else "").strip()
        except EOFError:
            progress("")
            return 0
        except KeyboardInterrupt:                           # clears what was typed
            if not interactive:
                raise
            say("")
            continue
        word, _, rest = line.partition(" ")
        try:
            if word == "/quit":
                return 0
            if word == "/clear":
                history = []
            elif word == "/image":
                picture, history = image.load(rest.strip().strip("\"'")), []
            elif word == "/help":
                say(HELP)
            elif word.startswith("/"):
                raise UserError(f"no command {word}\n{HELP}")
            elif line:
                said, pieces = [], model.stream(picture, line, history, template, max_new_tokens, **choose)
                with suppress(KeyboardInterrupt):           # what was said so far then counts as the answer
                    stream(pieces, said)
                history.append((line, "".join(said)))
        except UserError as error:
            say_error(error)
