"""tinycogvlm chat: a conversation at the terminal, with or without a picture."""
import os
import sys
from contextlib import suppress

from ..errors import UserError
from ..model.generate import ContextFull
from .answer import computing, load_model, load_picture, sampling, say_if_cut
from .say import ask_for_line, progress, say, say_error, show

HELP = """\
/image PATH  look at another picture and begin a new conversation
/clear       forget the conversation, keep the picture
/quit        leave, as Ctrl-D does; Ctrl-C stops an answer"""


def run(arguments):
    with computing(arguments):
        return converse(arguments)


def converse(arguments):
    """Read questions from stdin until it ends and print the answers as they come -> exit code"""
    picture = load_picture(arguments, arguments.image) if arguments.image else None
    model, choose = load_model(arguments), sampling(arguments)
    interactive = sys.stdin.isatty()
    if interactive:
        with suppress(ImportError):
            import readline  # noqa: F401                   gives input() editing and history, where it exists
        say("/help lists the commands")
    history, code = [], 0
    while True:
        try:
            line = ask_for_line("> " if interactive else "").strip()
            word, _, rest = line.partition(" ")
            if word == "/quit":
                return code
            if word == "/clear":
                history = []
            elif word == "/image":
                path = os.path.expanduser(rest.strip().strip("\"'"))       # no shell has done it
                if not path:
                    raise UserError("/image needs the path of a picture")
                picture, history = load_picture(arguments, path), []
            elif word == "/help":
                say(HELP)
            elif word.startswith("/"):
                raise UserError(f"no command {word}\n{HELP}")
            elif line:
                said, pieces = [], model.stream(
                    picture, line, history, arguments.template, arguments.max_new_tokens, **choose)
                try:
                    show(pieces, said)
                except KeyboardInterrupt:                   # what was said so far then counts as the answer
                    if not interactive:
                        raise
                    if not said:
                        say("")                             # after the terminal's ^C
                history.append((line, "".join(said)))
                say_if_cut(pieces, arguments, "; /clear forgets the conversation")
        except EOFError:
            progress("")
            return code
        except KeyboardInterrupt:                           # clears what was typed
            if not interactive:
                raise
            say("")
        except UserError as error:
            say_error(f"{error}; /clear forgets the conversation" if isinstance(error, ContextFull) else error)
            code = 0 if interactive else error.exit_code    # a script that pipes its questions in should know
