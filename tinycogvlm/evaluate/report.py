"""The report of `tinycogvlm eval`: a model's shares of right answers beside those of the baselines."""
from ..errors import UserError
from ..inputs.prompt import NO_EYES
from ..world.scenes import SIDE
from . import baselines
from .accuracy import GATES, GROUPS, misses, questions, score
from .asking import ask

COLUMNS = ("majority", "no picture", "nearest")             # the baselines, of plain scenes


def evaluate(model, splits, count, compared=True, through=lambda parts, name: parts):
    """({"scenes", "splits": {split: {group: {row: {"share", "low", "high", "n", ...}}}}}, wrong answers)

    If `compared`, a row about plain scenes also has the shares of the baselines; and a row has "least" and "aim", if
    there is a gate. wrong: (Asked, answer) in the order of the table. through(parts, name): see asking.ask.
    """
    if not model.config.vision:
        raise UserError(NO_EYES)
    side = max(SIDE, model.config.vision.image_size)        # a model of smaller pictures gets them reduced
    tables, wrong = {}, []
    for split in splits:
        asked = questions(split, count, side=side)
        said = ask(model, asked, through=lambda parts, split=split: through(parts, split))
        wrong += [(question, answer) for question, answer in zip(asked, said) if not question.right(answer)]
        tables[split] = score(asked, said)
        if compared:
            blind = f"{split}, no picture"
            add_baselines(tables[split], model, asked, side, lambda parts, name=blind: through(parts, name))
        if split in ("test", "check"):                      # what is chosen on "check" is measured on "test"
            for (group, row), (least, aim) in GATES.items():
                if row in tables[split].get(group, {}):
                    tables[split][group][row] |= {"least": least, "aim": aim}
    return {"scenes": count, "splits": tables}, wrong


def add_baselines(table, model, asked, side, through):
    """Put the shares of the baselines into the rows about plain scenes."""
    groups = [group for group in GROUPS if group.plain and group.name in table]
    plain = [question for question in asked if question.group in {group.name for group in groups}]
    columns = {"no picture": score(plain, ask(model, plain, False, through)),
               **baselines.measure(plain, groups, side=side)}
    for group in groups:
        for row, cell in table[group.name].items():
            cell |= {name: columns[name][group.name][row]["share"] for name in COLUMNS}


def text(report, gates=GATES):
    """The report in words and aligned Markdown: all columns for one split, the model's alone for several."""
    splits = report["splits"]
    lines = [f"Right answers in per cent, with 95 % intervals; {report['scenes']} pictures or texts for every row"]
    for group in dict.fromkeys(group for table in splits.values() for group in table):
        rows = one_split(group, *(table[group] for table in splits.values())) if len(splits) == 1 else \
            side_by_side(group, splits)
        lines += ["", *aligned(rows)]
    if "test" in splits:
        missed = len(misses(splits["test"], gates))
        lines += ["", f"{f'{len(gates) - missed} of' if missed else 'all'} {len(gates)} gates are met."]
    return "\n".join(lines)


def one_split(group, cells):
    """The rows of a group's table, with gates and baselines"""
    gates = [("at least", "least"), ("aim", "aim")] if any("aim" in cell for cell in cells.values()) else []
    names = gates + [(name, name) for name in COLUMNS if any(name in cell for cell in cells.values())]
    return [[group, "right", "interval", "questions", *(head for head, _ in names), *["gate"][:len(gates)]],
            *([row, percent(cell["share"]), interval(cell), str(cell["n"]),
               *(percent(cell[name]) if name in cell else "" for _, name in names), *[verdict(cell)][:len(gates)]]
              for row, cell in cells.items())]


def side_by_side(group, splits):
    """The rows of a group's table, a column for each split"""
    rows = [[group, *splits]]
    for row in dict.fromkeys(row for table in splits.values() for row in table.get(group, {})):
        cells = [table.get(group, {}).get(row) for table in splits.values()]
        rows.append([row, *(f"{percent(cell['share'])} ({interval(cell)})" if cell else "" for cell in cells)])
    return rows


def verdict(cell):
    """Whether a gate is met, missed, or even its aim is"""
    if "aim" not in cell:
        return ""
    return "missed" if cell["share"] < cell["least"] else "met" if cell["share"] < cell["aim"] else "aim met"


def progress_bar(parts, name):
    """A bar on stderr, if that is a terminal."""
    from tqdm import tqdm
    return tqdm(parts, desc=name, disable=None, leave=False)


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
