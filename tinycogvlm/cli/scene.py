"""tinycogvlm scene: draw a scene and print what is true of it, or list the names in the world."""
from ..errors import UsageError
from ..inputs import grounding, image
from ..world import scenes
from .say import echo, echo_json, say, writable_picture, write_picture

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
    out = writable_picture(arguments.out)
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
