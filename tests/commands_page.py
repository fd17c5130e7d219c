"""The tables of docs/commands.md that list options, made from the parser:      python tests/commands_page.py --fix"""
import argparse
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"
BEGIN = "## Options\n"


def commands(parser, name=""):
    """(name, parser) of every command and of the commands below it"""
    below = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    yield name, parser
    for choices in below:
        for word, child in choices.items():
            yield from commands(child, f"{name} {word}".strip())


def tables(parser):
    """Markdown: options in the parser's order, those of the same commands in one table."""
    of = {}                                                 # {row of a table: names of commands}
    for name, command in commands(parser):
        for action in command._actions:
            if action.option_strings and action.help not in (None, argparse.SUPPRESS) and action.dest != "help":
                choices = "|".join(map(str, action.choices or ()))
                value = action.metavar or choices.replace("|", "\\|")
                option = f"{action.option_strings[-1]} {value}".strip()
                of.setdefault(f"| `{option}` | {action.help % vars(action)} |", []).append(name)
    groups = {}
    for row, names in of.items():
        groups.setdefault(tuple(names), []).append(row)
    return "\n\n".join("| " + (", ".join(f"`{name}`" for name in names if name) or "without a command") + " | |\n|---|---|\n"
                       + "\n".join(rows) for names, rows in groups.items()) + "\n"


if __name__ == "__main__":
    from tinycogvlm.cli.options import parser
    text = PAGE.read_text(encoding="utf-8")
    if sys.argv[1:] != ["--fix"]:
        sys.exit(__doc__)
    PAGE.write_text(text.partition(BEGIN)[0] + BEGIN + "\n" + tables(parser()), encoding="utf-8")
