"""tinycogvlm ground: find something in a picture."""
from ..inputs import image, prompt
from .answer import answer_and_draw

WHERE = "Where is {phrase}?"                                # what the chat templates were trained on


def run(arguments):
    def question(model):
        template = arguments.template or prompt.default_template(model.config)
        return (prompt.BOX_OF_PHRASE if template == "base" else WHERE).format(phrase=arguments.phrase)
    return answer_and_draw(arguments, image.load(arguments.image), question, arguments.phrase)
