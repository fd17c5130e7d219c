"""The sheets of pictograms by many makers ("hands"), which scenes of the second edition are painted with:

    python -m tinycogvlm.world.render_hands PACKAGES FONTS PHOTOS

"""
import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from .atlas import EMOJI

CELL, COLUMNS, FINE = 72, 12, 384                           # a cell's side, cells in a row, the side that SVG is drawn at
UNKNOWN_CELLS = 40                                          # at most so many trained things without a name in a hand
FOLDER = Path(__file__).with_name("hands")
UNKNOWN = {
    "train": {"anchor": "⚓", "scissors": "✂", "camera": "📷", "telescope": "🔭", "hat": "🎩", "shoe": "👟", "snail": "🐌",
              "elephant": "🐘", "ladder": "🪜", "pineapple": "🍍", "cherry": "🍒", "hamburger": "🍔", "bulb": "💡",
              "hammer": "🔨", "candle": "🕯", "chair": "🪑", "bed": "🛏", "bottle": "🍾", "mug": "☕", "ghost": "👻",
              "spider": "🕷", "crab": "🦀", "grapes": "🍇", "corn": "🌽", "tent": "⛺", "church": "⛪", "airplane": "✈",
              "magnet": "🧲", "laptop": "💻", "microphone": "🎤", "piano": "🎹", "violin": "🎻", "trophy": "🏆",
              "flag": "🚩", "backpack": "🎒", "hourglass": "⌛", "lock": "🔒", "pencil": "✏", "gamepad": "🎮",
              "shirt": "👕", "sock": "🧦", "saw": "🪚", "broom": "🧹", "toilet": "🚽", "fire": "🔥", "tooth": "🦷",
              "bone": "🦴", "microscope": "🔬", "syringe": "💉", "dinosaur": "🦕", "flamingo": "🦩", "kangaroo": "🦘",
              "giraffe": "🦒", "camel": "🐫", "hedgehog": "🦔", "crocodile": "🐊", "icecream": "🍦", "popcorn": "🍿",
              "candy": "🍬", "avocado": "🥑", "pepper": "🌶", "broccoli": "🥦", "skull": "💀", "trousers": "👖"},
    "test": {"whale": "🐳", "snake": "🐍", "octopus": "🐙", "scorpion": "🦂", "duck": "🦆", "peacock": "🦚", "sheep": "🐑",
             "deer": "🦌", "watermelon": "🍉", "hotdog": "🌭", "fries": "🍟", "croissant": "🥐", "wineglass": "🍷",
             "eggplant": "🍆", "glasses": "👓", "axe": "🪓", "sofa": "🛋", "television": "📺", "radio": "📻",
             "headphones": "🎧", "trumpet": "🎺", "wrench": "🔧", "screwdriver": "🪛", "thermometer": "🌡", "brain": "🧠",
             "ear": "👂", "glove": "🧤", "dress": "👗", "door": "🚪", "bathtub": "🛁", "battery": "🔋", "plug": "🔌",
             "telephone": "☎", "puzzle": "🧩", "briefcase": "💼", "palette": "🎨", "shrimp": "🦐"}}
THINGS = {**EMOJI, **UNKNOWN["train"], **UNKNOWN["test"]}




def hand(package, manner, use, maker, licence, attribution, icons=None, suffix="", unicode=False, without=()):
    """One set. icons: "thing=icon ..." (or only the name, where both are the same), with a suffix that all icons share;
    unicode: things are found by their emoji instead, except those in icons; without: things that it draws otherwise."""
    table = dict(pair.split("=") if "=" in pair else (pair, pair) for pair in (icons or "").split())
    return {"manner": manner, "use": use, "package": package, "maker": maker, "licence": licence,
            "attribution": attribution, "icons": {thing: icon + suffix for thing, icon in table.items()},
            "unicode": unicode, "without": without}


FLUENT = "Microsoft", "MIT", "Fluent Emoji, Copyright (c) Microsoft Corporation"
NOTO = "Google", "Apache-2.0", "Noto Emoji, Copyright Google Inc."
EMOJIONE = "EmojiOne", "CC-BY-4.0", "EmojiOne 2 (Emojitwo), Copyright EmojiOne and the Emojitwo contributors"
HANDS = {
    "noto": hand("@iconify-json/noto", "colour", "train", *NOTO, unicode=True),
    "noto_v1": hand("@iconify-json/noto-v1", "colour", "train", *NOTO, unicode=True),
    "twemoji": hand("@iconify-json/twemoji", "colour", "train", "Twitter", "CC-BY-4.0",
                    "Twemoji, Copyright Twitter, Inc and other contributors", unicode=True),
    "fluent_flat": hand("@lobehub/fluent-emoji-flat", "colour", "train", *FLUENT, unicode=True),
    "fluent_modern": hand("@lobehub/fluent-emoji-modern", "colour", "train", *FLUENT, unicode=True),
    "fluent_3d": hand("@lobehub/fluent-emoji-3d", "colour", "train", *FLUENT, unicode=True),
    "emojione": hand("@iconify-json/emojione", "colour", "train", *EMOJIONE, "robot=robot-face", unicode=True,
                     without=("tent",)),
    "streamline": hand(
        "@iconify-json/streamline-emojis", "colour", "train", "Streamline", "CC-BY-4.0",
        "Streamline Emojis, Copyright Streamline (Webalys LLC)",
        "dog=dog-face cat=cat-face fox=fox-face-1 bear=bear-face lion=lion-face cow=cow-face pig=pig-face frog=frog-face "
        "monkey=monkey-face chicken penguin=penguin-1 horse=horse-face bee=honeybee fish=tropical-fish turtle "
        "rabbit=rabbit-face apple=red-apple lemon strawberry=strawberry-1 pizza=pizza-1 cake=birthday-cake-1 mushroom pear "
        "donut=doughnut-1 egg=cooking cactus=cactus-1 tulip sunflower=sunflower-1 car=automobile bus truck=delivery-truck "
        "boat=sailboat bicycle tractor helicopter train=locomotive book=green-book umbrella=closed-umbrella balloon bell "
        "crown robot=robot-face-1 gift=wrapped-gift-1 telescope shoe=running-shoe snail elephant cherry=cherries "
        "hamburger=hamburger-1 mug=hot-beverage-1 ghost grapes airplane microphone piano=musical-keyboard violin "
        "backpack=school-backpack hourglass=hourglass-done shirt=t-shirt toilet fire microscope syringe camel crocodile "
        "icecream=soft-ice-cream-1 candy skull trousers=jeans whale=spouting-whale snake octopus sheep=ewe-1 "
        "watermelon=watermelon-1 fries=french-fries wineglass=red-wine-glass glasses=glasses-1 television radio trumpet "
        "wrench ear dress door bathtub battery plug=electric-plug telephone briefcase palette=artist-palette"),
    "fxemoji": hand(
        "@iconify-json/fxemoji", "colour", "test", "Mozilla", "CC-BY-4.0", "FxEmojis, Copyright Mozilla Foundation",
        "dog cat fox=foxgrin bear cow=cowface pig frog monkey=monkeyface chicken penguin horse=horseface bee=honeybee fish "
        "turtle rabbit=bunny apple=redapple banana lemon strawberry pizza=sliceofpizza cake=birthdaycake mushroom pear "
        "donut=doughnut egg=cooking tree=deciduoustree cactus tulip sunflower car=automobile bus truck=deliverytruck "
        "boat=sailboat rocket bicycle tractor helicopter train=steamlocomotive house=housebuilding clock=alarmclock key "
        "book=closedbook umbrella guitar ball=soccerball balloon bell crown gift=present whale=spurtingwhale snake octopus "
        "sheep watermelon fries=frenchfries wineglass eggplant=aubergine glasses television radio headphones=headphone "
        "trumpet wrench thermometer ear dress door bathtub battery plug=electricplug telephone=blacktelephone briefcase "
        "palette=artistpalette"),
}


def code(emoji):
    return "-".join(f"{ord(sign):x}" for sign in emoji)


def drawings(folder, package, icons, unicode):
    """What a package draws of THINGS: {thing: SVG as text, or the bytes of a picture}"""
    if package.startswith("@lobehub/"):
        files = {path.stem.removesuffix("-fe0f"): path for path in sorted((folder / package / "assets").iterdir())}
        files = {thing: files[code(emoji)] for thing, emoji in THINGS.items() if code(emoji) in files}
        return {thing: path.read_text(encoding="utf-8") if path.suffix == ".svg" else path.read_bytes()
                for thing, path in files.items()}
    if unicode:
        names = json.loads((folder / "@iconify-json/noto/chars.json").read_text(encoding="utf-8"))
        icons = {thing: names.get(code(emoji)) or names[code(emoji) + "-fe0f"] for thing, emoji in THINGS.items()} | icons
    drawn = json.loads((folder / package / "icons.json").read_text(encoding="utf-8"))
    aliases = {name: alias["parent"] for name, alias in drawn.get("aliases", {}).items()}
    found = {}
    for thing, name in icons.items():
        icon = drawn["icons"].get(aliases.get(name, name))
        if icon is None and unicode:
            continue                                        # an older set, which lacks the newer emoji
        if icon is None:
            raise SystemExit(f"{package} has no icon {name!r}")
        box = {"left": 0, "top": 0, "width": 16, "height": 16} | drawn | icon
        found[thing] = (f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                        f'viewBox="{box["left"]} {box["top"]} {box["width"]} {box["height"]}">{icon["body"]}</svg>')
    return found


def cell(drawing):
    """A drawing's cell (RGBA): cropped to what is more than half opaque, its longer side as long as the cell's"""
    import resvg_py
    if isinstance(drawing, str):
        drawing = bytes(resvg_py.svg_to_bytes(svg_string=drawing, width=FINE, skip_system_fonts=True))
    picture = Image.open(io.BytesIO(drawing)).convert("RGBA")
    picture = picture.crop(picture.getchannel("A").point(lambda a: 255 * (a >= 128)).getbbox())
    scale = CELL / max(picture.size)
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.LANCZOS)
    filled = Image.new("RGBA", (CELL, CELL))
    filled.paste(picture, ((CELL - picture.width) // 2, (CELL - picture.height) // 2))
    return filled


def cells(folder, name):
    """The cells of one hand: {thing: picture}, first the kinds, then what has no name, in THINGS' order"""
    hand = HANDS[name]
    drawn = drawings(folder, hand["package"], hand["icons"], hand["unicode"])
    unknown = [thing for thing in UNKNOWN["train"] if thing in drawn and hand["use"] == "train"]
    start = 7 * list(HANDS).index(name) % max(1, len(unknown))          # each hand keeps others of them
    kept = {*EMOJI, *(unknown[start:] + unknown[:start])[:UNKNOWN_CELLS]}
    if hand["manner"] == "colour" or hand["use"] == "test":
        kept |= {*UNKNOWN["test"]}
    return {thing: cell(drawn[thing]) for thing in THINGS
            if thing in drawn and thing in kept and thing not in hand["without"]}


def alike(one, other):
    """Whether two cells are near copies: as to where there is ink, and in colour"""
    one, other = (np.asarray(picture, np.float32) / 255 for picture in (one, other))
    ink, same = one[..., 3] + other[..., 3] - np.minimum(one[..., 3], other[..., 3]), np.minimum(one[..., 3], other[..., 3])
    colours = (np.abs(one[..., :3] - other[..., :3]).mean(-1) * same).sum() / max(same.sum(), 1)
    return same.sum() > .9 * ink.sum() and colours < .1


def sheet(cells, manner):
    """The cells of one hand as one picture"""
    picture = Image.new("RGBA", (CELL * COLUMNS, CELL * -(-len(cells) // COLUMNS)))
    for i, one in enumerate(cells.values()):
        picture.paste(one, (i % COLUMNS * CELL, i // COLUMNS * CELL))
    return picture if manner == "colour" else picture.getchannel("A")


def render_hands(packages):
    """Write the sheets and hands.json."""
    drawn = {name: cells(packages, name) for name in HANDS}
    reserved = [name for name in HANDS if HANDS[name]["use"] == "test"]
    entries = {}
    for name, hand in HANDS.items():
        copies = [thing for thing in drawn[name] for other in reserved
                  if hand["use"] == "train" and thing in drawn[other] and alike(drawn[name][thing], drawn[other][thing])]
        kept = {thing: one for thing, one in drawn[name].items() if thing not in copies}
        settings = {"quality": 92} if hand["manner"] == "colour" else {"lossless": True}
        path = FOLDER / f"{name}.webp"
        sheet(kept, hand["manner"]).save(path, method=6, **settings)
        version = json.loads((packages / hand["package"] / "package.json").read_text(encoding="utf-8"))["version"]
        entries[name] = {key: hand[key] for key in ("manner", "use", "package", "maker", "licence", "attribution")}
        entries[name] |= {"package": f"{hand['package']} {version}", "names": [*kept]}
        print(f"{name}: {len(kept)} cells, {len(EMOJI.keys() & kept)} kinds, {path.stat().st_size // 1024} kB; "
              f"left out as copies of a reserved set: {', '.join(copies) or 'none'}", flush=True)
    text = json.dumps({"hands": entries, "unknown": {use: [*things] for use, things in UNKNOWN.items()}}, indent=1,
                      ensure_ascii=False)
    (FOLDER / "hands.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    render_hands(Path(sys.argv[1]))
