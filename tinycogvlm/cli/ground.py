"""tinycogvlm ground: find something in a picture."""
from ..inputs import prompt
from .answer import answer_and_draw, computing, load_picture

WHERE = "Where is {phrase}?"                                # what the chat templates were trained on


def run(arguments):
    def question(model):
        template = arguments.template or prompt.default_template(model.config)
        return (prompt.BOX_OF_PHRASE if template == "base" else WHERE).format(phrase=arguments.phrase)
    with computing(arguments):
        return answer_and_draw(arguments, load_picture(arguments, arguments.image), question, arguments.phrase)
