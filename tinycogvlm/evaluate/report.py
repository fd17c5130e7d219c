"""What `tinycogvlm eval` finds out and prints: a model's shares of right answers beside those of the baselines."""
from ..world.scenes import SIDE
from .accuracy import GATES, GROUPS, misses, questions, score
from .asking import ask
from .baselines import baselines

COLUMNS = ("majority", "no picture", "nearest")             # the baselines


def report(model, splits, scenes, compared=True, through=lambda parts, name: parts):
    """({"scenes", "splits": {split: {group: {row: {"share", "low", "high", "n", ...}}}}}, wrong answers)

    A row also has the shares of the baselines that it has, if `compared`, and its gate, if it has one. wrong: (Asked,
    answer) in the order of the table. through(parts, name): see asking.ask.
    """
    side = max(SIDE, model.config.vision.image_size)        # a model of smaller pictures sees them reduced
    tables, wrong = {}, []
    for split in splits:
        asked = questions(split, scenes, side=side)
        said = ask(model, asked, through=lambda parts: through(parts, split))
        table = tables[split] = score(asked, said)
        wrong += [(question, answer) for question, answer in zip(asked, said) if not question.right(answer)]
        columns = {}
        if compared:
            pictured = [question for question in asked if question.scene]
            blind = ask(model, pictured, False, through=lambda parts: through(parts, f"{split}, no picture"))
            columns = {"no picture": score(pictured, blind), **baselines(asked, side=side)}
        for group, rows in table.items():
            for row, cell in rows.items():
                cell |= {name: columns[name][group][row]["share"] for name in COLUMNS
                         if name in columns and group in columns[name]}
                if split == "test" and (group, row) in GATES:
                    cell["gate"] = GATES[group, row]
    return {"scenes": scenes, "splits": tables}, wrong


def text(report):
    """The report in words and aligned Markdown: all columns for one split, for several the model's alone."""
    splits = report["splits"]
    lines = [f"Right answers in per cent, with 95 % intervals; {report['scenes']} scenes of every number of things"]
    first = next(iter(splits.values()))
    for group in GROUPS:
        if group not in first:
            continue
        if len(splits) == 1:
            names = [name for name in (*COLUMNS, "gate") if any(name in cell for cell in first[group].values())]
            rows = [[group, "right", "interval", "questions", *names]]
            rows += [[row, percent(cell["share"]), interval(cell), str(cell["n"]),
                      *(column(cell, name) for name in names)] for row, cell in first[group].items()]
        else:
            rows = [[group, *splits]]
            rows += [[row, *(f"{percent(cell['share'])} ({interval(cell)})" if cell else ""
                             for cell in (table.get(group, {}).get(row) for table in splits.values()))]
                     for row in first[group]]
        lines += ["", *aligned(rows)]
    if "test" in splits:
        missed = len(misses(splits["test"]))
        lines += ["", f"{f'{len(GATES) - missed} of' if missed else 'all'} {len(GATES)} gates are met."]
    return "\n".join(lines)


def progress_bar(parts, name):
    """A bar on stderr while somebody watches."""
    from tqdm import tqdm
    return tqdm(parts, desc=name, disable=None, leave=False)


def column(cell, name):
    if name not in cell:
        return ""
    return percent(cell[name]) + " missed" * (name == "gate" and cell["share"] < cell["gate"])


def percent(share):
    return f"{100 * share:.1f}"


def interval(cell):
    return f"{percent(cell['low'])} - {percent(cell['high'])}"


def aligned(rows):
    """Rows of texts -> lines of a Markdown table; names stand on the left, numbers on the right."""
    widths = [max(map(len, texts)) for texts in zip(*rows)]
    lines = [" | ".join([row[0].ljust(widths[0]), *(t.rjust(w) for t, w in zip(row[1:], widths[1:]))]) for row in rows]
    rule = " | ".join(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return [f"| {line} |" for line in (lines[0], rule, *lines[1:])]
