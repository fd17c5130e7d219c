"""A conversation at the terminal, about a picture or about none."""
import sys
from contextlib import suppress

from ..errors import UserError
from ..inputs import image
from . import main

HELP = """\
/image PATH  look at another picture; the conversation begins anew
/clear       forget the conversation, keep the picture
/quit        end, as Ctrl-D does; Ctrl-C stops an answer"""


def chat(model, picture, template, max_new_tokens, sampling):
    """Read questions from stdin until it ends, print the answers as they come; returns the exit code."""
    interactive = sys.stdin.isatty()
    if interactive:
        with suppress(ImportError):
            import readline  # noqa: F401                   editing and history for input(), where there is one
        main.say("/help lists the commands")
    history = []
    while True:
        try:
            line = input("> " if interactive else "").strip()
        except EOFError:
            main.progress("")
            return 0
        except KeyboardInterrupt:                           # clears what was typed
            if not interactive:
                raise
            main.say("")
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
                main.say(HELP)
            elif word.startswith("/"):
                raise UserError(f"no command {word}\n{HELP}")
            elif line:
                said, pieces = [], model.stream(picture, line, history, template, max_new_tokens, **sampling)
                with suppress(KeyboardInterrupt):           # what was said so far then counts as the answer
                    main.show(pieces, said)
                history.append((line, "".join(said)))
        except UserError as error:
            main.fail(error)
