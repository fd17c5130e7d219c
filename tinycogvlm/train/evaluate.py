"""How often the first weights are right on unseen scenes:      python -m tinycogvlm.train.evaluate [FOLDER] [--json]

Every scene is asked what is in it, where that is, where something is that is not there, its colour, its shape, and
whether something is there. The same model is asked without the picture; and beside it stands what the best constant
answer gets, which is all that can be had without looking.
"""
import argparse
import json
import sys
from collections import Counter

import numpy as np

from ..generate import answers
from ..load import load
from . import words
from .world import Dice, scene

ROWS = {"name": "What is in the picture?",
        "box": "Where is the ...? It is there: IoU of the box at least 0.5",
        "absent": "Where is the ...? It is not there, and the model says so",
        "near miss": "the same, where colour or shape is right",
        "not denied": "Where is the ...? It is there, and a box comes",
        "there or not": "mean of 'absent' and 'not denied'",
        "colour": "What colour is it?",
        "shape": "What shape is it?",
        "yes or no": "Is there a ...?"}
TOGETHER = 50                                               # questions decoded as one batch


def measure(model, split="test", count=500, picture=True):
    """{row of ROWS: share of right answers} on the first `count` scenes of a split, shown the picture or not."""
    scenes = [scene(split, number) for number in range(count)]
    dice = [Dice("order", number) for number in range(count)]
    others = [words.absent(s, d) for s, d in zip(scenes, dice)]
    asked = [s.name if d.below(2) else other for s, d, other in zip(scenes, dice, others)]

    def ask(questions):
        said = []
        for start in range(0, count, TOGETHER):
            some = slice(start, start + TOGETHER)
            rows = [model.inputs(question, s.picture if picture else None, template="chat")
                    for question, s in zip(questions[some], scenes[some])]
            said += answers(model, rows, words.LONGEST_ANSWER)
        return said

    def right(questions, truths):
        return np.array([answer.text == truth for answer, truth in zip(ask(questions), truths)])
    found = ask([f"Where is the {s.name}?" for s in scenes])
    absent = right([f"Where is the {name}?" for name in others], [f"There is no {name}." for name in others])
    near = np.array([s.colour in name or s.shape in name for s, name in zip(scenes, others)])
    denied = np.array([not answer.boxes for answer in found])
    overlap = [iou(f.boxes[0], s.thousandths) if len(f.boxes) == 1 else 0 for f, s in zip(found, scenes)]
    shares = {"name": right(["What is in the picture?"] * count, [f"{words.a(s.name).capitalize()}." for s in scenes]),
              "box": np.array(overlap) >= 0.5,
              "absent": absent, "near miss": absent[near], "not denied": ~denied,
              "there or not": np.concatenate([absent, ~denied]),
              "colour": right(["What colour is it?"] * count, [f"{s.colour.capitalize()}." for s in scenes]),
              "shape": right(["What shape is it?"] * count, [f"{words.a(s.shape).capitalize()}." for s in scenes]),
              "yes or no": right([f"Is there {words.a(name)}?" for name in asked],
                                 ["Yes." if name == s.name else "No." for name, s in zip(asked, scenes)])}
    return {row: round(float(shares[row].mean()), 4) for row in ROWS}


def constant(split="test", count=500):
    """{row: share} of the best answer that does not depend on the picture; for boxes the median of training scenes."""
    scenes = [scene(split, number) for number in range(count)]
    often = lambda names: Counter(names).most_common(1)[0][1] / count
    median = np.median([scene("train", number).thousandths for number in range(2000)], 0)
    return {"name": often(s.name for s in scenes), "colour": often(s.colour for s in scenes),
            "shape": often(s.shape for s in scenes), "there or not": 0.5, "yes or no": 0.5,
            "box": float(np.mean([iou(median, s.thousandths) >= 0.5 for s in scenes]))}


def iou(a, b):
    """Area of the intersection of two boxes (x0, y0, x1, y1) over that of their union"""
    area = lambda x0, y0, x1, y1: max(0, x1 - x0) * max(0, y1 - y0)
    both = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    return both / (area(*a) + area(*b) - both)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="the weights; by default those that come with tinycogvlm")
    parser.add_argument("--count", type=int, default=500, help="scenes (default 500)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    model, table = load(options.folder), {}
    for column, picture in (("with the picture", True), ("without", False)):
        print(f"asking {options.count} scenes, {column} ...", file=sys.stderr)
        table[column] = measure(model, "test", options.count, picture)
    table["constant answer"] = constant("test", options.count)
    if options.json:
        print(json.dumps({"scenes": options.count, **table}, indent=2))
        return
    print(f"| {options.count} unseen scenes | {' | '.join(table)} |\n|---|{'---|' * len(table)}")
    for row, meaning in ROWS.items():
        shares = [f"{100 * column[row]:.1f} %" if row in column else "" for column in table.values()]
        print(f"| {row}: {meaning} | {' | '.join(shares)} |")


if __name__ == "__main__":
    main()
