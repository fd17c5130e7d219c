"""tinycogvlm eval: how often the model is right about scenes, or videos, that training never saw."""
from functools import partial

from ..errors import UsageError
from ..evaluate import eyes, videos
from ..evaluate.gallery import sheet_of
from ..evaluate.report import evaluate, progress_bar, text
from ..loading import cogvlm, load
from ..world.scenes import SPLITS
from .say import echo, echo_json, legible, progress, say, writable_picture, write_picture


def run(arguments):
    if arguments.video:
        return run_videos(arguments)
    if arguments.image_size or arguments.no_times:
        raise UsageError(f"--{'image-size' if arguments.image_size else 'no-times'} goes with --video")
    splits = SPLITS[SPLITS.index("test"):] if arguments.split == "all" else [arguments.split]
    out = writable_picture(arguments.gallery)
    progress("loading the model ...")
    model = cogvlm(load(arguments.weights, arguments.device, lora=arguments.lora, check_finite=arguments.check_finite))
    if model.config.family == "eyes":
        return eval_eyes(arguments, model)
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


def run_videos(arguments):
    """Ask about videos, whose frames are followed by their seconds unless --no-times leaves them out -> exit code"""
    if arguments.gallery or arguments.split in ("sizes", "all"):
        raise UsageError("--gallery is of pictures, not of videos" if arguments.gallery else
                         f"--split {arguments.split} is of pictures; videos are of check, test or combinations")
    if arguments.no_baselines:
        raise UsageError("--no-baselines is of pictures; what guessing gives of videos takes no time")
    progress("loading the model ...")
    model = cogvlm(load(arguments.weights, arguments.device, lora=arguments.lora, check_finite=arguments.check_finite,
                        image_size=arguments.image_size))
    name, times = ("without seconds", False) if arguments.no_times else ("with seconds", True)
    found = {name: videos.measure(model, arguments.split, arguments.scenes, times, through=partial(progress_bar, name=name))}
    if arguments.json:
        echo_json({"weights": arguments.weights and legible(arguments.weights), "questions": arguments.scenes,
                   "videos": found})
    else:
        echo(videos.text(found))
    return 0


def eval_eyes(arguments, model):
    """The same for a language model with eyes, whose measure is what it says without them -> exit code"""
    if arguments.split not in ("test", "check") or arguments.gallery:
        raise UsageError("eyes are measured on the splits test and check, without a gallery")
    found = {"scenes": arguments.scenes, "splits": {arguments.split: eyes.measure(
        model, arguments.scenes, arguments.split, through=progress_bar)}}
    if arguments.json:
        echo_json({"weights": arguments.weights and legible(arguments.weights), **found})
    else:
        echo(text(found, eyes.GATES))
    return 0
