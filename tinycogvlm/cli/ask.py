"""tinycogvlm ask: answer a question about a picture."""
from ..errors import UsageError
from .answer import answer_and_draw, load_picture
from .say import say


def run(arguments):
    if arguments.out and arguments.image == "-":
        raise UsageError('--out needs a picture; IMAGE is "-"')
    if arguments.mine and (arguments.kernels or arguments.device != "cpu"):
        raise UsageError("--mine runs your functions on the CPU; leave out --kernels and --device")
    picture = None if arguments.image == "-" else load_picture(arguments, arguments.image)
    if not arguments.mine:
        return answer_and_draw(arguments, picture, lambda model: arguments.question)
    from ..learn import parts
    with parts.installed(parts.mine(runs="answer")) as functions:
        code = answer_and_draw(arguments, picture, lambda model: arguments.question)
    say(f"{parts.sentence(functions)}; {parts.calls(functions)}")
    return code
