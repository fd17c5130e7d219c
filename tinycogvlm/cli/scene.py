"""What `tinycogvlm scene` tells: the truth of a scene, and the names in the world."""
from ..inputs import grounding
from ..world.scenes import BACKGROUNDS, COLOURS, KINDS, SHAPES

WORLD = {"kinds": KINDS, "colours": COLOURS, "shapes": SHAPES, "backgrounds": BACKGROUNDS}


def world():
    return "\n".join(f"{what}: {', '.join(names)}" for what, names in WORLD.items())


def facts(scene):
    """The truth for JSON; boxes in pixels (x1 and y1 lie outside) and in whole thousandths."""
    things = [{"name": thing.name, "pixels": thing.box,
               "thousandths": grounding.from_pixels(thing.box, scene.side, scene.side)} for thing in scene.things]
    return {"split": scene.split, "seed": scene.number, "size": scene.side, "background": scene.background,
            "things": things}


def text(facts):
    """The background, then a line a thing, from left to right"""
    lines = [f"{facts['background']}, {facts['size']} x {facts['size']} pixels"]
    for thing in facts["things"]:
        box = grounding.format([thing["thousandths"]])
        lines.append(f"{thing['name']:15} {box}   pixels {', '.join(map(str, thing['pixels']))}")
    return "\n".join(lines)
