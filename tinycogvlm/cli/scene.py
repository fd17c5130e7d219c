"""tinycogvlm scene: draw a scene or a video and print what is true of it, or list the names in the world."""
from ..errors import UsageError
from ..inputs import grounding, image
from ..world import scenes, videos
from .say import echo, echo_json, say, writable_picture, write_animation, write_picture

WORLD = {"kinds": scenes.KINDS, "colours": scenes.COLOURS, "shapes": scenes.SHAPES, "backgrounds": scenes.BACKGROUNDS}


def run(arguments):
    if arguments.list:
        if arguments.out:
            raise UsageError("--list draws nothing; leave out --out")
        if arguments.json:
            echo_json(WORLD)
        else:
            echo("\n".join(f"{what}: {', '.join(names)}" for what, names in WORLD.items()))
        return 0
    count = arguments.things
    if arguments.split == "sizes" and (count or 1) > 2:
        raise UsageError(f"--things {count}: things of the split sizes are so large that one or two fit")
    if arguments.pace and not arguments.video:
        raise UsageError("--pace goes with --video")
    out = writable_picture(arguments.out)
    if arguments.video:
        return run_video(arguments, out)
    drawn = scenes.scene(arguments.split, arguments.seed, (count, count) if count else (1, 4), arguments.size)
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
            "things": things}


def text(facts):
    """The background, then one line for each thing, from left to right"""
    lines = [f"{facts['background']}, {facts['size']} x {facts['size']} pixels"]
    for thing in facts["things"]:
        box = grounding.box_text([thing["thousandths"]])
        lines.append(f"{thing['name']:15} {box}   pixels {', '.join(map(str, thing['pixels']))}")
    return "\n".join(lines)
