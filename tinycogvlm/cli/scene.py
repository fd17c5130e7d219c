"""tinycogvlm scene: draw a scene or a video and print what is true of it, or list the names in the world."""
from functools import partial

from ..errors import UsageError
from ..inputs import grounding, image
from ..world import colours, grounds, scenes, shapes, sketches, videos, writing
from .say import echo, echo_json, say, writable_picture, write_animation, write_picture

WORLD = {"kinds": scenes.KINDS, "colours": colours.NAMES, "shapes": shapes.NAMES, "backgrounds": grounds.GROUNDS}
SKETCHES = {"any": sketches.ANY, "colour": sketches.AS_DRAWN, "lines": sketches.LINES, "mouse": sketches.MOUSE,
            "outline": sketches.MOUSE_LINES, "unknown": sketches.STRANGE}
WRITING = {"number": ("number", writing.NEAT), "word": ("word", writing.NEAT), "captcha": (None, writing.CAPTCHA)}
MANNERS = {"plain": scenes.scene, **{name: partial(sketches.sketch, manner=manner) for name, manner in SKETCHES.items()},
           **{name: lambda split, number, things, side, sort=sort, manner=manner:
              writing.writing(split, number, sort, manner, side) for name, (sort, manner) in WRITING.items()}}


def run(arguments):
    if arguments.list:
        if arguments.out:
            raise UsageError("--list draws nothing; leave out --out")
        if arguments.json:
            echo_json(WORLD)
        else:
            echo("\n".join(f"{what}: {', '.join(names)}" for what, names in WORLD.items()))
        return 0
    count, manner, split = arguments.things, arguments.manner, arguments.split
    splits = scenes.SPLITS if manner == "plain" else sketches.SPLITS
    if split not in splits:
        raise UsageError(f"--split {split}: scenes of --manner {manner} have the splits {', '.join(splits)}")
    if split == "sizes" and (count or 1) > 2:
        raise UsageError(f"--things {count}: things of the split sizes are so large that one or two fit")
    if count and manner in WRITING:
        raise UsageError(f"--things {count}: with --manner {manner}, the things are the characters of what is written")
    if arguments.pace and not arguments.video:
        raise UsageError("--pace goes with --video")
    if arguments.video and manner != "plain":
        raise UsageError(f"--manner {manner}: videos are of --manner plain")
    out = writable_picture(arguments.out, animated=arguments.video)
    if arguments.video:
        return run_video(arguments, out)
    drawn = MANNERS[manner](split, arguments.seed, (count, count) if count else (1, 4), side=arguments.size)
    true = facts(drawn)
    if arguments.json:
        echo_json(true)
    else:
        echo(text(true))
    if out:
        write_picture(out, image.load(drawn.picture))
    if count and len(drawn.things) < count:
        say(f"tinycogvlm: only {len(drawn.things)} of {count} things fitted; try another --seed")
    return 0


def run_video(arguments, out):
    """Draw a video and print when each thing is where -> exit code"""
    count, pace = arguments.things, arguments.pace or 1
    drawn = videos.clip(arguments.split, arguments.seed, (count, count) if count else (2, 3), arguments.size, pace, 0)
    frames = [{"second": second, **facts(frame)} for second, frame in zip(drawn.seconds, drawn.frames)]
    if arguments.json:
        echo_json({name: frames[0][name] for name in ("split", "seed", "size", "background")} | {
            "frames": [{name: frame[name] for name in ("second", "things")} for frame in frames]})
    else:
        echo(text_of_video(drawn))
    if out:
        write_animation(out, [image.load(picture) for picture in drawn.pictures], 1000 * pace)
    return 0


def text_of_video(clip):
    """The background, then for each thing from when to when it is there, and on which way"""
    lines = [f"{clip.scene.background}, {len(clip.seconds)} frames of {clip.scene.side} x {clip.scene.side} pixels"]
    for thing, places in zip(clip.scene.things, clip.places):
        for first, last in clip.visits(thing):
            ends = dict.fromkeys(grounding.box_text([grounding.from_pixels(places[i], *2 * (clip.scene.side,))])
                                 for i in (first, last))
            when = f"{clip.seconds[first]} to {clip.seconds[last]}"
            lines.append(f"{thing.name:15} seconds {when:9} {' to '.join(ends)}")
    return "\n".join(lines)


def facts(scene):
    """The truth as JSON has it; boxes in pixels (x1 and y1 lie just outside) and in whole thousandths"""
    things = [{"name": thing.name, "pixels": thing.box,
               "thousandths": grounding.from_pixels(thing.box, scene.side, scene.side)} for thing in scene.things]
    return {"split": scene.split, "seed": scene.number, "size": scene.side, "background": scene.background,
            **({"text": writing.text_of(scene)} if writing.written(scene) else {}), "things": things}


def text(facts):
    """The background, what is written, then one line for each thing, from left to right"""
    lines = [f"{facts['background']}, {facts['size']} x {facts['size']} pixels"]
    lines += [f"written: {facts['text']}"] if "text" in facts else []
    for thing in facts["things"]:
        box = grounding.box_text([thing["thousandths"]])
        lines.append(f"{thing['name']:15} {box}   pixels {', '.join(map(str, thing['pixels']))}")
    return "\n".join(lines)
