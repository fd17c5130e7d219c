"""Colours by name, each a range of hues, saturations and brightnesses, in integer arithmetic"""

RANGES = {                                                  # hue in degrees, saturation and brightness in per cent
    "red": ((350, 368), (72, 100), (60, 100)), "orange": ((24, 36), (80, 100), (88, 100)),
    "yellow": ((47, 62), (65, 100), (85, 100)), "green": ((90, 155), (50, 100), (40, 90)),
    "blue": ((205, 245), (60, 100), (45, 100)), "purple": ((270, 293), (50, 95), (40, 90)),
    "pink": ((315, 342), (30, 62), (90, 100)), "brown": ((18, 32), (55, 85), (30, 52)),
    "black": ((0, 359), (0, 20), (0, 15)), "white": ((0, 359), (0, 3), (95, 100)),
    "grey": ((0, 359), (0, 6), (40, 68))}
NAMES = tuple(RANGES)


def pick(name, dice):
    """(red, green, blue) of 0 ... 255, some colour of this name"""
    (h0, h1), (s0, s1), (v0, v1) = RANGES[name]
    return rgb(dice.between(h0, h1), dice.between(s0, s1), dice.between(v0, v1))


def rgb(hue, saturation, brightness):
    """The colour (red, green, blue) of 0 ... 255 of a hue in degrees, saturation and brightness in per cent"""
    high = brightness * 255 // 100
    low = high * (100 - saturation) // 100
    sector, part = divmod(hue % 360, 60)
    rising, falling = low + (high - low) * part // 60, high - (high - low) * part // 60
    return ((high, rising, low), (falling, high, low), (low, high, rising),
            (low, falling, high), (rising, low, high), (high, low, falling))[sector]


def brightness(colour):
    """0 ... 255 as the eye weighs red, green and blue"""
    red, green, blue = (int(c) for c in colour)
    return (299 * red + 587 * green + 114 * blue) // 1000


def apart(a, b):
    """How far two colours are apart: 0 ... 765, the sum over red, green and blue"""
    return sum(abs(int(x) - int(y)) for x, y in zip(a, b))
