"""The sheet of pictograms that scenes are painted with:      python -m tinycogvlm.world.atlas NotoColorEmoji.ttf

Rendered once from Noto Color Emoji (SIL Open Font License 1.1, see atlas.LICENSE.txt) and stored as atlas.png, so that
painting needs no font. Every pictogram fills the longer side of its cell; the cells are in the order of EMOJI.
"""
import sys
from pathlib import Path

EMOJI = {"dog": "🐶", "cat": "🐱", "fox": "🦊", "bear": "🐻", "lion": "🦁", "cow": "🐮", "pig": "🐷", "frog": "🐸",
         "monkey": "🐵", "chicken": "🐔", "penguin": "🐧", "owl": "🦉", "horse": "🐴", "bee": "🐝", "butterfly": "🦋",
         "fish": "🐟", "turtle": "🐢", "rabbit": "🐰", "apple": "🍎", "banana": "🍌", "lemon": "🍋", "strawberry": "🍓",
         "carrot": "🥕", "pizza": "🍕", "cake": "🎂", "mushroom": "🍄", "pear": "🍐", "donut": "🍩", "cheese": "🧀",
         "egg": "🍳", "tree": "🌳", "cactus": "🌵", "tulip": "🌷", "sunflower": "🌻", "car": "🚗", "bus": "🚌",
         "truck": "🚚", "boat": "⛵", "rocket": "🚀", "bicycle": "🚲", "tractor": "🚜", "helicopter": "🚁", "train": "🚂",
         "house": "🏠", "clock": "⏰", "key": "🔑", "book": "📕", "umbrella": "🌂", "guitar": "🎸", "drum": "🥁",
         "ball": "⚽", "balloon": "🎈", "bell": "🔔", "crown": "👑", "robot": "🤖", "gift": "🎁"}
CELL, COLUMNS = 96, 8                                       # pixels of a cell's side, cells in a row
PATH = Path(__file__).with_name("atlas.png")


def render(font_file):
    """The sheet as a Pillow image"""
    from PIL import Image, ImageDraw, ImageFont
    font = ImageFont.truetype(font_file, 109)               # the only size of the font's bitmaps
    sheet = Image.new("RGBA", (CELL * COLUMNS, CELL * -(-len(EMOJI) // COLUMNS)))
    for i, emoji in enumerate(EMOJI.values()):
        cell = Image.new("RGBA", (160, 160))
        ImageDraw.Draw(cell).text((8, 8), emoji, font=font, embedded_color=True)
        cell = cell.crop(cell.getchannel("A").point(lambda a: 255 * (a >= 128)).getbbox())
        scale = CELL / max(cell.size)
        cell = cell.resize([max(1, round(side * scale)) for side in cell.size], Image.Resampling.LANCZOS)
        x, y = i % COLUMNS * CELL, i // COLUMNS * CELL
        sheet.paste(cell, (x + (CELL - cell.width) // 2, y + (CELL - cell.height) // 2))
    return sheet


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    render(sys.argv[1]).save(PATH, optimize=True)
    print(f"{PATH}: {len(EMOJI)} pictograms, {PATH.stat().st_size // 1024} kB")
