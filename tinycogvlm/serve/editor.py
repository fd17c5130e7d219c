"""The world by JSON, for the page: what there is, and a scene painted as those of the training."""
import base64
import io

from PIL import Image

from ..storage.reading import short
from ..world import atlas, colours, draw, scenes
from .protocol import Refused

SIDE = 336                                                  # pixels of a painted scene
SMALLEST, LARGEST = 12, 100                                 # of a thing's longer side, in a picture of scenes.SIDE
MOST = 9                                                    # things in a scene
# Of the pen: the middle of each range; white is the sheet's, so that it rubs out.
PENS = {name: colours.rgb(*(sum(ends) // 2 for ends in ranges)) for name, ranges in colours.RANGES.items()} | {
    "white": (255, 255, 255)}


def world():
    """What a scene may hold, where the atlas has it, and the colours of the pen"""
    return {"kinds": scenes.KINDS, "cell": atlas.CELL, "columns": atlas.COLUMNS, "colours": draw.COLOURS,
            "shapes": draw.SHAPES, "backgrounds": {name: pair[:2] for name, pair in draw.BACKGROUNDS.items()},
            "angles": draw.ANGLES, "pens": PENS, "sizes": [SMALLEST, LARGEST], "most": MOST}


def scene(body):
    """The painted scene of a JSON body: {"background", "things": [{name, x, y, size, angle, mirrored}], "seed"}, where
    x and y are the centre in thousandths and size is the longer side in pixels of 112; or a drawn one: {"number"}.
    """
    if "number" in body:
        found = scenes.scene("test", whole(body, "number", 0, 2 ** 32), side=SIDE)
    else:
        things = body.get("things")
        if not isinstance(things, list) or len(things) > MOST or not all(isinstance(thing, dict) for thing in things):
            raise Refused(400, f"things must be a list of at most {MOST} objects", "things")
        background = one_of(body, "background", scenes.BACKGROUNDS)
        found = scenes.Scene("page", whole(body, "seed", 0, 2 ** 32), tuple(map(placed, things)), background, SIDE)
    file = io.BytesIO()
    Image.fromarray(found.picture).save(file, "PNG", compress_level=1)
    return {"picture": "data:image/png;base64," + base64.b64encode(file.getvalue()).decode(),
            "background": found.background, "things": [described(found, thing) for thing in found.things]}


def placed(given):
    """A thing of a JSON body as a scenes.Thing, moved into the picture where it would stick out"""
    size, angle = whole(given, "size", SMALLEST, LARGEST), one_of(given, "angle", draw.ANGLES)
    name, look = one_of(given, "name", scenes.NAMES), (size * SIDE // scenes.SIDE, angle, int(given.get("mirrored") is True))
    height, width = draw.stamp(name, *look).shape[:2]
    left, top = (min(max(0, whole(given, at, 0, 1000) * SIDE // 1000 - length // 2), SIDE - length)
                 for at, length in (("x", width), ("y", height)))
    return scenes.Thing(name, (left, top, left + width, top + height), look)


def described(scene, thing):
    x0, y0, x1, y1 = scene.thousandths(thing)
    size, angle, mirrored = thing.look
    return {"name": thing.name, "x": round((x0 + x1) / 2), "y": round((y0 + y1) / 2), "angle": angle,
            "size": -(-size * scenes.SIDE // SIDE), "mirrored": bool(mirrored), "box": [x0, y0, x1, y1]}


def whole(given, name, lowest, highest):
    number = given.get(name)
    if type(number) is not int or not lowest <= number <= highest:
        raise Refused(400, f"{name} is {short(number)}; it must be a whole number from {lowest} to {highest}", name)
    return number


def one_of(given, name, options):
    if given.get(name) not in options or isinstance(given[name], bool):
        raise Refused(400, f"{name} is {short(given.get(name))}; it must be one of {', '.join(map(str, options))}", name)
    return given[name]
