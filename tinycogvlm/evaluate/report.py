"""The report of `tinycogvlm eval`: a model's shares of right answers beside those of the baselines."""
from ..errors import UserError
from ..inputs.prompt import NO_EYES
from ..world.scenes import SIDE
from . import baselines
from .accuracy import GATES, GROUPS, misses, questions, score
from .asking import ask

COLUMNS = ("majority", "no picture", "nearest")             # the baselines


def evaluate(model, splits, scenes, compared=True, through=lambda parts, name: parts):
    """({"scenes", "splits": {split: {group: {row: {"share", "low", "high", "n", ...}}}}}, wrong answers)

    If `compared`, a row also has the shares of those baselines that have this row; and a row has its gate, if there is
    one. wrong: (Asked, answer) in the order of the table. through(parts, name): see asking.ask.
    """
    if not model.config.vision:
        raise UserError(NO_EYES)
    side = max(SIDE, model.config.vision.image_size)        # a model of smaller pictures gets them reduced
    tables, wrong = {}, []
    for split in splits:
        asked = questions(split, scenes, side=side)
        said = ask(model, asked, through=lambda parts, split=split: through(parts, split))
        wrong += [(question, answer) for question, answer in zip(asked, said) if not question.right(answer)]
        tables[split] = score(asked, said)
        if compared:
            blind = f"{split}, no picture"
            add_baselines(tables[split], model, asked, side, lambda parts, name=blind: through(parts, name))
        if split == "test":
            for (group, row), gate in GATES.items():
                if row in tables[split].get(group, {}):
                    tables[split][group][row]["gate"] = gate
    return {"scenes": scenes, "splits": tables}, wrong


def add_baselines(table, model, asked, side, through):
    """Put the shares of the baselines into the rows of a table."""
    pictured = [question for question in asked if question.scene]
    columns = {"no picture": score(pictured, ask(model, pictured, False, through)),
               **baselines.measure(asked, side=side)}
    for group, rows in table.items():
        for row, cell in rows.items():
            cell |= {name: columns[name][group][row]["share"] for name in COLUMNS if group in columns[name]}


def text(report):
    """The report in words and aligned Markdown: all columns for one split, the model's alone for several."""
    splits = report["splits"]
    lines = [f"Right answers in per cent, with 95 % intervals; {report['scenes']} scenes of every number of things"]
    first = next(iter(splits.values()))
    for group in GROUPS:
        if group in first:
            rows = one_split(group, first[group]) if len(splits) == 1 else side_by_side(group, splits)
            lines += ["", *aligned(rows)]
    if "test" in splits:
        missed = len(misses(splits["test"]))
        lines += ["", f"{f'{len(GATES) - missed} of' if missed else 'all'} {len(GATES)} gates are met."]
    return "\n".join(lines)


def one_split(group, cells):
    """The rows of a group's table, with baselines and gates"""
    names = [name for name in (*COLUMNS, "gate") if any(name in cell for cell in cells.values())]
    return [[group, "right", "interval", "questions", *names],
            *([row, percent(cell["share"]), interval(cell), str(cell["n"]), *(column(cell, name) for name in names)]
              for row, cell in cells.items())]


def side_by_side(group, splits):
    """The rows of a group's table, a column for each split"""
    rows = [[group, *splits]]
    for row in next(iter(splits.values()))[group]:
        cells = [table.get(group, {}).get(row) for table in splits.values()]
        rows.append([row, *(f"{percent(cell['share'])} ({interval(cell)})" if cell else "" for cell in cells)])
    return rows


def progress_bar(parts, name):
    """A bar on stderr, if that is a terminal."""
    from tqdm import tqdm
    return tqdm(parts, desc=name, disable=None, leave=False)


def column(cell, name):
    if name not in cell:
        return ""
    missed = name == "gate" and cell["share"] < cell["gate"]
    return f"{percent(cell[name])} missed" if missed else percent(cell[name])


def percent(share):
    return f"{100 * share:.1f}"


def interval(cell):
    return f"{percent(cell['low'])} - {percent(cell['high'])}"


def aligned(rows):
    """Rows of texts -> the lines of a Markdown table: names on the left, numbers right-aligned."""
    widths = [max(map(len, texts)) for texts in zip(*rows)]
    lines = [" | ".join([row[0].ljust(widths[0]), *(t.rjust(w) for t, w in zip(row[1:], widths[1:]))]) for row in rows]
    rule = " | ".join(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return [f"| {line} |" for line in (lines[0], rule, *lines[1:])]
