"""tinycogvlm eval: how often the model is right about scenes that training never saw."""
from ..evaluate.gallery import sheet_of
from ..evaluate.report import evaluate, progress_bar, text
from ..loading import cogvlm, load
from ..world.scenes import SPLITS
from .say import echo, echo_json, legible, progress, say, writable_picture, write_picture


def run(arguments):
    splits = SPLITS[SPLITS.index("test"):] if arguments.split == "all" else [arguments.split]
    out = writable_picture(arguments.gallery)
    progress("loading the model ...")
    model = cogvlm(load(arguments.weights, arguments.device, lora=arguments.lora, check_finite=arguments.check_finite))
    compared = not arguments.no_baselines and len(splits) == 1
    found, wrong = evaluate(model, splits, arguments.scenes, compared, progress_bar)
    if arguments.json:
        echo_json({"weights": arguments.weights and legible(arguments.weights), **found})
    else:
        echo(text(found))
    if out and wrong:
        write_picture(out, sheet_of(wrong))
        say(f"{out}: wrong answers drawn")
    elif out:
        say(f"no answer about a picture was wrong; {out} is not written")
    return 0
