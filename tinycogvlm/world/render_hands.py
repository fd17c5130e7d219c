"""The sheets of pictograms by many makers ("hands"), which scenes of the second edition are painted with:

    python -m tinycogvlm.world.render_hands PACKAGES FONTS PHOTOS

PACKAGES is the folder node_modules of `npm install @iconify-json/noto@1.2.9 ...`, with every package of HANDS in the
version that hands.json names. FONTS holds Debian's packages of fonts, each unpacked into a folder of its own name
(`dpkg -x`). PHOTOS is skimage/data of scikit-image 0.26.0. SVG is drawn by `pip install resvg_py==0.5.0`.

A hand in colour has an alpha channel; one in a single colour ("ink") is its opacity. Cells stand in the order
of the hand's names, and every pictogram fills the longer side of its cell. A thing that a reserved set (use "test")
draws almost alike is left out of the trained set. Whose work all of it is, and under which licence: hands/LICENCES.txt.
"""
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .atlas import EMOJI

CELL, COLUMNS, FINE = 72, 12, 384                           # a cell's side, cells in a row, the side SVG is drawn at
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
PHOSPHOR = (
    "Phosphor", "MIT", "Phosphor Icons, Copyright (c) Phosphor Icons",
    "dog cat cow horse butterfly fish rabbit carrot pizza cake cheese tree cactus tulip=flower-tulip car bus truck "
    "boat=sailboat rocket bicycle tractor train house clock=alarm key book umbrella guitar ball=soccer-ball balloon "
    "bell crown robot gift anchor scissors camera shoe=sneaker ladder cherry=cherries hamburger bulb=lightbulb hammer "
    "chair bed bottle=beer-bottle mug=coffee ghost tent church airplane magnet laptop microphone piano=piano-keys "
    "trophy flag backpack hourglass lock pencil gamepad=game-controller shirt=t-shirt sock broom toilet fire tooth "
    "bone microscope syringe icecream=ice-cream popcorn avocado pepper skull trousers=pants")
MINGCUTE = (
    "MingCute", "Apache-2.0", "MingCute Icon, Copyright MingCute Design",
    "dog cat bear pig butterfly fish rabbit apple=apple-fruit carrot pizza cake mushroom donut egg=fried-egg "
    "tree=tree-2 cactus car bus truck boat=sailboat rocket bicycle=bike train house=home-3 key=key-2 book=book-2 "
    "umbrella guitar ball=football balloon=balloon-2 bell=notification robot gift anchor scissors camera telescope "
    "hat shoe ladder hamburger bulb hammer candle bed ghost tent church airplane magnet laptop microphone trophy "
    "backpack lock pencil shirt=t-shirt sock fire bone microscope syringe=injection candy skull")
SOLAR = (
    "480 Design", "CC-BY-4.0", "Solar Icons Set, Copyright 480 Design",
    "cat donut bus rocket clock=alarm key book=book-minimalistic umbrella ball=football balloon bell crown robot=bot "
    "gift scissors camera telescope bulb=lightbulb chair bed bottle mug ghost magnet laptop microphone trophy=cup "
    "flag backpack hourglass lock gamepad shirt=t-shirt fire bone syringe")
MDI = "Material Design Icons, Copyright Pictogrammers and contributors"
HANDS = {
    "noto": hand("@iconify-json/noto", "colour", "train", *NOTO, unicode=True),
    "noto_v1": hand("@iconify-json/noto-v1", "colour", "check", *NOTO, unicode=True),
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
        "dog=dog-face cat=cat-face fox=fox-face-1 bear=bear-face lion=lion-face cow=cow-face pig=pig-face "
        "frog=frog-face monkey=monkey-face chicken penguin=penguin-1 horse=horse-face bee=honeybee "
        "fish=tropical-fish turtle rabbit=rabbit-face apple=red-apple lemon strawberry=strawberry-1 pizza=pizza-1 "
        "cake=birthday-cake-1 mushroom pear donut=doughnut-1 egg=cooking cactus=cactus-1 tulip sunflower=sunflower-1 "
        "car=automobile bus truck=delivery-truck boat=sailboat bicycle tractor helicopter train=locomotive "
        "book=green-book umbrella=closed-umbrella balloon bell crown robot=robot-face-1 gift=wrapped-gift-1 "
        "telescope shoe=running-shoe snail elephant cherry=cherries hamburger=hamburger-1 mug=hot-beverage-1 ghost "
        "grapes airplane microphone piano=musical-keyboard violin backpack=school-backpack hourglass=hourglass-done "
        "shirt=t-shirt toilet fire microscope syringe camel crocodile icecream=soft-ice-cream-1 candy skull "
        "trousers=jeans whale=spouting-whale snake octopus sheep=ewe-1 watermelon=watermelon-1 fries=french-fries "
        "wineglass=red-wine-glass glasses=glasses-1 television radio trumpet wrench ear dress door bathtub battery "
        "plug=electric-plug telephone briefcase palette=artist-palette"),
    "fxemoji": hand(
        "@iconify-json/fxemoji", "colour", "test", "Mozilla", "CC-BY-4.0", "FxEmojis, Copyright Mozilla Foundation",
        "dog cat fox=foxgrin bear cow=cowface pig frog monkey=monkeyface chicken penguin horse=horseface "
        "bee=honeybee fish turtle rabbit=bunny apple=redapple banana lemon strawberry pizza=sliceofpizza "
        "cake=birthdaycake mushroom pear donut=doughnut egg=cooking tree=deciduoustree cactus tulip sunflower "
        "car=automobile bus truck=deliverytruck boat=sailboat rocket bicycle tractor helicopter "
        "train=steamlocomotive house=housebuilding clock=alarmclock key book=closedbook umbrella guitar "
        "ball=soccerball balloon bell crown gift=present whale=spurtingwhale snake octopus sheep watermelon "
        "fries=frenchfries wineglass eggplant=aubergine glasses television radio headphones=headphone trumpet wrench "
        "thermometer ear dress door bathtub battery plug=electricplug telephone=blacktelephone briefcase "
        "palette=artistpalette"),
    "icon_park": hand(
        "@iconify-json/icon-park", "colour", "train", "ByteDance", "Apache-2.0", "IconPark, Copyright ByteDance Inc.",
        "dog cat bear pig frog monkey owl butterfly fish rabbit banana lemon carrot cake=birthday-cake pear cheese "
        "tree cactus car bus truck boat=sailboat bicycle=bike train house=home clock=alarm-clock key book umbrella "
        "ball=football balloon=party-balloon bell=remind crown robot gift camera hat elephant ladder pineapple "
        "cherry hamburger chair bottle mug=tea ghost crab tent church=church-one airplane magnet laptop microphone "
        "piano trophy flag backpack hourglass lock pencil gamepad shirt=t-shirt sock=socks toilet fire bone "
        "microscope syringe=injection icecream popcorn candy avocado pepper=chili skull trousers=clothes-pants"),
    "fluent_high_contrast": hand("@iconify-json/fluent-emoji-high-contrast", "ink", "train", *FLUENT, unicode=True,
                                 without=("drum",)),
    "emojione_monotone": hand("@iconify-json/emojione-monotone", "ink", "train", *EMOJIONE, "robot=robot-face",
                              unicode=True, without=("tent",)),
    "game_icons": hand(
        "@iconify-json/game-icons", "ink", "train", "the authors of game-icons.net", "CC-BY-3.0",
        "Icons made by Lorc, Delapouite and the other contributors of https://game-icons.net",
        "dog=sitting-dog cat fox bear=bear-face lion cow pig frog monkey chicken penguin owl horse=horse-head bee "
        "turtle=tortoise rabbit apple=shiny-apple banana lemon strawberry carrot pizza=pizza-slice mushroom pear "
        "donut cheese=cheese-wedge egg=fried-eggs tree=fruit-tree cactus sunflower car=city-car bus truck "
        "boat=sailboat rocket bicycle=dutch-bike tractor=farm-tractor helicopter train=steam-locomotive house "
        "clock=alarm-clock key book=book-cover umbrella guitar drum ball=soccer-ball bell=ringing-bell crown "
        "robot=vintage-robot gift=present anchor scissors camera=photo-camera telescope hat=top-hat "
        "shoe=running-shoe snail elephant ladder pineapple cherry hamburger bulb=light-bulb candle=candle-light "
        "chair=wooden-chair bed bottle=beer-bottle mug=coffee-mug ghost crab grapes corn tent=camping-tent church "
        "airplane magnet laptop microphone piano=piano-keys violin trophy backpack hourglass lock=padlock pencil "
        "gamepad shirt=t-shirt sock=socks saw=hand-saw broom fire=flame tooth microscope syringe dinosaur=diplodocus "
        "flamingo kangaroo camel hedgehog icecream=ice-cream-cone popcorn candy=wrapped-sweet pepper=chili-pepper "
        "broccoli trousers"),
    "mdi": hand(
        "@iconify-json/mdi", "ink", "train", "Pictogrammers", "Apache-2.0", MDI,
        "dog cat cow pig penguin owl horse butterfly fish turtle=tortoise rabbit apple=food-apple carrot pizza cake "
        "mushroom pear=fruit-pear cheese egg=egg-fried tree cactus tulip=flower-tulip car=car-side bus=bus-side "
        "truck boat=sail-boat rocket=rocket-launch bicycle tractor helicopter train house=home clock=alarm "
        "key=key-variant book umbrella guitar=guitar-acoustic ball=soccer balloon bell crown robot gift anchor "
        "scissors=content-cut camera telescope shoe=shoe-sneaker snail elephant ladder cherry=fruit-cherries "
        "hamburger bulb=lightbulb hammer candle bed bottle=bottle-wine mug=coffee ghost spider grapes=fruit-grapes "
        "corn church airplane magnet laptop microphone piano violin trophy flag backpack=bag-personal lock pencil "
        "gamepad=gamepad-variant shirt=tshirt-crew saw=hand-saw broom toilet fire tooth bone microscope "
        "syringe=needle kangaroo icecream=ice-cream popcorn candy skull"),
    "mdi_outline": hand(
        "@iconify-json/mdi", "ink", "train", "Pictogrammers", "Apache-2.0", MDI,
        "apple=food-apple bell book butterfly cake=cake-variant car clock=clock crown gift house=home key mushroom "
        "pig=pig-variant rabbit=rabbit-variant robot rocket=rocket-launch tree truck tulip=flower-tulip umbrella",
        suffix="-outline"),
    "lucide": hand(
        "@iconify-json/lucide", "ink", "train", "Lucide", "ISC", "Lucide, Copyright (c) Lucide Icons and Contributors",
        "dog cat fish turtle rabbit apple banana carrot pizza cake donut egg=egg-fried tree=tree-deciduous car bus "
        "truck boat=sailboat rocket tractor helicopter train=train-front house clock=alarm-clock key book umbrella "
        "guitar drum balloon bell crown robot=bot gift anchor scissors camera telescope snail cherry hamburger "
        "bulb=lightbulb hammer bed bottle=bottle-wine mug=coffee ghost grapes=grape tent church airplane=plane "
        "magnet laptop microphone=mic piano trophy flag backpack hourglass lock pencil gamepad shirt broom toilet "
        "fire=flame bone microscope syringe icecream=ice-cream-cone popcorn candy broccoli skull"),
    "ph": hand("@iconify-json/ph", "ink", "train", *PHOSPHOR),
    "ph_fill": hand("@iconify-json/ph", "ink", "train", *PHOSPHOR, suffix="-fill"),
    "hugeicons": hand(
        "@iconify-json/hugeicons", "ink", "check", "Hugeicons", "MIT", "Hugeicons, Copyright (c) Hugeicons",
        "cat horse fish turtle rabbit apple=apple-01 banana carrot pizza=pizza-01 cake mushroom donut=doughnut "
        "cheese egg=egg-fried tree=tree-02 cactus tulip car=car-01 bus=bus-01 truck boat=sailboat rocket=rocket-01 "
        "bicycle tractor helicopter train=train-01 clock=alarm-clock key=key-01 book=book-01 umbrella guitar drum "
        "ball=football balloon bell crown robot=robot-02 gift anchor scissors camera=camera-01 hat shoe=sneaker "
        "cherry bulb=lightbulb hammer bed bottle=bottle-wine mug=tea ghost crab grapes corn tent church "
        "airplane=plane magnet laptop microphone=mic-01 trophy flag=flag-01 backpack=backpack-01 hourglass pencil "
        "gamepad shirt=t-shirt sock=socks fire tooth=dental-tooth microscope syringe camel popcorn candy avocado "
        "pepper broccoli skull"),
    "mingcute": hand("@iconify-json/mingcute", "ink", "train", *MINGCUTE, suffix="-line"),
    "mingcute_fill": hand("@iconify-json/mingcute", "ink", "train", *MINGCUTE, suffix="-fill"),
    "fa6_solid": hand(
        "@iconify-json/fa6-solid", "ink", "train", "Font Awesome", "CC-BY-4.0",
        "Font Awesome Free, Copyright Fonticons, Inc.",
        "dog cat cow frog horse fish apple=apple-whole lemon carrot pizza=pizza-slice cake=cake-candles tree "
        "car=car-side bus truck boat=sailboat rocket bicycle tractor helicopter train house clock key book umbrella "
        "guitar drum ball=futbol bell crown robot gift anchor scissors camera hat=hat-cowboy hamburger=burger "
        "bulb=lightbulb hammer chair bed bottle=wine-bottle mug=mug-hot ghost spider tent church airplane=plane "
        "magnet laptop microphone trophy flag hourglass lock pencil gamepad shirt sock=socks broom toilet fire tooth "
        "bone microscope syringe icecream=ice-cream pepper=pepper-hot skull"),
    "solar": hand("@iconify-json/solar", "ink", "train", *SOLAR, suffix="-linear"),
    "solar_bold": hand("@iconify-json/solar", "ink", "train", *SOLAR, suffix="-bold"),
    "tabler": hand(
        "@iconify-json/tabler", "ink", "test", "Paweł Kuna", "MIT", "Tabler Icons, Copyright (c) Paweł Kuna",
        "dog cat pig horse butterfly fish apple banana lemon=lemon-2 carrot pizza cake mushroom cheese tree cactus "
        "car bus truck boat=sailboat rocket tractor helicopter train house=home clock=alarm key book=book-2 umbrella "
        "ball=ball-football balloon bell crown robot gift deer wineglass=glass-full glasses=eyeglass axe sofa "
        "television=device-tv-old radio headphones wrench=tool thermometer brain ear door bathtub=bath battery plug "
        "telephone=phone puzzle briefcase palette"),
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
        icons = {thing: names.get(code(emoji)) or names[code(emoji) + "-fe0f"]
                 for thing, emoji in THINGS.items()} | icons
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
    unknown = [thing for thing in UNKNOWN["train"] if thing in drawn and hand["use"] != "test"]
    start = 7 * list(HANDS).index(name) % max(1, len(unknown))          # each hand keeps others of them
    kept = {*EMOJI, *(unknown[start:] + unknown[:start])[:UNKNOWN_CELLS]}
    if hand["manner"] == "colour" or hand["use"] == "test":
        kept |= {*UNKNOWN["test"]}
    return {thing: cell(drawn[thing]) for thing in THINGS
            if thing in drawn and thing in kept and thing not in hand["without"]}


def alike(one, other):
    """Whether two cells are near copies, both in where there is ink (IoU > 0.9) and in its colours"""
    one, other = (np.asarray(picture, np.float32) / 255 for picture in (one, other))
    shared = np.minimum(one[..., 3], other[..., 3])
    either = np.maximum(one[..., 3], other[..., 3])
    distance = (abs(one[..., :3] - other[..., :3]).mean(-1) * shared).sum() / max(shared.sum(), 1)
    return shared.sum() > .9 * either.sum() and distance < .1


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
        copies = {thing for thing, one in drawn[name].items() for other in reserved
                  if hand["use"] != "test" and thing in drawn[other] and alike(one, drawn[other][thing])}
        kept = {thing: one for thing, one in drawn[name].items() if thing not in copies}
        settings = {"quality": 92} if hand["manner"] == "colour" else {"lossless": True}
        path = FOLDER / f"{name}.webp"
        sheet(kept, hand["manner"]).save(path, method=6, **settings)
        version = json.loads((packages / hand["package"] / "package.json").read_text(encoding="utf-8"))["version"]
        entries[name] = {key: hand[key] for key in ("manner", "use", "package", "maker", "licence", "attribution")}
        entries[name] |= {"package": f"{hand['package']} {version}", "names": [*kept]}
        print(f"{name}: {len(kept)} cells, {len(EMOJI.keys() & kept)} kinds, {path.stat().st_size // 1024} kB; "
              f"left out as copies of a reserved set: {', '.join(sorted(copies)) or 'none'}")
    write("hands", {"hands": entries, "unknown": {use: [*things] for use, things in UNKNOWN.items()}})


CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
GLYPH, DIGIT, BASE, GLYPH_COLUMNS = 40, 28, 31, 31          # a cell's side, a digit's height, the line it stands on
FONTS = [  # file, Debian package and version, licence, use
    ("DejaVuSans.ttf", "fonts-dejavu-core 2.37-6", "Bitstream-Vera", "train"),
    ("DejaVuSansMono-Bold.ttf", "fonts-dejavu-core 2.37-6", "Bitstream-Vera", "train"),
    ("LiberationSans-Bold.ttf", "fonts-liberation2 fonts/deb/fonts-liberation2", "OFL-1.1", "train"),
    ("LiberationSerif-Regular.ttf", "fonts-liberation2 fonts/deb/fonts-liberation2", "OFL-1.1", "train"),
    ("Lato-Light.ttf", "fonts-lato 2.0-2.1", "OFL-1.1", "train"),
    ("OpenSans-Regular.ttf", "fonts-open-sans 1.11-2", "Apache-2.0", "train"),
    ("RobotoSlab-Bold.otf", "fonts-roboto-slab 1.100263+20170512-2", "Apache-2.0", "train"),
    ("DejaVuSerif.ttf", "fonts-dejavu-core 2.37-6", "Bitstream-Vera", "train"),
    ("Courier Prime.otf", "fonts-courier-prime 0+git20190115-3", "OFL-1.1", "train"),
    ("ComicNeue-Bold.otf", "fonts-comic-neue 2.51-4", "OFL-1.1", "train"),
    ("Humor-Sans.ttf", "fonts-humor-sans 1.0-4", "OFL-1.1", "train"),
    ("lobster.otf", "fonts-lobster 2.0-2.1", "OFL-1.1", "train"),
    ("DancingScript-Bold.otf", "fonts-dancingscript 1.2-2", "OFL-1.1", "train"),
    ("LeckerliOne-Regular.ttf", "fonts-leckerli-one fonts/deb/fonts-leckerli-one", "OFL-1.1", "train"),
    ("allerta_stencil.otf", "fonts-allerta 2.01+dfsg1-4", "OFL-1.1", "train"),
    ("Comfortaa-Bold.ttf", "fonts-comfortaa 3.001-3", "OFL-1.1", "test"),
    ("YuseiMagic-Regular.ttf", "fonts-yusei-magic fonts/deb/fonts-yusei-magic", "OFL-1.1", "test")]
SIDE = 192                                                  # pixels of a photograph's side
PHOTOS = [  # file of scikit-image 0.26.0, left, top, side of the cut (which shows none of the kinds), licence, source
    ("astronaut.png", 0, 170, 340, "public domain", "NASA Great Images, https://flic.kr/p/r9qvLn"),
    ("chelsea.png", 0, 140, 160, "CC0-1.0", "Stefan van der Walt"),
    ("coffee.png", 0, 0, 230, "CC0-1.0", "Rachel Michetti, courtesy of Pikolo Espresso Bar"),
    ("coffee.png", 330, 130, 270, "CC0-1.0", "Rachel Michetti, courtesy of Pikolo Espresso Bar"),
    ("camera.png", 310, 90, 202, "CC0-1.0", "Lav Varshney"),
    ("rocket.jpg", 0, 207, 220, "public domain", "SpaceX, https://www.flickr.com/photos/spacexphotos/16511594820"),
    ("hubble_deep_field.jpg", 200, 200, 500, "public domain",
     "NASA, http://hubblesite.org/newscenter/archive/releases/2012/37/image/a/"),
    ("retina.jpg", 400, 400, 600, "CC0-1.0",
     "https://commons.wikimedia.org/wiki/File:Fundus_photograph_of_normal_left_eye.jpg"),
    ("grass.png", 0, 0, 384, "CC0-1.0", "linolafett, https://www.deviantart.com/linolafett/art/Grass-01-434853879"),
    ("gravel.png", 0, 0, 384, "CC0-1.0", "https://cc0textures.com/view.php?tex=Gravel04"),
    ("brick.png", 0, 0, 384, "CC0-1.0", "https://cc0textures.com/view.php?tex=Bricks25")]


def glyph(font, character, scale):
    """A character's cell (L) and the width of its ink, from the cell's left on; what is too large is squeezed"""
    left, top, right, bottom = font.getbbox(character, anchor="ls")
    drawn = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(drawn).text((-left, -top), character, 255, font, anchor="ls")
    width, height = (min(GLYPH, max(1, round(side / scale))) for side in drawn.size)
    filled = Image.new("L", (GLYPH, GLYPH))
    y = min(max(0, BASE + round(top / scale)), GLYPH - height)
    filled.paste(drawn.resize((width, height), Image.Resampling.LANCZOS), (0, y))
    return filled, width


def render_glyphs(fonts):
    """Write glyphs.webp, in which each font has two rows, and glyphs.json."""
    rows = -(-len(CHARACTERS) // GLYPH_COLUMNS)
    sheet, widths = Image.new("L", (GLYPH * GLYPH_COLUMNS, GLYPH * rows * len(FONTS))), []
    for n, (file, package, *_) in enumerate(FONTS):
        path = next((fonts / package.split()[0]).rglob(file))
        fine = ImageFont.truetype(path, 200, layout_engine=ImageFont.Layout.BASIC)
        heights = [bottom - top for _, top, _, bottom in (fine.getbbox(digit, anchor="ls") for digit in CHARACTERS[:10])]
        scale = np.median(heights) / DIGIT
        drawn = [glyph(fine, character, scale) for character in CHARACTERS]
        widths.append([width for _, width in drawn])
        for i, (one, _) in enumerate(drawn):
            sheet.paste(one, (i % GLYPH_COLUMNS * GLYPH, (n * rows + i // GLYPH_COLUMNS) * GLYPH))
    sheet.save(FOLDER / "glyphs.webp", lossless=True, method=6)
    entries = [{"name": Path(file).stem, "package": package, "licence": licence, "use": use}
               for file, package, licence, use in FONTS]
    write("glyphs", {"fonts": entries, "characters": CHARACTERS, "cell": GLYPH, "columns": GLYPH_COLUMNS,
                     "baseline": BASE, "widths": widths})


def render_photos(photos):
    """Write photos.webp, one row of squares, and photos.json."""
    sheet = Image.new("RGB", (SIDE * len(PHOTOS), SIDE))
    for i, (file, left, top, side, *_) in enumerate(PHOTOS):
        cut = Image.open(photos / file).convert("RGB").crop((left, top, left + side, top + side))
        sheet.paste(cut.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (i * SIDE, 0))
    sheet.save(FOLDER / "photos.webp", quality=80, method=6)
    write("photos", {"side": SIDE, "photos": [{"name": Path(file).stem, "licence": licence, "source": source}
                                              for file, *_, licence, source in PHOTOS]})


def write(name, data):
    """Write data as JSON whose innermost lists stand on one line each."""
    text = json.dumps(data, indent=1, ensure_ascii=False)
    text = re.sub(r"\[[^\[\]{}]*\]", lambda part: re.sub(r"\s*\n\s*", " ", part[0]), text)
    (FOLDER / f"{name}.json").write_text(text.replace("[ ", "[").replace(" ]", "]") + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    FOLDER.mkdir(exist_ok=True)
    render_hands(Path(sys.argv[1]))
    render_glyphs(Path(sys.argv[2]))
    render_photos(Path(sys.argv[3]))
