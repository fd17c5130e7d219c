"""tinycogvlm caption: describe pictures, one line each."""
from ..errors import UserError
from .answer import computing, load_model, load_picture, respond
from .say import echo_json, legible, say_error

QUESTION = "Describe the image."


def run(arguments):
    with computing(arguments):
        return describe(arguments)


def describe(arguments):
    """A line of text or JSON for each picture; one that cannot be read is reported, and the others are described."""
    model, code = load_model(arguments), 0
    for path in arguments.images:
        try:
            picture = load_picture(arguments, path)
        except UserError as error:
            say_error(error)
            code = error.exit_code
            continue
        report = respond(model, arguments, picture, QUESTION, f"{path}: " if len(arguments.images) > 1 else "")
        if arguments.json:
            echo_json({"image": legible(path), **report})
    return code
