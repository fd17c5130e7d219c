"""tinycogvlm learn: the steps of the course."""
import inspect
import math
import os
import re
import sys
import textwrap
import time
from pathlib import Path

from ..errors import UserError
from ..kernels.runner import build
from ..learn import book, notebook, parts, process
from ..learn.course import HINTS, Mine, lesson, lessons, read
from ..learn.curve import curve
from ..learn.experiments import EXPERIMENTS, QUESTIONS
from ..learn.learner import source, written
from ..learn.lessons import EXERCISES
from ..loading import load as load_model
from ..storage import atomic
from .say import echo, progress

# For each function, or kernel, that is checked; for the answers
SECONDS = {"check": 20, "kernel": 60, "show": 120, "try": 240, "train": 60}
WIDTH = 100                                                 # characters of a line of explanation


def run(arguments):
    """Carry out one step -> exit code: 1 if a check fails."""
    mine, step = Mine(), STEPS[arguments.step]
    if arguments.step in (None, "train"):
        return step(mine)
    if arguments.step == "book":
        return step(arguments.out or mine.folder / "book")
    if arguments.lesson:
        chosen = lesson(arguments.lesson)
    elif not (chosen := mine.current()):
        following = mine.next()
        raise UserError("every lesson passes" if not following else
                        f"no lesson is under way; start with: tinycogvlm learn start {following.number}")
    if arguments.step == "experiment":
        return step(chosen, arguments.number)
    if arguments.step == "notebook":
        return step(mine, chosen)
    if chosen.exercise is None:
        raise UserError(f"lesson {chosen.number} has no exercise; read {shown(chosen.folder / 'README.md')}")
    if arguments.step != "start" and not mine.begun(chosen):
        older = [f"; your {mine.file(found).name} is lesson {found.number} now" for found in lessons()
                 if mine.begun(found) and mine.file(found).name.startswith(f"{chosen.number}_")]
        raise UserError(f"lesson {chosen.number} is not started: tinycogvlm learn start {chosen.number}{''.join(older)}")
    if arguments.step in ("check", "watch") and is_cuda(chosen) and (why_not := build.cpu_runner()):
        raise UserError(f"what you write in lesson {chosen.number} cannot be checked here: {why_not}")
    mine.note_lesson(chosen)
    if arguments.step in ("hint", "solution"):
        return step(mine, chosen, function(mine, chosen, arguments.function))
    return step(mine, chosen)


def is_cuda(lesson):
    return lesson.exercise.suffix == ".cu"


def function(mine, lesson, name):
    """The function that is meant, by default the first that has not passed."""
    if name is None:
        passed = mine.progress["passed"]
        return next((name for name in lesson.functions if name not in passed), None)
    if name not in lesson.functions:
        raise UserError(f"lesson {lesson.number} has no function {name}; it has {', '.join(lesson.functions)}")
    return name


# The steps: the learner's folder, a lesson -> exit code

def status(mine):
    passed, total = mine.progress["passed"], 0
    for found in lessons():
        names = list(found.functions)
        done = [name for name in names if name in passed]
        total += len(names)
        mark = "+" if names and len(done) == len(names) else "." if mine.begun(found) else " "
        count = f"{len(done)} of {len(names)}" if names else "to read"
        echo(f"{mark} {found.number} {found.title:<28} {count:<8} {' '.join(done)}".rstrip())
    known = [name for found in lessons() for name in found.functions if name in passed]
    echo(f"\n+ all pass, . started; {len(known)} of {total} functions pass")
    following = mine.current() or mine.next()
    if not following:
        echo("\nEvery exercise passes. Ask the model through your own code: tinycogvlm ask --mine IMAGE QUESTION")
    elif mine.begun(following):
        left = next(name for name in following.functions if name not in passed)
        echo(f"\nnext: write {left} in {mine.file(following)}, then: tinycogvlm learn check")
    else:
        readings = [found for found in lessons() if not found.exercise and found.number < following.number]
        unread = readings if not any(map(mine.begun, lessons())) else []            # nothing has been started yet
        read = ", ".join(shown(found.folder / "README.md") for found in [*unread, following])
        echo(f"\nnext: read {read}, then: tinycogvlm learn start {following.number}")
    return 0


def start(mine, lesson):
    if mine.start(lesson):
        echo(f"{mine.file(lesson)} is yours")
        echo(wrapped(f"write {', '.join(lesson.functions)}, then: tinycogvlm learn check {lesson.number}"))
    else:
        added = extend(mine.file(lesson), lesson)
        stays = f"has new functions at its end, {', '.join(added)}; the rest" if added else "exists and"
        echo(f"{mine.file(lesson)} {stays} stays as it is; tinycogvlm learn reset {lesson.number} starts over")
    return 0


def extend(file, lesson):
    """Add the exercise's functions that a learner's Python file lacks, as a lesson may get more -> their names"""
    if file.suffix != ".py":
        return []
    lacking = [name for name in lesson.functions if name not in written(file)]
    exercise = lesson.exercise.read_text(encoding="utf-8")
    stubs = "".join(f"\n\n\n{definition(exercise, name)[1]}" for name in lacking)
    if lacking:
        atomic.write(file, read(file).rstrip() + f"{stubs}\n".encode())
    return lacking


def check(mine, lesson):
    """Check every function; if all pass, or one that had not before, show the model through them."""
    echo(f"{lesson.number} {lesson.title}: {mine.file(lesson)}")
    if is_cuda(lesson):
        build.machine()                                     # here, so that what it says is not taken for the learner's
    digest = mine.digest(lesson)
    outcome = process.run("check", mine, lesson, SECONDS["kernel" if is_cuda(lesson) else "check"])
    passes = dict.fromkeys(lesson.functions, False)
    for row in outcome.rows:
        if row["name"]:
            passes[row["name"]] = row["state"] == "passes"
        echo(f"  {row['name'] or 'the file':<22} {row['state']}")
        indented(row["lines"])
    indented(outcome.lines)
    if outcome.printed.strip():
        echo("  your code printed:")
        indented(outcome.printed.rstrip().splitlines()[:20])
    before = mine.progress["passed"]
    mine.note_checked(lesson, passes, digest)
    agrees = True
    if all(passes.values()) or any(passes[name] and name not in before for name in passes):
        agrees = show(mine, lesson)
    if all(passes.values()) and not agrees:
        return 1
    if all(passes.values()):
        if lesson.name == "training":
            echo("\nTrain a small model for about a minute through your own code: tinycogvlm learn train")
        if lesson.name in EXPERIMENTS:
            echo(f"\nChange the model and guess what it says: tinycogvlm learn experiment {lesson.number}")
        if following := mine.next():
            echo(f"\nLesson {lesson.number} passes. Next: {shown(following.folder / 'README.md')}")
        return 0
    left = next(name for name in passes if not passes[name])
    if any(row["state"] == "wrong" and row["name"] and EXERCISES[row["name"]].part for row in outcome.rows):
        echo(f"\nWhat the model says through your code as it is: tinycogvlm learn try {lesson.number}")
    if any(row["name"] for row in outcome.rows):            # else the file does not run, where no hint helps
        echo(f"\nTo go on with {left}, a hint: tinycogvlm learn hint {lesson.number} {left}")
    return 1


def show(mine, lesson):
    """The functions that have passed, in the model -> whether its answer is the package's"""
    if lesson.name == "boxes_in_words":
        if set(lesson.functions) <= set(mine.progress["passed"]):
            told_of_a_box(reported(process.run("show", mine, lesson, SECONDS["show"])))
        return True
    if not any(EXERCISES[name].part for name in lesson.functions if name in mine.progress["passed"]):
        return True
    report = reported(process.run("show", mine, lesson, SECONDS["show"]))
    told(report, lesson)
    if all(own == package for _, own, package in report.get("answers", ())):
        return "lines" not in report
    echo("\nThe answers differ, so something in your code is wrong that no case of the check shows. Look again at what "
         "the\ncases have in common: how many rows, blocks and images they have, and which values.")
    return False


def try_out(mine, lesson):
    """The lesson's functions in the model, right or wrong."""
    report = reported(process.run("try", mine, lesson, SECONDS["try"]))
    told(report, lesson)
    if "lines" in report:
        return 1
    if "answers" not in report and "gradient" not in report:
        echo(f"Nothing to try: none of your functions of lesson {lesson.number} is a part of the bundled model.")
    elif "answers" in report:
        stay = sum(own == package for _, own, package in report["answers"])
        echo(f"\n{stay} of {len(report['answers'])} answers are the package's")
    return 0


def reported(outcome):
    """The last row of a process that asked the model, or what it said instead"""
    return outcome.rows[-1] if outcome.rows else {"lines": [*outcome.lines, *outcome.printed.splitlines()[-5:]]}


def told(report, lesson):
    """Print what a process that asked the model reports."""
    if "lines" in report:
        echo("\nIn the model:")
        indented(report["lines"])
        return
    for question, own, package in report.get("answers", ()):
        echo(f"\n{question} ({Path(report['picture']).name})\n  through your code: {own}\n  by the package:    {package}")
    if "answers" in report:
        listed(report["sentence"], report["calls"], "answer", lesson)
    if "gradient" in report:
        count, error = report["gradient"]
        listed(f"\nThe gradient of {count:,} parameters through your code differs from the package's by {error:.0e} "
               "of its largest entry at most", report["calls"], "gradient", lesson)


def told_of_a_box(report):
    """Print a box that the model said, as the learner's functions see it."""
    if "lines" in report:
        return indented(report["lines"])
    echo(f"\n{report['question']} {report['answer']}")
    for pixels, overlap in report["boxes"]:
        echo(f"  by your to_pixels, in a picture of {report['width']} x {report['height']}: "
             f"{', '.join(f'{edge:g}' for edge in pixels)}\n  by your iou, its overlap with the true box: {overlap:.2f}")


def listed(sentence, calls, runs, lesson):
    """The sentence, and those of the lesson's functions called that run in an "answer", or in a "gradient"."""
    lines = [f"  {name:<22} {count} call{'s' * (count > 1)}, {duration(seconds)}"
             + (f"; the package {duration(theirs)}" if theirs is not None else "")
             + (f"; in place of {', '.join(instead)}" if instead else "")
             for name, (count, seconds, theirs, instead) in calls.items() if EXERCISES[name].runs == runs]
    echo("\n".join([sentence + (f"; lesson {lesson.number}:" if lines else "."), *lines]))


def duration(seconds):
    return f"{seconds:.1f} s" if seconds > 1 else f"{1000 * seconds:.2f} ms"


def train(mine):
    """A small model learns through the learner's loss, gradients and AdamW, and through the package's."""
    echo("A small CogVLM learns to describe pictures of 16 x 16 pixels, through your loss, gradients and AdamW, and once "
         "more\nthrough the package's. It takes about a minute.", flush=True)
    outcome = process.run("train", mine, lesson("training"), SECONDS["train"])
    wrong = [row["name"] for row in outcome.rows if "name" in row]
    for row in outcome.rows:
        if "name" in row:
            echo(f"\n{row['name']} is wrong, and runs as it is:")
            indented(row["lines"])
    report = reported(outcome) if not wrong or outcome.rows[-1].get("name") is None else {"lines": outcome.lines}
    if "lines" in report:
        echo("\nThe training cannot go on:")
        indented(report["lines"])
        return 1
    said = f"Yours in each step: {', '.join(report['pieces'])}."
    if report["missing"]:
        said += f" The package's, as yours are not written yet: {', '.join(report['missing'])}."
    echo(f"\n{wrapped(said)}\n")
    drawn = {letter: [loss for loss in report[whose] if math.isfinite(loss)]
             for letter, whose in ((".", "package"), ("o", "mine"))}
    echo("\n".join(curve(drawn)))
    echo(f"\nthe loss: o through your code, . through the package's{' (below the o)' if report['alike'] else ''}")
    echo(f"\n{wrapped(trained(report, wrong))}\n")
    for what, text in zip(("a fresh picture:", "your model says:", "the package's:"), report["example"]):
        echo(f"{what:<16} {text if text is not None else '-'}")
    return 0 if report["alike"] and not wrong else 1


def trained(report, wrong):
    """What came out of a training, in a sentence"""
    def last(losses):
        return sum(losses[-20:]) / len(losses[-20:])
    mine, package, (right, theirs) = report["mine"], report["package"], report["right"]
    names = ", ".join(wrong)
    if not math.isfinite(mine[-1]):
        return (f"In step {len(mine)} the loss through your code is no longer a number; through the package's it is "
                f"{last(package):.2f} after step {len(package)}.")
    steps = f"{len(mine)} steps" if len(mine) == report["steps"] else \
        f"{len(mine)} of {report['steps']} steps, for which the time was enough,"
    what = (f"After {steps} the loss through your code is {last(mine):.2f}, through the package's "
            f"{last(package):.2f}, and of {report['of']} fresh pictures your model describes {right} without a mistake, "
            f"the package's {theirs}")
    if report["alike"] and not wrong:
        return f"{what}: the two curves are one."
    if report["alike"]:
        return f"{what}; the curve does not show what is wrong with {names}, so check gradients, not only curves."
    return what + (f": the curves part because of {names}." if wrong else
                   "; the curves part, so something in your code is wrong that no case of the check shows.")


def watch(mine, lesson, sleep=time.sleep):
    """Check, and again whenever the file has changed, until all passes, or Ctrl-C."""
    seen, file = None, mine.file(lesson)
    while True:
        now = file.stat().st_mtime_ns if file.exists() else seen        # an editor may put a new file in its place
        if now == seen:
            sleep(0.5)
            continue
        seen = now
        echo(f"\n{time.strftime('%H:%M:%S')}")
        if check(mine, lesson) == 0:
            return 0
        echo("waiting for the next change; Ctrl-C ends", flush=True)


def hint(mine, lesson, name):
    if name is None:
        echo(f"lesson {lesson.number} passes; there is nothing left to hint at")
        return 0
    level = min(mine.note_hint(name), HINTS - 1)
    echo(f"{name}, hint {level + 1} of {HINTS}: {lesson.hints[name][level]}")
    return 0


def solution(mine, lesson, name):
    """A solution beside the learner's lines, and where the package has it: after a pass, or at the second request."""
    names = [name] if name else list(lesson.functions)
    progress = mine.progress
    if name and name not in progress["passed"] and name not in progress["asked"]:
        mine.note_asked(name)
        echo(f"{name} does not pass yet. Ask again to see a solution: "
             f"tinycogvlm learn solution {lesson.number} {name}")
        return 1
    for name in names:
        _, yours = definition(source(mine.file(lesson)), name)
        path, text = answer(lesson, name)
        echo(f"# {name}, yours: {mine.file(lesson)}\n\n{yours}\n\n# a solution: {path}\n\n{text}\n")
        for place in in_the_package(name):
            echo(f"# in the package: {place}")
        echo()
    return 0


def experiment(lesson, number):
    """The lesson's experiments, or one of them: a guess, the model before and after, and why"""
    known = EXPERIMENTS.get(lesson.folder.name[3:], ())
    if not known:
        have = [other.number for other in lessons() if other.folder.name[3:] in EXPERIMENTS]
        raise UserError(f"lesson {lesson.number} has no experiments; there are some for {', '.join(have)}")
    if number is None:
        for i, found in enumerate(known, 1):
            echo(f"{i}  {found.title}")
        echo(f"\ntry one, such as: tinycogvlm learn experiment {lesson.number} 1")
        return 0
    if number > len(known):
        raise UserError(f"lesson {lesson.number} has {len(known)} experiments, not {number}")
    chosen, guess = known[number - 1], None
    echo(f"{lesson.number} {lesson.title}, experiment {number} of {len(known)}\n")
    indented([chosen.title])
    if sys.stdin.isatty():
        guess = input(f"\nGuess: how many of the model's {len(QUESTIONS)} answers stay as they are? ").strip()
    results = chosen.run(load_model(), parts.park())
    for question, before, after in results:
        echo(f"\n{question} ({parts.park().name})\n  the model: {before}\n  changed:   {after}")
    stay = sum(before == after for _, before, after in results)
    echo(f"\n{stay} of {len(results)} answers stay as they are" + (f"; you guessed {guess}" if guess else "") + "\n")
    indented([chosen.why])
    return 0


def reset(mine, lesson):
    backup = mine.reset(lesson)
    echo(f"{mine.file(lesson)} is a fresh copy of the exercise; your old file is {backup}")
    return 0


def write_book(folder):
    """The whole course as pages that a browser shows"""
    progress("writing the book takes some seconds")
    echo(f"{book.write(folder)} is the course; open it in a browser")
    return 0


def write_notebook(mine, lesson):
    path, is_new = notebook.write(lesson, mine)
    echo(f"{path} is yours; open it in Jupyter, or in an editor that runs notebooks" if is_new else
         f"{path} exists and stays as it is; rename it, and you get a fresh one")
    return 0


STEPS = {None: status, "start": start, "check": check, "try": try_out, "train": train, "watch": watch, "hint": hint,
         "solution": solution, "experiment": experiment, "reset": reset, "notebook": write_notebook,
         "book": write_book}


# What they share

def shown(path):
    return os.path.relpath(path)


def wrapped(text):
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def indented(lines):
    for line in lines:
        if len(line) > WIDTH and not line.startswith(" "):
            echo(textwrap.indent(wrapped(line), "      "))
        else:
            echo(f"      {line}")


def definition(text, name):
    """A Python function or a kernel in a file's text -> its line; its text, up to the next that starts at the margin"""
    lines, is_python = text.splitlines(), re.search(rf"^def {name}\(", text, re.MULTILINE)
    first = next((i for i, line in enumerate(lines) if re.match(rf"(def |.*\bvoid )?{name}\(", line)), len(lines))
    inside = " )}\t" if is_python else " )}\t#"
    last = next((i for i in range(first + 1, len(lines)) if lines[i] and lines[i][0] not in inside), len(lines))
    return first + 1, "\n".join(lines[first:last]).rstrip()


def answer(lesson, name):
    """A solution of a lesson's function, in the form of the exercise -> file:line, text"""
    path = lesson.folder / "solution.py"
    if not path.exists():                                   # of a kernel: the package's own
        path = EXERCISES[name].shown[0]
    line, text = definition(path.read_text(encoding="utf-8"), name)
    return f"{shown(path)}:{line}", text


def in_the_package(name):
    """Yield file:line of the package's own code for an exercise."""
    for thing in EXERCISES[name].shown:
        if not isinstance(thing, Path):
            thing = inspect.unwrap(thing)                   # of an op, the function itself
            yield f"{shown(inspect.getsourcefile(thing))}:{inspect.getsourcelines(thing)[1]}"
