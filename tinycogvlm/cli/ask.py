"""tinycogvlm ask: answer a question about a picture."""
from ..errors import UsageError
from .answer import answer_and_draw, computing, load_picture


def run(arguments):
    if arguments.out and arguments.image == "-":
        raise UsageError('--out needs a picture; IMAGE is "-"')
    with computing(arguments):
        picture = None if arguments.image == "-" else load_picture(arguments, arguments.image)
        return answer_and_draw(arguments, picture, lambda model: arguments.question)
