"""A language model's own chat template: a program in Jinja that comes with its tokenizer, run as transformers runs it.

Only the template places special tokens. Text of the user's that spells one, such as "<|im_end|>", is marked before the
template sees it and becomes ordinary tokens, so that nobody can end a turn by typing it.
"""
import json
import re
from functools import cached_property
from pathlib import Path

from ..errors import UserError
from ..storage import gguf, reading
from .prompt import Token

FILES = "chat_template.jinja", "tokenizer_config.json"         # beside tokenizer.json
MARK, PICTURE = "\ufdd0", "\ufdd1"                          # no characters: Unicode keeps them for a program's own use


class ChatTemplate:
    """template(query, history) -> parts as in prompt.TEMPLATES: text, pictures, and prompt.Token for special tokens.

    source: the program. tokens: {special token as it is written: id}. names: {"bos_token": as it is written, ...}, which
    the program may use.
    """

    def __init__(self, source, tokens, names):
        self.source, self.tokens, self.names = source, tokens, names
        self.special = re.compile("|".join(map(re.escape, sorted([*tokens, PICTURE], key=len, reverse=True))))

    @cached_property
    def template(self):
        """The program, compiled when it is first used"""
        try:
            from jinja2 import TemplateError
            from jinja2.ext import loopcontrols
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError:
            raise UserError("the chat template needs the package jinja2: pip install 'tinycogvlm[real]'; `ask` and "
                            "`chat` can do without it, with --template base, which continues a text") from None

        def refuse(reason):
            raise TemplateError(reason)
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
        environment.globals["raise_exception"] = refuse
        try:
            return environment.from_string(self.source)
        except TemplateError as error:
            raise UserError(f"the chat template is damaged ({error})") from None

    def __call__(self, query, history=()):
        said = [content if isinstance(content, (list, tuple)) else [content]
                for turn in (*history, (query,)) for content in turn]
        pictures = iter([part for content in said for part in content if not isinstance(part, str)])
        messages = [{"role": ("user", "assistant")[i % 2], "content": "".join(map(self._marked, content))}
                    for i, content in enumerate(said)]
        template = self.template
        try:
            text = template.render(messages=messages, add_generation_prompt=True, **self.names)
        except Exception as error:                          # whatever a stranger's program comes to
            raise UserError(f"the chat template refuses this conversation ({error})") from None
        parts, end = [], 0
        for found in self.special.finditer(text):
            token = next(pictures) if found.group() == PICTURE else Token(self.tokens[found.group()])
            parts += [text[end:found.start()], token]
            end = found.end()
        parts = [part.replace(MARK, "") if isinstance(part, str) else part for part in (*parts, text[end:])]
        return [part for part in parts if not isinstance(part, str) or part]

    def _marked(self, part):
        """A text in which no special token is spelled; the mark of a picture"""
        if not isinstance(part, str):
            return PICTURE
        return self.special.sub(lambda found: found.group()[0] + MARK + found.group()[1:],
                                part.replace(MARK, "").replace(PICTURE, ""))


def source(path):
    """The program that comes with a tokenizer, in a .gguf file, or beside tokenizer.json; None if there is none."""
    path = Path(path)
    if path.suffix == ".gguf":
        return _text(gguf.read(path)[0].get("tokenizer.chat_template"), path)
    folder = path if path.is_dir() else path.parent
    program, settings = (folder / name for name in FILES)
    if program.exists():
        return reading.read_text(program)
    found = reading.read_json(settings).get("chat_template") if settings.exists() else None
    if isinstance(found, list):                             # several, by their names
        found = next((each.get("template") for each in found if isinstance(each, dict) and each.get("name") == "default"),
                     None)
    return _text(found, settings)


def _text(found, path):
    """A template, or None; UserError for what is neither"""
    if not isinstance(found, (str, type(None))):
        raise UserError(f"{path}: the chat template is {reading.short(found)}, not a text")
    return found
